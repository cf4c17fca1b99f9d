"""The administration of a log service: makes logs, checks that they and the servers are what they must be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import aiohttp

from memorycluster.log import inspection
from memorycluster.log.healing import Copy, scrub
from memorycluster.log.interface import LogConflict, LogError, LogHealth, LogUnavailable
from memorycluster.log.nats import NatsLog, subject_of
from memorycluster.log.record import MAX_PAYLOAD, OVERHEAD, InvalidRecord, Kind, Record
from memorycluster.log.server import ZONE_TAG, Server, ServerUnfit, check_version
from memorycluster.log.wire import Link

DUPLICATE_WINDOW = 120
"""Seconds for which the log knows a retried append by its id; later it refuses it by its sequence."""

MAX_MESSAGE = MAX_PAYLOAD + OVERHEAD + 4096
"""Bytes of the largest message: a record, and the headers that go with it."""

STREAM_NAME_IN_USE = 10058
"""Error code: there is a stream of this name, configured otherwise."""

HTTP_TIMEOUT = aiohttp.ClientTimeout(total=3)

CREATE_WITHIN = 30.0
"""Seconds for a log service that has just started to make a log."""


class LogUnfit(LogError):
    """A log is not what it must be: another configuration, or another generation."""


def genesis(generation: UUID, seed: bytes = b"") -> bytes:
    """Return the first record of a log; the same for every call, so that it can be written again.

    :param seed: digest of the snapshot that holds the data of before: without that, none may read the log.
    """
    return Record(
        kind=Kind.GENESIS,
        generation=generation,
        epoch=0,
        sequence=1,
        nonce=0,
        start=0,
        running_crc=0,
        payload=seed,
    ).encode()


def stream_config(stream: str, *, replicas: int, max_bytes: int) -> dict[str, Any]:
    """Return the configuration that a log's stream must have, exactly."""
    return {
        "name": stream,
        "subjects": [subject_of(stream)],
        "storage": "file",
        "num_replicas": replicas,
        # Nothing leaves a log but by trimming: a full one refuses.
        "retention": "limits",
        "discard": "new",
        "max_bytes": max_bytes,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_age": 0,
        "max_msg_size": MAX_MESSAGE,
        "max_consumers": -1,
        "duplicate_window": DUPLICATE_WINDOW * 1_000_000_000,
        "deny_delete": True,
        "deny_purge": False,
        # A member that is behind must not answer for the log.
        "allow_direct": False,
        "allow_rollup_hdrs": False,
        "no_ack": False,
        "sealed": False,
    }


