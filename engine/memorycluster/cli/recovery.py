"""``memorycluster recover``: what a shard's nodes hold, and having them put back what its log has lost."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

from memorycluster.agent.ask import Unable
from memorycluster.agent.ask import recovery as ask_agent
from memorycluster.local.errors import UserError
from memorycluster.local.layout import Layout
from memorycluster.local.plan import plan_topology
from memorycluster.local.recover import Answer, decide
from memorycluster.local.state import State

DONE = {
    "append": "has put back what the log lacked, and follows again",
    "resume": "follows again",
    "nothing": "is not frozen any more",
}
"""What a node has done, by what it found."""


class Ask(Protocol):
    """Asks a node's agent what can be done about it."""

    async def __call__(self, *, act: bool) -> Mapping[str, Any] | None:
        """Return what it answers, None if it doesn't; ``act``: have it done. Raises Unable."""


def nodes(layout: Layout, state: State, shard: int) -> dict[str, Ask]:
    """Return how to ask each node of a shard of this machine. Raises UserError."""
    if shard >= len(state.shards):
        raise UserError(f"SHARD: there is no shard {shard}; the last one is {len(state.shards) - 1}")
    found = plan_topology(state).shards[shard].nodes
    return {node.name: partial(ask_agent, layout.node(node).agent_socket) for node in found}


def recover(
    out: Console, nodes: Mapping[str, Ask], shard: int, *, again: str, yes: bool, without: Collection[str]
) -> str:
    """Show what each of the ``nodes`` holds, and have it put back if ``yes``; return why that was not done.

    :param again: the command line for this. :param without: nodes that are lost for good.
    :raises UserError: there is no such node, or one can't read its log.
    """
    if unknown := [name for name in without if name not in nodes]:
        raise UserError(
            f"--without: there is no node {unknown[0]} in shard {shard}; there are {', '.join(nodes)}"
        )
    answers = {name: _asked(name, ask, act=False) for name, ask in nodes.items()}
    _show(out, answers)
    course = decide(answers, without=without)
    if course.refusal:
        return f"shard {shard}: {course.refusal}. Nothing was changed; docs/recovery.md says what is left"
    if not course.nodes:
        silent = [name for name, answer in answers.items() if answer is None]
        rest = f", of those that answer ({', '.join(silent)} did not)" if silent else ""
        out.print(f"shard {shard}: no node is frozen{rest}", markup=False)
        return ""
    if not yes:
        out.print(f"Nothing was changed. To do it: {again} --yes", markup=False)
        return ""
    for name in course.nodes:
        done = _asked(name, nodes[name], act=True)
        if done is None or done["verdict"] == "refuse":
            return f"{name}: {done['reason'] if done else 'its agent does not answer'}; see `{again}`"
        out.print(f"{name}: {DONE[done['verdict']]}", markup=False)
    return ""


def _asked(name: str, ask: Ask, *, act: bool) -> Answer | None:
    try:
        return asyncio.run(_run(ask, act=act))
    except Unable as error:
        raise UserError(f"{name}: its agent could not: {error}") from error


async def _run(ask: Ask, *, act: bool) -> Answer | None:
    return await ask(act=act)


def _show(out: Console, answers: Mapping[str, Answer | None]) -> None:
    """Print what each node of a shard holds, what the log does, and what can be done."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("NODE", "CAN"):
        table.add_column(name, no_wrap=True)
    for name in ("EPOCH", "HOLDS", "LOG'S EPOCH", "LOG HOLDS", "LACKS"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("BECAUSE", overflow="fold")
    for name, answer in answers.items():
        if answer is None:
            table.add_row(name, "?", "", "", "", "", "", "its agent does not answer")
            continue
        lacks = max(answer["holds"] - answer["logEnd"], 0)
        numbers = (answer["epoch"], answer["holds"], answer["logEpoch"], answer["logEnd"], lacks)
        table.add_row(name, answer["verdict"], *map(str, numbers), answer["reason"])
    out.print(table)
    out.print()
