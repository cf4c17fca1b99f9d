"""A real S3 server for tests: versitygw on loopback, over a directory. It is built once, into the cache."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.log.servers import free_ports

VERSION = "v1.8.0"
MODULE = f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"
ACCESS, SECRET = "maker", "s3-secret-of-the-test"


@dataclass
class S3:
    """The server, and where it keeps its buckets."""

    endpoint: str
    root: Path
    process: subprocess.Popen[bytes]


def program() -> Path:
    cache = Path(os.environ.get("MEMORYCLUSTER_CACHE", "~/.cache/memorycluster")).expanduser()
    directory = cache / f"versitygw-{VERSION}"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "versitygw").exists():
            env = os.environ | {"GOBIN": str(directory), "GOFLAGS": "-mod=mod"}
            subprocess.run(["go", "install", MODULE], check=True, cwd=directory, env=env)
    return directory / "versitygw"


@contextmanager
def running() -> Iterator[S3]:
    """Run a server with the bucket ``snapshots``."""
    root = Path(tempfile.mkdtemp(prefix="mcs3"))
    (root / "data" / "snapshots").mkdir(parents=True)
    (root / "meta").mkdir()
    (port,) = free_ports(1)
    with (root / "output").open("wb") as output:
        process = subprocess.Popen(
            [
                program(),
                "--access",
                ACCESS,
                "--secret",
                SECRET,
                "--port",
                f"127.0.0.1:{port}",
                "--quiet",
                "posix",
                "--sidecar",
                root / "meta",
                root / "data",
            ],
            stdout=output,
            stderr=output,
        )
    try:
        asyncio.run(_answers(port, process))
        yield S3(f"http://127.0.0.1:{port}", root / "data" / "snapshots", process)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(root, ignore_errors=True)


async def _answers(port: int, process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(30):
        while True:
            assert process.poll() is None, "the S3 server has ended"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
