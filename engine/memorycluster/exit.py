"""The end of a process that has used an object store.

obstore's threads know nothing of the interpreter's end: one that wakes up during it aborts the process, and
what succeeded says that it failed (PyO3/pyo3-async-runtimes#40, and about one in fifty of our Jobs on a busy
machine). So such a process ends without that: nothing of ours is left to be done in it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

FAILED = 1
UNWRITTEN = 120
"""What Python itself ends with if its last output can't be written."""


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run ``main``, write what is still buffered, and end the process with the status that it returns."""
    try:
        status = main()
    except SystemExit as asked:
        status = asked.code if isinstance(asked.code, int) else FAILED if asked.code else 0
        if isinstance(asked.code, str):
            print(asked.code, file=sys.stderr)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        status = status or UNWRITTEN
    os._exit(status)
