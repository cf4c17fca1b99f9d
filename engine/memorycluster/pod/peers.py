"""Keeps the addresses on the cluster bus right: pods change theirs, and come and go.

An engine starts with a ``nodes.conf`` that knows everybody, but nobody's address. So, until its links are up,
this looks up the names of those it is not linked to, makes sure that it is them who are there, and has the
engine meet them: it then learns their address, and they learn its. And it has the engine forget who has left.

Meeting a stranger would weld two clusters together, and an address may have been given to another pod since
the name service learned it: therefore nobody is met who has not said which node it is.
"""

from __future__ import annotations

import asyncio
import socket
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from memorycluster.agent.engine import Control, EngineError
from memorycluster.api.topology import Node
from memorycluster.pod.config import ClusterConfig
from memorycluster.pod.container import Told, say
from memorycluster.pod.node import MAX_NODES, find_node
from memorycluster.valkey.config import AGENT_USER, PEER_USER

EVERY = 1.0
"""Seconds between two looks."""

PATIENCE = 3.0
"""Seconds that an engine gets to answer."""

AT_ONCE = 50
"""Nodes that are looked up in one go; gossip tells of the others meanwhile."""

Resolve = Callable[[str], Awaitable[str | None]]
"""Returns the address of a host; None if there is no such host. Raises OSError if that can't be told."""


class Stranger(Exception):
    """Somebody else is where a node should be."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A node as the engine sees it: a line of CLUSTER NODES."""

    id: str
    flags: frozenset[str]
    linked: bool


@dataclass(frozen=True, slots=True)
class Members:
    """Who is in the cluster, as far as ``myself`` is told."""

    myself: Node
    others: tuple[Node, ...]
    surplus: Mapping[str, Node]
    """By id: who is in it if it is larger: has left it, or is about to join."""

    @classmethod
    def of(cls, config: ClusterConfig, name: str) -> Members:
        """Return who is in the cluster of the node called ``name``."""
        myself, _ = find_node(config, name)
        largest = config.model_copy(update={"nodes_per_shard": MAX_NODES}).topology().nodes
        wanted = {node.id: node for node in config.topology().nodes}
        return cls(
            myself,
            tuple(node for node in wanted.values() if node.id != myself.id),
            {node.id: node for node in largest if node.id not in wanted and node.id != myself.id},
        )


def parse_nodes(text: str) -> list[Seen]:
    """Return who is in the answer to CLUSTER NODES."""
    seen = []
    for line in text.splitlines():
        fields = line.split()
        seen.append(Seen(fields[0], frozenset(fields[2].split(",")), fields[7] == "connected"))
    return seen


def to_look_up(seen: Iterable[Seen], members: Members) -> list[Node]:
    """Return whose address matters: who is in the cluster and not linked, or neither of the two."""
    by_id = {each.id: each for each in seen}
    unlinked = [node for node in members.others if node.id not in by_id or not by_id[node.id].linked]
    left = [node for id_, node in members.surplus.items() if id_ in by_id and not by_id[id_].linked]
    return unlinked + left


def to_meet(seen: Iterable[Seen], members: Members, addresses: Mapping[str, str | None]) -> list[Node]:
    """Return whom to meet at their addresses, which are given by name."""
    wanted = {node.id for node in members.others}
    return [
        node
        for node in to_look_up(seen, members)
        if node.id in wanted and addresses.get(node.name) is not None
    ]


def to_forget(seen: Iterable[Seen], members: Members, addresses: Mapping[str, str | None]) -> list[str]:
    """Return the ids of those to forget: strangers, and who has left so that not even its name is there.

    One that is not in ``addresses`` may be anywhere: what we are told of the cluster may be older than it.
    """
    wanted = {node.id for node in members.others} | {members.myself.id}
    ids = []
    for each in seen:
        if each.id in wanted or "handshake" in each.flags or "myself" in each.flags:
            continue
        node = members.surplus.get(each.id)
        if node is None or (not each.linked and addresses.get(node.name, "unknown") is None):
            ids.append(each.id)
    return ids


