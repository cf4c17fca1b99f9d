"""Who reads a log from outside keeps it from being trimmed, for as long as he lives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from memorycluster.local.holds import held, holding
from memorycluster.local.layout import Layout

HOLD = """
import sys
from pathlib import Path
from memorycluster.local.holds import holding
from memorycluster.local.layout import Layout
with holding(Layout(Path(sys.argv[1])), 3):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_hold_holds_its_shard_until_it_ends(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert not held(layout, 3)
    with holding(layout, 3):
        assert held(layout, 3)
        assert not held(layout, 1)
    assert not held(layout, 3)
    assert os.listdir(layout.holds) == []  # noqa: PTH208


def test_a_hold_of_a_killed_process_is_none(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == b"held\n"
    assert held(layout, 3)
    process.kill()
    process.wait()
    assert list(layout.holds.iterdir())
    assert not held(layout, 3)
    assert not list(layout.holds.iterdir())
