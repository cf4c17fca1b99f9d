"""The power of all three servers is cut at once: what was acknowledged is on the disk.

The servers' file system is on a loop device. At some moment, all servers are frozen and the blocks of the
device are copied: what was not synced is in the kernel's memory, and not in the copy. From that they boot.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.log.conftest import shard_of
from tests.log.contract import message, read_to_end
from tests.log.servers import Service

from memorycluster.log.server import find_server

CUTS = 1
SIZE = 768 << 20


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr.strip()}")


class Disk:
    """A file system on a loop device, whose power can be cut."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._generation = 0
        self.mounted = folder / "disk"
        self.mounted.mkdir()

    @property
    def _image(self) -> Path:
        return self._folder / f"image-{self._generation}"

    def make(self) -> None:
        with self._image.open("wb") as file:
            file.truncate(SIZE)
        run("mkfs.ext4", "-q", "-F", self._image)
        run("mount", "-o", "loop", self._image, self.mounted)

    def copy(self) -> None:
        """Copy what is on the device now."""
        run("cp", "--sparse=always", self._image, self._folder / f"image-{self._generation + 1}")

    def swap(self) -> None:
        """Go on with the copy."""
        self.unmount()
        self._image.unlink()
        self._generation += 1
        run("mount", "-o", "loop", self._image, self.mounted)

    def unmount(self) -> None:
        run("umount", self.mounted)


@pytest.fixture
def disk() -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a loop device")
    folder = Path(tempfile.mkdtemp(prefix="mcp-", dir="/tmp"))
    try:
        disk = Disk(folder)
        try:
            disk.make()
        except OSError as error:
            pytest.skip(f"no loop devices here: {error}")
        yield disk
        disk.unmount()
    finally:
        shutil.rmtree(folder)


def test_what_is_not_synced_is_lost(disk: Disk) -> None:
    """The method does show a loss, where there is one."""
    synced, unsynced = disk.mounted / "synced", disk.mounted / "unsynced"
    for path in (synced, unsynced):
        with path.open("wb") as file:
            file.write(b"x" * 100_000)
            if path is synced:
                file.flush()
                os.fsync(file.fileno())
                folder = os.open(disk.mounted, os.O_RDONLY)
                os.fsync(folder)
                os.close(folder)
    disk.copy()
    disk.swap()
    assert synced.read_bytes() == b"x" * 100_000
    assert not unsynced.exists() or unsynced.read_bytes() != b"x" * 100_000


async def test_what_was_acknowledged_survives(disk: Disk) -> None:
    service = Service(3, disk.mounted, await find_server())
    service.start()
    try:
        await service.ready()
        async with shard_of(service) as shard:
            writer = await shard.client()
            acked: dict[int, bytes] = {}

            async def write() -> None:
                sequence = await writer.end()
                while True:
                    sequence += 1
                    data = message(sequence, 2000 if sequence % 50 else 200_000)
                    await writer.append(data, sequence=sequence)
                    acked[sequence] = data

            for cut in range(CUTS):
                enough = len(acked) + 500 + 100 * cut
                task = asyncio.create_task(write())
                async with asyncio.timeout(60):
                    while len(acked) < enough:
                        await asyncio.sleep(0.005)
                service.freeze(*service.names)
                promised = dict(acked)
                await asyncio.to_thread(disk.copy)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                service.thaw()
                await service.kill()
                await asyncio.to_thread(disk.swap)
                service.start()
                await service.ready()
                held = await read_to_end(await shard.client())
                assert [sequence for sequence, data in promised.items() if held.get(sequence) != data] == []
                acked = {sequence: data for sequence, data in held.items() if sequence > 1}
    finally:
        await service.close()
