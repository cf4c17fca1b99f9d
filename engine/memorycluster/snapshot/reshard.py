"""States of shards taken apart by slots, and put together for other shards.

Engines do it, each by itself and without clients: one loads a shard's state, drops the slots that are not
wanted, and saves. Files of different slots are joined by loading them one after the other. What the parts'
keys come to is added up: every part is in one of the new shards, and nothing else is.
"""

from __future__ import annotations

import asyncio
import io
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from memorycluster.api.topology import SLOTS
from memorycluster.log.chain import Position
from memorycluster.snapshot.bootstrap import EMPTY_RDB, Start
from memorycluster.snapshot.engine import Engine, Part, functions_digest
from memorycluster.snapshot.maker import Made, NotVerified, Progress, Report

Slots = Sequence[tuple[int, int]]
"""Ranges of slots, first and last included."""

MAGIC = 9
"""Bytes of the head of an RDB file: its magic and version."""

TAIL = 9
"""Bytes of its end: the opcode, and a checksum; without one it is zero."""

COPY = 1 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """The keys of one shard's state that go to one new shard."""

    file: Path
    part: Part


def common(one: Slots, other: Slots) -> list[tuple[int, int]]:
    """Return the slots that are in both."""
    both = [(max(a, c), min(b, d)) for a, b in one for c, d in other]
    return sorted((first, last) for first, last in both if first <= last)


def others(slots: Slots) -> list[tuple[int, int]]:
    """Return the slots that are not in ``slots``."""
    ranges = sorted(slots)
    starts = [0, *(last + 1 for _, last in ranges)]
    ends = [*(first - 1 for first, _ in ranges), SLOTS - 1]
    return [(first, last) for first, last in zip(starts, ends, strict=True) if first <= last]


def complete(shards: Sequence[Slots]) -> bool:
    """Say whether every slot is in just one of ``shards``."""
    ranges = sorted(each for slots in shards for each in slots)
    ends = [-1, *(last for _, last in ranges)]
    return ends[-1] == SLOTS - 1 and all(
        first == before + 1 for (first, _), before in zip(ranges, ends, strict=False)
    )


def latest(times: Sequence[datetime | None]) -> datetime | None:
    """Return the moment of what is made of states of these moments; None: not known."""
    known = [each for each in times if each is not None]
    return max(known, default=None) if len(known) == len(times) else None


class Splitter:
    """Takes shards' states apart."""

    def __init__(
        self,
        targets: Sequence[Slots],
        *,
        programs: Path,
        directory: Path,
        rest: Slots = (),
        report: Report = lambda _: None,
    ) -> None:
        """Prepare to take shards' states apart.

        :param targets: the slots of the new shards. :param directory: gets as much as they hold.
        :param rest: slots of others, which somebody else makes: their keys are only added up.
        """
        self.pieces: list[list[Piece]] = [[] for _ in targets]
        """Of each new shard."""
        self.libraries: dict[str, bytes] = {}
        """Function libraries of all shards: they belong to every one."""
        self._targets = targets
        self._rest = rest
        self._known = {functions_digest({})}
        self._programs = programs
        self._directory = directory
        self._report = report
        self._saved = 0

    async def split(self, made: Made, slots: Slots) -> None:
        """Take the state of a shard that has ``slots`` apart; its file is deleted.

        :raises NotVerified: it has keys in other slots, or other functions than another shard.
        :raises EngineFailed, OSError:
        """
        parts = []
        for index, target in enumerate(self._targets):
            if kept := common(slots, target):
                piece = await self._piece(made, kept)
                self.pieces[index].append(piece)
                parts.append(piece.part)
        if parts:
            if kept := common(slots, self._rest):
                async with self._loaded(made) as engine:
                    await engine.keep(kept)
                    parts.append(await engine.part())
            _assert_same(f"shard with the slots {slots}", Part.sum(parts), made)
        elif self.wants(slots, made.contents.functions):
            async with self._loaded(made):
                pass  # for its functions
        made.file.unlink()

    def wants(self, slots: Slots, functions: str) -> bool:
        """Say whether there is a use for the state of a shard that has ``slots``.

        ``functions`` is the digest of its libraries: they are needed, if they are not known yet.
        """
        return functions not in self._known or any(common(slots, target) for target in self._targets)

    async def _piece(self, made: Made, slots: Slots) -> Piece:
        saved = self._directory / f"piece-{slots[0][0]}.rdb"
        before = self._saved

        def wrote(size: int) -> None:
            self._saved = before + size
            self._report(Progress("split", self._saved, 0))

        async with self._loaded(made) as engine:
            await engine.keep(slots)
            (await engine.save(wrote)).replace(saved)
            wrote(saved.stat().st_size)
            return Piece(saved, await engine.part())

    @asynccontextmanager
    async def _loaded(self, made: Made) -> AsyncIterator[Engine]:
        """Have an engine load a state, whose functions are kept."""
        home = self._directory / "engine"
        home.mkdir(mode=0o700)
        with made.file.open("rb") as file:
            async with Engine(self._programs, home) as engine:
                await engine.start(Start(made.position, file, made.file.stat().st_size))
                self._add(await engine.libraries())
                yield engine
        shutil.rmtree(home)

    def _add(self, libraries: Mapping[str, bytes]) -> None:
        self._known.add(functions_digest(libraries))
        for name, code in libraries.items():
            if self.libraries.setdefault(name, code) != code:
                raise NotVerified(
                    f"its shards have different function libraries called {name}: load the same one into "
                    "all of them, and take another snapshot"
                )


