"""The build: what it needs, what it refuses, what its programs can do."""

from __future__ import annotations

import asyncio
import subprocess
import tarfile
from pathlib import Path

import pytest
from tests.engine.agent import PASSWORD, engines, free_ports

from memorycluster.valkey import build as build_module
from memorycluster.valkey.build import (
    BuildError,
    Source,
    Variant,
    build,
    built_directory,
    check_tools,
    tree_digest,
)
from memorycluster.valkey.config import FixedParameter, nodes_conf, quoted, valkey_conf


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="apt-get install gcc make patch"):
        check_tools()


async def test_a_source_that_is_not_the_pinned_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "valkey" / "src"
    other.mkdir(parents=True)
    (other / "server.c").write_text("int main(void) { return 0; }\n")
    archive = tmp_path / "v.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(other.parent, "valkey")
    monkeypatch.setenv("MEMORYCLUSTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MEMORYCLUSTER_VALKEY_SOURCE", str(archive))
    with pytest.raises(BuildError, match="MEMORYCLUSTER_VALKEY_SOURCE is not the source of Valkey 9"):
        await build(print)
    assert not built_directory(Variant.DURABLE).exists()


def test_an_archive_that_reaches_outside_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    archive = tmp_path / "v.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(file, "../outside")
    problems: list[str] = []
    assert not build_module._extract(archive, tmp_path / "in" / "tree", Source("9", "", ()), problems)
    assert "unexpected member" in problems[0]
    assert not (tmp_path / "outside").exists()


def test_the_digest_sees_names_contents_and_modes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    seen = {tree_digest(tmp_path)}
    (tmp_path / "a").chmod(0o755)
    seen.add(tree_digest(tmp_path))
    (tmp_path / "a").write_text("2")
    seen.add(tree_digest(tmp_path))
    (tmp_path / "a").rename(tmp_path / "b")
    seen.add(tree_digest(tmp_path))
    assert len(seen) == 4


async def test_a_build_is_found_in_the_cache(programs: Path) -> None:
    lines: list[str] = []
    if built_directory(Variant.DURABLE).is_dir():
        assert await build(lines.append) == built_directory(Variant.DURABLE)
        assert lines == []
    assert {file.name for file in programs.iterdir()} >= set(build_module.PROGRAMS)


def test_quoting_survives_the_engine() -> None:
    assert quoted('a "b" \\ \n') == '"a \\"b\\" \\\\ \\n"'


async def test_parameters_that_durability_stands_on_are_refused(programs: Path) -> None:
    async with engines(programs) as ((engine,),):
        for name in ("save", "APPENDONLY", "txlog-enabled", "bind", "user", "include", "cluster-enabled"):
            with pytest.raises(FixedParameter, match="can't be chosen"):
                valkey_conf(
                    node=engine.node,
                    directory=engine.directory,
                    engine_socket=engine.socket,
                    follow_port=1,
                    agent_password=PASSWORD,
                    parameters={name: "x"},
                )
        await engine.start(maxmemory_policy="allkeys-lru")
        assert engine.process
        command = Path(f"/proc/{engine.process.pid}/cmdline").read_bytes()
        assert str(engine.directory).encode() in command, "its data directory is on its command line"
        assert (await engine.call("CONFIG GET maxmemory-policy"))[1] == b"allkeys-lru"
        conf = (engine.directory / "valkey.conf").read_text()
        assert "user txlog-agent on #" in conf
        assert nodes_conf(engine.node, engine.topology).count("myself") == 1


async def test_an_engine_without_an_agent_port_does_not_start(programs: Path, tmp_path: Path) -> None:
    arguments = ["--port", "0", "--unixsocket", "s", "--txlog-enabled", "yes", "--dir", str(tmp_path)]
    process = await asyncio.create_subprocess_exec(
        str(programs / "valkey-server"), *arguments, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 1
    assert b"txlog-follow-port" in output


async def test_tls(programs: Path, tmp_path: Path) -> None:
    """A handshake, and a held reply over it."""
    key, crt = tmp_path / "key", tmp_path / "crt"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=t",
            "-keyout",
            key,
            "-out",
            crt,
        ],
        check=True,
        capture_output=True,
    )
    (port,) = free_ports(40)[-1:]
    tls = {
        "tls_port": str(port),
        "tls_cert_file": str(crt),
        "tls_key_file": str(key),
        "tls_ca_cert_file": str(crt),
    }
    async with engines(programs) as ((engine,),):
        await engine.start(**tls, tls_auth_clients="no")
        await engine.lead()
        command = [str(programs / "valkey-cli"), "--tls", "--cacert", str(crt), "-p", str(port)]
        engine.freeze = True
        process = await asyncio.create_subprocess_exec(*command, "SET", "k", "v", stdout=subprocess.PIPE)
        await engine.held(1)
        assert process.returncode is None
        await engine.thaw()
        output, _ = await process.communicate()
        assert output == b"OK\n"


@pytest.mark.parametrize("delay", ["0", "2"])
async def test_autoack_needs_no_agent(programs: Path, tmp_path: Path, delay: str) -> None:
    """What Valkey's own suite runs on: holding is on, everything commits, nobody is refused anything."""
    (port,) = free_ports(60)[-1:]
    arguments = [
        "--port",
        str(port),
        "--txlog-enabled",
        "yes",
        "--txlog-autoack",
        "yes",
        "--dir",
        str(tmp_path),
    ]
    process = await asyncio.create_subprocess_exec(
        str(programs / "valkey-server"),
        *arguments,
        *("--save", "", "--txlog-autoack-delay", delay),
        stdout=subprocess.DEVNULL,
    )
    try:
        cli = [str(programs / "valkey-cli"), "-p", str(port)]
        for _ in range(100):
            ping = subprocess.run([*cli, "PING"], capture_output=True, check=False)
            if ping.stdout == b"PONG\n":
                break
            await asyncio.sleep(0.05)
        script = b"SET k v\nGET k\nREPLICAOF NO ONE\nDBSIZE\nCONFIG SET save ''\n"
        result = subprocess.run(cli, input=script, capture_output=True, check=True)
        assert result.stdout.split(b"\n")[:2] == [b"OK", b"v"]
        assert b"NOPERM" not in result.stdout
    finally:
        process.kill()
        await process.wait()
