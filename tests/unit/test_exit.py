"""A process that has used an object store ends as its ``main`` says, and without the interpreter's end."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from memorycluster.exit import FAILED, UNWRITTEN

ABORTS = "import atexit, os, sys; atexit.register(os.abort); from memorycluster.exit import exit_with; "


def end(code: str, output: str | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a program that would be aborted in the interpreter's end."""
    shell = f'"$0" -c "$1" > {output}' if output else '"$0" -c "$1"'
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        ["sh", "-c", shell, sys.executable, ABORTS + code], capture_output=True, check=False, env=buffered
    )


@pytest.mark.parametrize("status", [0, 3])
def test_its_status_is_what_main_returns_and_all_is_written(status: int) -> None:
    done = end(f"exit_with(lambda: print('x' * 100_000) or {status})")
    assert (done.returncode, len(done.stdout)) == (status, 100_001)


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [("4", 4, b""), ("", 0, b""), ("None", 0, b""), ("'no such file'", FAILED, b"no such")],
)
def test_an_exit_from_within_is_the_same(code: str, status: int, said: bytes) -> None:
    done = end(f"exit_with(lambda: sys.exit({code}))")
    assert done.returncode == status
    assert done.stderr.startswith(said)


def test_what_can_not_be_written_is_a_failure() -> None:
    assert end("exit_with(lambda: print('x') or 0)", output="/dev/full").returncode == UNWRITTEN