async def join(
    pieces: Sequence[Piece],
    libraries: Mapping[str, bytes],
    position: Position,
    *,
    programs: Path,
    directory: Path,
    report: Report = lambda _: None,
) -> Made:
    """Put ``pieces`` together, in the empty ``directory``, as a state at ``position``; delete their files.

    :raises NotVerified: it is not what they are. :raises EngineFailed, OSError:
    """
    files = [piece.file for piece in pieces]
    if libraries:
        files.insert(0, await _functions(libraries, position, programs, directory / "functions"))
    joined = directory / "joined.rdb"
    await asyncio.to_thread(concatenate, files, joined)
    size = joined.stat().st_size
    home = directory / "engine"
    home.mkdir(mode=0o700)
    report(Progress("join", 0, size))
    with joined.open("rb") as file:
        async with Engine(programs, home) as engine:
            await engine.start(Start(position, file, size))
            joined.unlink()
            report(Progress("join", size, size))
            saved = await engine.save(lambda size: report(Progress("save", size, 0)))
            contents = await engine.contents()
            version = await engine.version()
    made = Made(position, None, saved, contents, version)
    _assert_same("new shard", Part.sum(piece.part for piece in pieces), made)
    if contents.functions != functions_digest(libraries):
        raise NotVerified("the new shard has not the functions of those that it is made of")
    return made


async def _functions(libraries: Mapping[str, bytes], position: Position, programs: Path, home: Path) -> Path:
    """Return a file of nothing but functions."""
    home.mkdir(mode=0o700)  # noqa: ASYNC240 (never blocks for long)
    async with Engine(programs, home) as engine:
        await engine.start(Start(position, io.BytesIO(EMPTY_RDB), len(EMPTY_RDB)))
        await engine.load_functions(libraries.values())
        return await engine.save()


def concatenate(files: Sequence[Path], joined: Path) -> None:
    """Write what is in all of ``files``, which are RDB files of one version, as one of them, and delete them.

    :raises NotVerified: they are not. :raises OSError:
    """
    head = b""
    with joined.open("xb") as to:
        for path in files:
            with path.open("rb") as file:
                magic = file.read(MAGIC)
                file.seek(-TAIL, 2)
                left, last = file.tell() - MAGIC, file.read(1)
                if last != b"\xff" or head not in (b"", magic):
                    raise NotVerified(f"{path.name} is not an RDB file like the others")
                if not head:
                    to.write(magic)
                head = magic
                file.seek(MAGIC)
                while left > 0:
                    chunk = file.read(min(left, COPY))
                    to.write(chunk)
                    left -= len(chunk)
            path.unlink()
        to.write(b"\xff" + bytes(TAIL - 1))


def _assert_same(what: str, part: Part, made: Made) -> None:
    wanted, found = (part.digest, part.keys, part.expires), made.contents[:3]
    if wanted != found:
        raise NotVerified(f"{what}: it is {found}, its parts come to {wanted}")
