"""A short-lived engine without clients: it is fed a snapshot and the log, saves, and tells its data's digest.

It is a stock replica of a primary that is us, in cluster mode as a follower is: it does what a follower would
with every command, and expires nothing by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import hiredis

from memorycluster.api.topology import SLOTS
from memorycluster.log.record import replication_id
from memorycluster.process import dying_with_parent, last_line
from memorycluster.snapshot.bootstrap import Start
from memorycluster.valkey.config import quoted
from memorycluster.valkey.primary import Link

SAVED = "saved.rdb"
"""What the engine saves, in its directory."""

SOCKET = "engine.sock"

NODES = "nodes.conf"

STARTED_WITHIN = 30.0
"""Seconds for an engine to answer."""

LOOK_EVERY = 0.05
"""Seconds between two questions for how far it is."""

DATABASES = 1 << 10
"""More than any cluster has, which may not set ``cluster-databases``. It is not free: whoever takes over or
flushes a slot looks for it in each of them. With 65,536 that took up to 2 s of CPU time without any data."""


LEFT_OUT = """
local found = redis.call('SCAN', ARGV[1], 'COUNT', 1000)
local told = {}
local function tell(...)
  local parts = {...}
  for i, part in ipairs(parts) do parts[i] = #part .. ':' .. part end
  told[#told + 1] = redis.sha1hex(ARGV[2] .. ' ' .. table.concat(parts, ' '))
end
for _, key in ipairs(found[2]) do
  local expires = redis.call('PEXPIRETIME', key)
  if expires ~= -1 then tell(key, 'expires', string.format('%.0f', expires)) end
  local kind = redis.call('TYPE', key).ok
  if kind == 'stream' then
    tell(key, kind, redis.call('DUMP', key))
  elseif kind == 'hash' and ARGV[3] ~= '0' and redis.call('OBJECT', 'ENCODING', key) == 'hashtable' then
    for _, field in ipairs(redis.call('HKEYS', key)) do
      expires = redis.call('HPEXPIRETIME', key, 'FIELDS', 1, field)[1]
      if expires ~= -1 then tell(key, kind, field, string.format('%.0f', expires)) end
    end
  end
end
return {found[1], told}
"""
"""Script that goes on with a scan, of the database of that number, and returns the digests of what Valkey's
leaves out: when keys and fields expire, and all of a stream that is not its entries."""


class EngineFailed(Exception):
    """The short-lived engine ended, refused, or has what it should not have."""


class Contents(NamedTuple):
    """What is compared of two engines' data."""

    digest: str
    """Of all keys, values and expiries: what the engine says, and mixed into it what that leaves out."""
    keys: int
    expires: int
    functions: str
    """SHA-256 of the function libraries."""


@dataclass(frozen=True, slots=True)
class Part:
    """What some of a data set's keys come to: parts without common keys add up to the whole's digest."""

    databases: Mapping[int, int]
    """For each database that has keys: the exclusive or of their digests."""
    left_out: int
    """The digest of what Valkey's leaves out."""
    keys: int
    expires: int

    @classmethod
    def sum(cls, parts: Iterable[Part]) -> Part:
        """Return what ``parts`` come to together."""
        databases: dict[int, int] = {}
        left_out = keys = expires = 0
        for part in parts:
            for database, digest in part.databases.items():
                databases[database] = databases.get(database, 0) ^ digest
            left_out ^= part.left_out
            keys += part.keys
            expires += part.expires
        return cls(databases, left_out, keys, expires)

    @property
    def digest(self) -> str:
        """What ``Contents.digest`` is of an engine that has just these keys."""
        digest = 0
        for database in sorted(self.databases):
            digest = _mixed(digest, database) ^ self.databases[database]
        return f"{digest ^ self.left_out:040x}"


class Engine:
    """One short-lived engine. Use as an async context manager: at its end the process is gone."""

    def __init__(self, programs: Path, directory: Path, *, parameters: dict[str, str] | None = None) -> None:
        """``directory`` is the engine's own, and empty."""
        self._programs = programs
        self._directory = directory
        self._parameters = parameters or {}
        self._user, self._password = "maker", secrets.token_urlsafe(24)
        self._at = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._socket = f"/proc/self/fd/{self._at}/{SOCKET}"
        self._process: asyncio.subprocess.Process | None = None
        self._server: asyncio.Server | None = None
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._replies = hiredis.Reader(notEnoughData=Ellipsis)
        self._start: Start | None = None
        self._errors_before = 0
        self._leads = False
        self._link: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        self._given = asyncio.Event()
        self._sessions: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        os.close(self._at)
        if self._connection:
            self._connection[1].close()
        if self._server:
            self._server.close()
        for session in self._sessions:
            session.cancel()
        if self._link.done() and not self._link.cancelled():
            self._link.exception()
        self._link.cancel()

    @property
    def saved(self) -> Path:
        """The file that ``save`` writes."""
        return self._directory / SAVED

    async def start(self, start: Start) -> Link:
        """Start it and give it ``start``; return the link by which it is fed what follows.

        :raises EngineFailed:
        """
        self._start = start
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        conf = self._directory / "valkey.conf"
        conf.touch(mode=0o600)
        conf.write_text(self._conf(port))
        (self._directory / NODES).write_text(_nodes_conf(port))
        output = os.open(self._output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *dying_with_parent(["nice", "-n", "10", str(self._programs / "valkey-server"), str(conf)]),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,  # Ctrl-C is not for it; in our session, as what that yields it yields, too
                cwd=self._directory,
            )
        finally:
            os.close(output)
        await self._connect()
        await self._or_dead(asyncio.shield(self._link))
        await self._or_dead(self._given.wait())
        link = self._link.result()
        await self.reached(start.position.unit_end)
        self._errors_before = await self._error_replies()
        return link

    async def refused(self) -> str:
        """Return which commands that it was fed it answered with an error; empty: none.

        What a primary has executed never errs in what follows it: if it does, their data differs.
        """
        errors = await self._error_replies() - self._errors_before
        if not errors:
            return ""
        seen = {name.removeprefix("errorstat_") for name in await self._info("errorstats")}
        kinds = ", ".join(sorted(seen - {"LOADING"}))
        return f"{errors} commands of the log failed ({kinds}): {last_line(self._output)}"

    async def reached(self, offset: int) -> None:
        """Return once it has applied exactly ``offset``.

        :raises EngineFailed: it has not, or went beyond.
        """
        while True:
            try:
                info = await self._info("replication")
            except EngineFailed as error:
                if "LOADING" not in str(error):
                    raise
                info = {}
            applied = int(info.get("slave_repl_offset", -1))
            if info.get("master_link_status") == "up" and applied == offset:
                return
            if applied > offset:
                raise EngineFailed(f"the engine has applied offset {applied}, beyond {offset}")
            if self._link_broken:
                raise EngineFailed(f"the engine's link broke: {last_line(self._output)}")
            await asyncio.sleep(LOOK_EVERY)

    async def save(self, wrote: Callable[[int], None] | None = None) -> Path:
        """Save the data set, and return the file. It must follow: then the file says how its stream goes on.

        ``wrote`` is told now and then how many bytes are there. Raises EngineFailed.
        """
        saving = asyncio.create_task(self.command("SAVE"))
        try:
            while not saving.done():
                await asyncio.wait([saving], timeout=0.2)
                if wrote:
                    for path in self._directory.glob("temp-*.rdb"):
                        with contextlib.suppress(OSError):
                            wrote(path.stat().st_size)
            await saving
        finally:
            saving.cancel()
        return self.saved

    async def contents(self) -> Contents:
        """Return what its data comes to. It follows nobody from now on, and has all slots.

        In import mode the engine neither expires anything nor hides from us what is past its time.
        """
        await self._lead()
        digest = await self._digest()
        left_out, keys, expires, _ = await self._beside()
        functions = functions_digest(await self.libraries())
        return Contents(f"{digest ^ left_out:040x}", keys, expires, functions)

    async def keep(self, slots: Sequence[tuple[int, int]]) -> None:
        """Drop all keys that are not in ``slots``, and all functions. It follows nobody from now on.

        :raises EngineFailed:
        """
        await self._lead()
        await self.command("FUNCTION", "FLUSH", "SYNC")
        kept = {slot for first, last in slots for slot in range(first, last + 1)}
        others = [slot for slot in range(SLOTS) if slot not in kept]
        await self.commands([("CLUSTER", "FLUSHSLOT", str(slot), "SYNC") for slot in others])

    async def part(self) -> Part:
        """Return what its keys come to. It follows nobody from now on, and may lose its data: save first."""
        await self._lead()
        left_out, keys, expires, used = await self._beside()
        databases: dict[int, int] = {}
        digest = await self._digest()
        # Valkey mixes each database's number into the digest of those before it: take the last one away.
        for database in sorted(used, reverse=True):
            rest = 0
            if database != min(used):
                await self.command("SELECT", str(database))
                await self.command("FLUSHDB", "SYNC")
                rest = await self._digest()
            databases[database] = digest ^ _mixed(rest, database)
            digest = rest
        return Part(databases, left_out, keys, expires)

    async def libraries(self) -> dict[str, bytes]:
        """Return the code of the function libraries, by name."""
        found = {}
        for library in await self.command("FUNCTION", "LIST", "WITHCODE"):
            fields = dict(zip(library[::2], library[1::2], strict=True))
            found[_text(fields[b"library_name"])] = fields[b"library_code"]
        return found

    async def load_functions(self, libraries: Iterable[bytes]) -> None:
        """Load function libraries. It follows nobody from now on. Raises EngineFailed."""
        await self._lead()
        await self.commands([("FUNCTION", "LOAD", code) for code in libraries])

    async def _lead(self) -> None:
        """Follow nobody any more, have all slots, and neither expire anything nor hide it from us."""
        if not self._leads:
            await self.command("CLUSTER", "FAILOVER", "TAKEOVER")
            await self.command("CLIENT", "IMPORT-SOURCE", "ON")
            self._leads = True

    async def _digest(self) -> int:
        return int(await self.command("DEBUG", "DIGEST"), 16)

    async def _beside(self) -> tuple[int, int, int, list[int]]:
        """Return the digest of what Valkey's leaves out, the keys, the expiries, and the databases used."""
        # A scan meets each key once in tables that stay as large as they are; dumps are as the data is.
        await self.command("DEBUG", "DICT-RESIZING", "0")
        await self.command("CONFIG", "SET", "rdbcompression", "no")
        digest = keys = expires = 0
        used = []
        for name, value in (await self._info("keyspace")).items():
            if name.startswith("db"):
                counts = dict(part.split("=", 1) for part in value.split(","))
                keys += int(counts["keys"])
                expires += int(counts["expires"])
                used.append(int(name.removeprefix("db")))
                digest ^= await self._left_out(name.removeprefix("db"), counts["keys_with_volatile_items"])
        return digest, keys, expires, used

    async def _left_out(self, database: str, volatile: str) -> int:
        """Return the digest of what Valkey's leaves out; ``volatile`` hashes have fields that expire."""
        digest, cursor = 0, "0"
        await self.command("SELECT", database)
        while True:
            cursor, told = await self.command("EVAL", LEFT_OUT, "0", cursor, database, volatile)
            for each in told:
                digest ^= int(each, 16)
            if (cursor := _text(cursor)) == "0":
                return digest

    async def version(self) -> str:
        """Return the engine's version."""
        return (await self._info("server"))["valkey_version"]

    async def command(self, *words: str | bytes) -> Any:
        """Send a command and return its reply.

        :raises EngineFailed: it refuses, or has ended.
        """
        return (await self.commands([words]))[0]

    async def commands(self, batch: Sequence[tuple[str | bytes, ...]]) -> list[Any]:
        """Send commands at once and return their replies. Raises EngineFailed as ``command`` does."""
        assert self._connection
        self._connection[1].write(b"".join(hiredis.pack_command(words) for words in batch))  # type: ignore[arg-type]
        return [await self._reply(words) for words in batch]

    async def _reply(self, words: tuple[str | bytes, ...]) -> Any:
        assert self._connection
        reader = self._connection[0]
        while (reply := self._replies.gets()) is Ellipsis:
            data = await reader.read(1 << 16)
            if not data:
                raise EngineFailed(f"the engine has ended: {last_line(self._output)}")
            self._replies.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            raise EngineFailed(f"{' '.join(map(_text, words[:2]))}: {reply}")
        return reply

    async def _error_replies(self) -> int:
        return int((await self._info("stats"))["total_error_replies"])

    async def _info(self, section: str) -> dict[str, str]:
        lines = _text(await self.command("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    @property
    def _output(self) -> Path:
        return self._directory / "engine.log"

    @property
    def _link_broken(self) -> bool:
        return bool(self._sessions) and all(session.done() for session in self._sessions)

    def _conf(self, port: int) -> str:
        password = hashlib.sha256(self._password.encode()).hexdigest()
        settings = {
            "port": "0",
            "unixsocket": SOCKET,  # in its working directory, as a whole path may be too long for one
            "unixsocketperm": "700",
            "dir": str(self._directory),
            "dbfilename": SAVED,
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "primaryuser": self._user,
            "primaryauth": self._password,
            "repl-diskless-load": "flush-before-load",
            "repl-timeout": "2000000",
            "repl-backlog-size": "16kb",
            "dual-channel-replication-enabled": "no",
            "import-mode": "yes",
            "cluster-enabled": "yes",
            # There has to be a bus: it listens nowhere, at an address that no machine has.
            "bind": "-192.0.2.1",
            "cluster-port": str(port),
            "cluster-config-file": NODES,
            "cluster-databases": str(DATABASES),
            "cluster-replica-no-failover": "yes",
            "cluster-require-full-coverage": "no",
            "cluster-allow-reads-when-down": "yes",
            "enable-debug-command": "yes",
            "maxmemory": "0",
            **self._parameters,
        }
        lines = [f"{name} {quoted(value)}" for name, value in settings.items()]
        lines += ["user default off", f"user {self._user} on #{password} ~* &* +@all"]
        return "\n".join(lines) + "\n"

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(STARTED_WITHIN):
                while True:
                    with contextlib.suppress(OSError):
                        self._connection = await asyncio.open_unix_connection(self._socket)
                        break
                    self._assert_alive()
                    await asyncio.sleep(0.02)
                await self.command("AUTH", self._user, self._password)
        except TimeoutError:
            raise EngineFailed(f"the engine does not answer: {last_line(self._output)}") from None

    def _assert_alive(self) -> None:
        assert self._process
        if self._process.returncode is not None:
            raise EngineFailed(
                f"the engine ended (status {self._process.returncode}): {last_line(self._output)}"
            )

    async def _or_dead(self, what: Any) -> Any:
        """Wait for ``what``, or for the process to end."""
        assert self._process
        waiting = asyncio.ensure_future(what)
        ended = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait([waiting, ended], return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                self._assert_alive()
            return waiting.result()
        finally:
            waiting.cancel()
            ended.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._sessions.add(task)
        link = Link(reader, writer, (self._user.encode(), self._password.encode()))
        try:
            await link.handshake()
            if self._link.done() or self._start is None or self._start.rdb is None:
                return  # It asks again: what it had is lost, and it is not given anything twice.
            self._link.set_result(link)
            position = self._start.position
            await link.full_sync(
                replication_id(position.generation), position.unit_end, self._start.rdb, self._start.size
            )
            self._given.set()
            await link.ignore_acks()
        except (OSError, EOFError, hiredis.ProtocolError, asyncio.CancelledError) as error:
            if not self._link.done():
                self._link.set_exception(EngineFailed(f"the engine's link broke: {error}"))
        finally:
            if not self._link.done():
                self._link.set_exception(EngineFailed("the engine's link was not made"))
            self._given.set()
            writer.close()


def functions_digest(libraries: Mapping[str, bytes]) -> str:
    """Return ``Contents.functions`` of an engine that has these function libraries."""
    return hashlib.sha256(repr(sorted(libraries.values())).encode()).hexdigest()


def _mixed(digest: int, database: int) -> int:
    """Return a digest with a database's number mixed in, as DEBUG DIGEST does it."""
    number = hashlib.sha1(database.to_bytes(4, "big"), usedforsecurity=False).digest()
    mixed = (digest ^ int.from_bytes(number, "big")).to_bytes(20, "big")
    return int.from_bytes(hashlib.sha1(mixed, usedforsecurity=False).digest(), "big")


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _nodes_conf(port: int) -> str:
    """Return the view of a replica whose primary, at ``port``, has all slots; nobody is on a cluster bus."""
    primary, replica, shard = "1" * 40, "2" * 40, "0" * 40
    tail = f",,tls-port=0,shard-id={shard}"
    return (
        f"{primary} 127.0.0.1:{port}@0{tail} master - 0 0 1 connected 0-16383\n"
        f"{replica} :0@0{tail} myself,slave {primary} 0 0 1 connected\n"
        "vars currentEpoch 1 lastVoteEpoch 0\n"
    )
