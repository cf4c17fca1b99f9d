import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from memorycluster.local.errors import UserError
from memorycluster.local.layout import Layout
from memorycluster.local.state import (
    DataDirectory,
    ShardState,
    State,
    load_state,
    running_pid,
    write_durably,
)

HOLDER = """
import sys, time
from pathlib import Path
from memorycluster.local.layout import Layout
from memorycluster.local.state import DataDirectory

with DataDirectory(Layout(Path(sys.argv[1]))):
    print("locked", flush=True)
    time.sleep(600)
"""


def state() -> State:
    return State(
        cluster="demo",
        zones=["a"],
        shards=[ShardState()],
        nodes_per_shard=1,
        max_bytes=1,
        base_port=7000,
        ports={"x": 7000},
    )


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "data")


def test_a_new_directory_is_private_and_has_no_state(layout: Layout) -> None:
    with DataDirectory(layout) as directory:
        assert directory.load() is None
        assert layout.root.stat().st_mode & 0o777 == 0o700


def test_state_and_secrets_survive(layout: Layout) -> None:
    saved = state()
    with DataDirectory(layout) as directory:
        directory.save(saved)
        secrets = directory.secrets()
    with DataDirectory(layout) as directory:
        assert directory.load() == saved
        assert directory.secrets() == secrets
    assert layout.secrets.stat().st_mode & 0o777 == 0o600
    assert len(secrets.log_password.get_secret_value()) >= 32
    assert secrets.log_password != secrets.agent_password


def test_a_locked_directory_is_refused_and_says_by_whom(layout: Layout) -> None:
    with DataDirectory(layout), pytest.raises(UserError, match=rf"already running \(pid {os.getpid()}\)"):
        DataDirectory(layout).__enter__()


def test_the_lock_ends_with_its_holder(layout: Layout) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, layout.root], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert running_pid(layout) == holder.pid
        holder.kill()
        holder.wait()
    assert running_pid(layout) is None
    with DataDirectory(layout):
        assert running_pid(layout) == os.getpid()


def test_somebody_elses_directory_is_refused_and_left_alone(layout: Layout) -> None:
    layout.root.mkdir()
    (layout.root / "thesis.tex").write_text("42")
    with pytest.raises(
        UserError, match=r"not empty \(it holds thesis.tex\), and not a MemoryCluster data dir"
    ):
        DataDirectory(layout).__enter__()
    assert [each.name for each in layout.root.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_directory_is_refused(layout: Layout) -> None:
    layout.root.write_text("")
    with pytest.raises(UserError, match="can't be used as data directory: Not a directory"):
        DataDirectory(layout).__enter__()


def test_a_path_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path / ("x" * 100))
    with pytest.raises(UserError, match="too long for unix sockets"):
        DataDirectory(layout).__enter__()
    assert not layout.root.exists()


@pytest.mark.parametrize("extra", [{}, {"new": 1}])
def test_another_format_is_refused(layout: Layout, extra: dict[str, int]) -> None:
    layout.root.mkdir()
    layout.state.write_text(json.dumps(json.loads(state().model_dump_json()) | {"format": 2} | extra))
    with pytest.raises(UserError, match="a data directory of format 2; this memorycluster reads format 1"):
        load_state(layout)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"format": 1}'])
def test_a_damaged_state_is_refused(layout: Layout, text: str) -> None:
    layout.root.mkdir()
    layout.state.write_text(text)
    with pytest.raises(UserError, match="damaged"):
        load_state(layout)
    assert layout.state.read_text() == text


def test_a_generation_is_drawn_for_every_shard() -> None:
    assert ShardState().generation != ShardState().generation


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_durably(path, "old")

    def no_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_disk)
    with pytest.raises(OSError, match="No space left"):
        write_durably(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_is_on_disk_before_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.exists()))
    write_durably(path, "text")
    assert synced == [False, True], "the file is synced before it gets its name, its directory after"