class LogService:
    """A log service: one server, or three."""

    def __init__(self, servers: Sequence[Server], *, user: str, password: str) -> None:
        self._servers = tuple(servers)
        self._user = user
        self._password = password
        self._urls = [server.url for server in servers]
        self._link = Link(self._urls, user=user, password=password, name="log service")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection."""
        await self._link.close()

    async def assert_safe(self) -> None:
        """Check that each server keeps what it acknowledges: its version, JetStream, fsync before each ack.

        :raises ServerUnfit: naming the server and what is wrong.
        :raises LogUnavailable: a server does not answer, or is still starting.
        """
        await asyncio.gather(*(self._assert_safe(server) for server in self._servers))

    async def unfit(self) -> dict[str, str]:
        """Return what is wrong with each server, by its name: empty where nothing is. See ``assert_safe``."""
        checks = (self._assert_safe(server) for server in self._servers)
        found = await asyncio.gather(*checks, return_exceptions=True)
        wrong = {}
        for server, error in zip(self._servers, found, strict=True):
            if isinstance(error, BaseException) and not isinstance(error, ServerUnfit | LogError):
                raise error
            wrong[server.name] = str(error or "").removeprefix(f"{server.name}: ")
        return wrong

    async def _assert_safe(self, server: Server) -> None:
        # A server that has just started answers before it has opened its store.
        if (health := await fetch(server, "healthz")).get("status") != "ok":
            raise LogUnavailable(f"{server.name}: {health.get('error')}")
        varz = await fetch(server, "varz")
        check_version(varz["version"], server.name)
        jetstream = varz.get("jetstream", {}).get("config")
        if not jetstream:
            raise ServerUnfit(f"{server.name}: JetStream is not enabled")
        if not jetstream.get("sync_always"):
            raise ServerUnfit(
                f"{server.name}: acknowledges before it has synced: set sync_interval to always"
            )
        if len(self._servers) > 1 and jetstream.get("unique_tag") != ZONE_TAG:
            raise ServerUnfit(
                f"{server.name}: may put two replicas into one zone: set unique_tag to {ZONE_TAG!r}"
            )
        if varz["max_payload"] < MAX_MESSAGE:
            raise ServerUnfit(f"{server.name}: max_payload {varz['max_payload']} is below {MAX_MESSAGE}")

    async def create(self, stream: str, generation: UUID, *, max_bytes: int, seed: bytes = b"") -> None:
        """Make the log ``stream`` of ``generation``, with its genesis record; once it is there, do nothing.

        Only for a log that has never been marked as made; after that, see ``verify``.

        :param max_bytes: size on each server at which appends are refused.
        :param seed: see ``genesis``.
        :raises LogUnfit: if a log of this name is there, but is not like this, or of another generation.
        :raises LogUnavailable: if the log service does not do it in time.
        """
        wanted = stream_config(stream, replicas=len(self._servers), max_bytes=max_bytes)
        until = time.monotonic() + CREATE_WITHIN
        while True:
            try:
                answer = await self._link.ask(f"STREAM.CREATE.{stream}", wanted)
                if error := answer.get("error"):
                    if error.get("err_code") == STREAM_NAME_IN_USE:
                        break  # the check below says what differs
                    raise LogUnavailable(f"log {stream}: {error.get('description')}")
                break
            except LogUnavailable:
                if time.monotonic() >= until:
                    raise
                await asyncio.sleep(0.1)
        await self._check_config(stream, wanted)
        async with self._log(stream) as log:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + CREATE_WITHIN):
                    await log.append(genesis(generation, seed), sequence=1)
            except TimeoutError:
                raise LogUnavailable(f"log {stream}: {log.trouble or 'no answer'}") from None
            except LogConflict:
                pass  # the check below says what is there
            await check_generation(log, stream, generation)
            await _check_seed(log, stream, seed)

    async def verify(self, stream: str, generation: UUID) -> None:
        """Check that the log is there, and that it is the one that was made.

        :raises LogMissing: it is not there; never to be made anew.
        :raises LogUnfit: it is of another generation, or its configuration is not what it must be.
        :raises LogUnavailable: the log service can't tell now.
        """
        async with self._log(stream) as log:
            health = await log.health()
            wanted = stream_config(stream, replicas=len(self._servers), max_bytes=health.max_bytes)
            await self._check_config(stream, wanted)
            await check_generation(log, stream, generation)

    async def grow(self, stream: str, max_bytes: int) -> None:
        """Raise the size at which appends are refused to ``max_bytes``; do nothing if it is as large already.

        :raises LogUnfit: the log service refuses. :raises LogUnavailable, LogMissing: as for ``health``.
        """
        async with self._log(stream) as log:
            if (await log.health()).max_bytes >= max_bytes:
                return
        wanted = stream_config(stream, replicas=len(self._servers), max_bytes=max_bytes)
        answer = await self._link.ask(f"STREAM.UPDATE.{stream}", wanted)
        if error := answer.get("error"):
            raise LogUnfit(f"log {stream}: can't grow to {max_bytes} bytes: {error.get('description')}")

    async def health(self, stream: str) -> LogHealth:
        """Return the log's health, with its members' zones.

        :raises LogUnavailable, LogMissing:
        """
        zones = {server.name: server.zone for server in self._servers}
        async with self._log(stream) as log:
            health = await log.health()
        members = tuple(replace(member, zone=zones.get(member.name, "")) for member in health.members)
        return replace(health, members=members)

    async def step_down(self, stream: str, *, to: str | None = None) -> None:
        """Have the log's leader give way, to the member ``to`` if it can.

        :raises LogUnavailable: the log has no leader, or it does not answer.
        """
        request = {"placement": {"preferred": to}} if to else None
        answer = await self._link.ask(f"STREAM.LEADER.STEPDOWN.{stream}", request)
        if error := answer.get("error"):
            raise LogUnavailable(f"log {stream}: {error.get('description')}")

    async def copies(self) -> list[Copy]:
        """Return what each server that answers holds of each log, and of the list of logs."""
        return list(inspection.copies(await self._inspect(), await self._inspect()))

    async def scrub(self, stream: str, member: str, *, rate: float, only: int | None = None) -> str:
        """Read all that ``member`` holds of the log, and return what is wrong with it; see ``healing.scrub``.

        :raises LogUnavailable, LogMissing:
        """
        async with self._log(stream) as log:
            return await scrub(log, member, rate=rate, only=only)

    async def _inspect(self) -> dict[str, inspection.Inspection]:
        answers = await asyncio.gather(*map(self._inspect_one, self._servers))
        return {server.name: answer for server, answer in zip(self._servers, answers, strict=True) if answer}

    async def _inspect_one(self, server: Server) -> inspection.Inspection | None:
        try:
            return inspection.Inspection.of(await fetch(server, inspection.PATH))
        except LogUnavailable:
            return None

    async def _check_config(self, stream: str, wanted: dict[str, Any]) -> None:
        answer = await self._link.ask(f"STREAM.INFO.{stream}")
        if error := answer.get("error"):
            raise LogUnavailable(f"log {stream}: {error.get('description')}")
        found = answer["config"]
        for field, value in wanted.items():
            # The answer leaves out what is false.
            if found.get(field, False if value is False else None) != value:
                raise LogUnfit(f"log {stream}: {field} is {found.get(field)!r}, not {value!r}")

    def _log(self, stream: str) -> NatsLog:
        return NatsLog(self._urls, stream, user=self._user, password=self._password)


async def check_generation(log: NatsLog, stream: str, generation: UUID) -> None:
    """Check the first record that the log still has: each one says of which generation it is.

    :raises LogUnfit: if that is not ``generation``, or there is none.
    """
    first = max(1, (await log.health()).first_sequence)
    data = await log.get(first)
    try:
        if data is None:
            raise LogUnfit(f"log {stream}: is empty, without a genesis record")
        record = Record.decode(data)
    except InvalidRecord as error:
        raise LogUnfit(f"log {stream}: record {first}: {error}") from error
    if record.generation != generation:
        raise LogUnfit(f"log {stream}: is of generation {record.generation}, not {generation}")
    if (record.kind is Kind.GENESIS) != (first == 1):
        raise LogUnfit(f"log {stream}: record {first} is a {record.kind.name}")


async def _check_seed(log: NatsLog, stream: str, seed: bytes) -> None:
    """Check that the log begins with that very snapshot, or with none. Raises LogUnfit."""
    data = await log.get(1)
    found = Record.decode(data).payload if data else b""
    if found != seed:
        names = [each.decode(errors="replace") or "no snapshot" for each in (found, seed)]
        raise LogUnfit(f"log {stream}: begins with {names[0]}, not with {names[1]}")


async def fetch(server: Server, path: str) -> dict[str, Any]:
    """Return what a server's monitoring endpoint says.

    :raises LogUnavailable: it doesn't.
    """
    try:
        async with (
            aiohttp.ClientSession(timeout=HTTP_TIMEOUT) as http,
            http.get(f"{server.monitor}/{path}") as answer,
        ):
            result: dict[str, Any] = await answer.json()
            return result
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise LogUnavailable(f"{server.name}: {server.monitor}: {error or 'no answer'}") from error
