import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from memorycluster.cli import find, main
from memorycluster.local.layout import Layout
from memorycluster.local.ports import free_base
from memorycluster.local.state import DataDirectory, ShardState, State

MANIFEST = "apiVersion: memorycluster.io/v1alpha1\nkind: MemoryCluster\nmetadata: {name: demo}\n"


class Command:
    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capfd = capfd
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Return exit status, stdout and stderr of `memorycluster ARGUMENTS`."""
        self._monkeypatch.setattr(sys, "argv", ["memorycluster", *map(str, arguments)])
        try:
            exit_status = main.main()
        except SystemExit as ended:
            exit_status = ended.code if isinstance(ended.code, int) else 1
        out, errors = self._capfd.readouterr()
        return exit_status, out, errors


@pytest.fixture
def home() -> Iterator[Path]:
    """Where data directories are by default; its path is short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="mc") as name:
        yield Path(name)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path) -> Command:
    monkeypatch.setenv("XDG_DATA_HOME", str(home))
    monkeypatch.delenv("MEMORYCLUSTER_DATA_DIR", raising=False)
    return Command(capfd, monkeypatch)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "demo.yaml"
    path.write_text(MANIFEST)
    return path


def make(root: Path, name: str = "demo") -> Layout:
    with DataDirectory(Layout(root)) as directory:
        ports = {f"{name}-0-0/{each}": 23990 for each in ("clients", "bus", "follow")}
        shards = [ShardState()]
        directory.save(
            State(
                cluster=name,
                zones=["a"],
                shards=shards,
                nodes_per_shard=1,
                max_bytes=4 << 30,
                base_port=23990,
                ports=ports,
            )
        )
        return directory.layout


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "error: {path}: no such file"),
        (MANIFEST + "spec: {shard: 1}", "error: {path}: spec.shard: unknown field; remove it"),
        (
            MANIFEST + "spec: {shards: many}",
            "error: {path}: spec.shards: expected an integer, found a string",
        ),
        (MANIFEST + "spec: {zones: [a, b]}", "error: {path}: spec.zones: 2 zones; name 1 or 3"),
    ],
)
def test_a_bad_manifest_is_one_line_and_exit_status_2(
    command: Command, home: Path, tmp_path: Path, text: str | None, line: str
) -> None:
    path = tmp_path / "bad.yaml"
    if text is not None:
        path.write_text(text)
    exit_status, out, errors = command("run", path)
    assert (exit_status, out) == (2, "")
    assert errors.startswith(line.format(path=path))
    assert errors.count("\n") == 1
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("detach", [[], ["--detach"]])
def test_a_port_in_use_is_one_line_and_nothing_is_written(
    command: Command, manifest: Path, tmp_path: Path, detach: list[str]
) -> None:
    base = free_base(60)  # Not among the ports that the kernel gives to connections.
    port = base + 2
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        root = tmp_path / "data"
        exit_status, _, errors = command("run", manifest, "--data-dir", root, "--base-port", base, *detach)
    assert exit_status == 2
    assert errors.startswith(f"error: port {port} (clients of demo-0-2) is in use")
    assert errors.count("\n") == 1
    assert not Layout(root).state.exists()


@pytest.mark.parametrize("detach", [[], ["--detach"]])
def test_another_clusters_directory_is_refused_and_left_alone(
    command: Command, manifest: Path, tmp_path: Path, detach: list[str]
) -> None:
    layout = make(tmp_path / "data", "other")
    before = layout.state.read_bytes()
    exit_status, _, errors = command("run", manifest, "--data-dir", layout.root, *detach)
    assert exit_status == 2
    assert errors == f"error: {layout.root}: holds the cluster other, not demo; choose another --data-dir\n"
    assert layout.state.read_bytes() == before


def test_a_second_run_is_refused(command: Command, manifest: Path, tmp_path: Path) -> None:
    with DataDirectory(Layout(tmp_path / "data")):
        exit_status, _, errors = command("run", manifest, "--data-dir", tmp_path / "data")
    assert exit_status == 2
    assert "already running (pid " in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "Missing argument"),
        (["run", "x.yaml", "--zones", "2"], "x.yaml: no such file"),
        (["bogus"], "No such command"),
        (["status", "-o", "yaml"], "'table', 'json'"),
        (["failover"], "Missing argument"),
        (["failover", "one"], "SHARD"),
    ],
)
def test_misuse_is_exit_status_2(command: Command, arguments: list[str], words: str) -> None:
    exit_status, _, errors = command(*arguments)
    assert exit_status == 2
    assert words in " ".join(errors.split())
    assert "Traceback" not in errors


def test_zones_are_1_or_3(command: Command, manifest: Path) -> None:
    assert command("run", manifest, "--zones", "2") == (2, "", "error: --zones 2: use 1 or 3\n")


def test_without_a_cluster_commands_say_so(command: Command, home: Path, tmp_path: Path) -> None:
    for name in ("status", "stop"):
        exit_status, _, errors = command(name)
        assert exit_status == 2
        assert errors.startswith(f"error: no cluster in {home}/memorycluster; name its directory")
        exit_status, _, errors = command(name, "--data-dir", tmp_path)
        assert exit_status == 2
        assert errors.startswith(f"error: {tmp_path}: no cluster there")


def test_the_only_cluster_is_found_and_of_many_one_must_be_named(command: Command, home: Path) -> None:
    assert find.data_home() == home / "memorycluster"
    home /= "memorycluster"
    first = make(home / "first", "first")
    assert find.find_cluster(None)[0] == first
    second = make(home / "second", "second")
    exit_status, _, errors = command("stop")
    assert exit_status == 2
    assert errors == f"error: which cluster? Choose with --data-dir: {first.root}, {second.root}\n"
    with DataDirectory(second):
        assert find.find_cluster(None)[0] == second
    assert find.find_cluster(first.root)[0] == first


def test_stopping_what_does_not_run_is_no_error(command: Command, tmp_path: Path) -> None:
    make(tmp_path / "data")
    assert command("stop", "--data-dir", tmp_path / "data") == (0, "demo is not running\n", "")


def test_failover_needs_a_shard_a_node_and_a_primary(command: Command, tmp_path: Path) -> None:
    root = make(tmp_path / "data").root
    asked = ("failover", "--data-dir", root)
    assert command(*asked, 1) == (2, "", "error: SHARD: there is no shard 1; the last one is 0\n")
    assert (
        command(*asked, 0, "--to", "x")[2]
        == "error: --to: there is no node x in shard 0; there are demo-0-0\n"
    )
    exit_status, _, errors = command(*asked, 0)
    assert exit_status == 1
    assert errors.startswith("error: shard 0 has no primary that could give way")