class Peers:
    """The loop of one pod."""

    def __init__(self, told: Told, engine_socket: Path, resolve: Resolve) -> None:
        self._told = told
        self._engine_socket = engine_socket
        self._resolve = resolve
        self._trouble = ""
        self._members: tuple[ClusterConfig, Members] | None = None

    async def run(self) -> None:
        """Look, and put right, until cancelled."""
        while True:
            try:
                self._say(await self._look())
            except (OSError, EngineError, TimeoutError) as error:
                self._say(f"peers: {error or type(error).__name__}")
            except Exception:
                self._say(traceback.format_exc())  # and go on: nobody else looks after the addresses
            await asyncio.sleep(EVERY)

    def _say(self, trouble: str) -> None:
        """Say what is wrong, when that is news."""
        if trouble and trouble != self._trouble:
            say(trouble)
        self._trouble = trouble

    async def _look(self) -> str:
        """Look, and put right what can be; return what can't, as far as one should know."""
        pod = self._told.pod
        config = self._told.config
        if self._members is None or self._members[0] is not config:
            self._members = config, Members.of(config, pod.name)
        members = self._members[1]
        loop = asyncio.get_running_loop()
        try:
            _, engine = await loop.create_unix_connection(_connection, str(self._engine_socket))
        except (FileNotFoundError, ConnectionRefusedError):
            return ""  # it is about to start
        try:
            async with asyncio.timeout(PATIENCE):
                await engine.command("AUTH", AGENT_USER, pod.agent_password)
                seen = parse_nodes((await engine.command("CLUSTER", "NODES")).decode())
            addresses, trouble = await self._addresses(to_look_up(seen, members)[:AT_ONCE])
            async with asyncio.timeout(PATIENCE):
                for node in to_meet(seen, members, addresses):
                    say(f"peers: meeting {node.name} at {addresses[node.name]}")
                    await engine.command(
                        "CLUSTER", "MEET", addresses[node.name] or "", node.port, node.bus_port
                    )
                for id_ in to_forget(seen, members, addresses):
                    name = members.surplus[id_].name if id_ in members.surplus else f"stranger {id_}"
                    try:
                        await engine.command("CLUSTER", "FORGET", id_)
                        say(f"peers: forgot {name}")
                    except EngineError as error:  # it still is the primary, for example
                        trouble = f"peers: can't forget {name} yet: {error}"
        finally:
            engine.close()
        return trouble

    async def _addresses(self, nodes: list[Node]) -> tuple[dict[str, str | None], str]:
        """Return by name where ``nodes`` are, as they say themselves; None: there is no such host."""
        answers = await asyncio.gather(*map(self._address, nodes), return_exceptions=True)
        addresses, strangers = {}, []
        for node, answer in zip(nodes, answers, strict=True):
            if isinstance(answer, Stranger):
                strangers.append(str(answer))
            elif isinstance(answer, OSError | EngineError | TimeoutError):
                continue  # it can't be told now
            elif isinstance(answer, BaseException):
                raise answer
            else:
                addresses[node.name] = answer
        return addresses, "; ".join(strangers)

    async def _address(self, node: Node) -> str | None:
        address = await self._resolve(node.host)
        if address is None:
            return None
        async with asyncio.timeout(PATIENCE):
            if (found := await ask_id(address, node.port)) != node.id:
                raise Stranger(f"peers: at {address} is node {found}, not {node.name}")
        return address


def _connection() -> Control:
    return Control(lambda _: None)


async def ask_id(address: str, port: int) -> str:
    """Return which node is there. Raises OSError, EngineError."""
    loop = asyncio.get_running_loop()
    _, peer = await loop.create_connection(_connection, address, port)
    try:
        await peer.command("AUTH", PEER_USER, "")
        return str((await peer.command("CLUSTER", "MYID")).decode())
    finally:
        peer.close()


def name_service(own: str) -> Resolve:
    """Return what looks hosts up at the name service, for addresses of the same family as ``own``."""
    family = socket.AF_INET6 if ":" in own else socket.AF_INET

    async def resolve(host: str) -> str | None:
        loop = asyncio.get_running_loop()
        try:
            # With the dot at its end it is looked up as it is, in no search domain.
            found = await loop.getaddrinfo(f"{host}.", None, family=family, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
                return None
            raise
        return str(found[0][4][0])

    return resolve


def hosts_file(path: Path) -> Resolve:
    """Return what looks hosts up in a file of the form of /etc/hosts, as it stands at that moment."""

    async def resolve(host: str) -> str | None:
        for line in (await asyncio.to_thread(path.read_text)).splitlines():
            address, *names = line.partition("#")[0].split() or [""]
            if host in names:
                return address
        return None

    return resolve
