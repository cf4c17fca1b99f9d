"""`memorycluster recover`: which of a shard's frozen nodes puts back what the log has lost. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Answer = Mapping[str, Any]
"""What an agent says at /v1/recovery."""


@dataclass(frozen=True, slots=True)
class Course:
    """What to do: have these nodes act, in this order; or why nothing can be done."""

    nodes: Sequence[str] = ()
    refusal: str = ""


def decide(answers: Mapping[str, Answer | None], *, without: Collection[str] = ()) -> Course:
    """Return what to do about a shard, given what each node answers (None: nothing).

    :param without: nodes that are known to be lost, and so can't hold more than the others.
    """
    silent = [name for name, answer in answers.items() if answer is None and name not in without]
    frozen = {name: answer for name, answer in answers.items() if answer and answer["verdict"] != "nothing"}
    if not frozen:
        return Course()
    if silent:
        return Course(
            refusal=f"{', '.join(silent)} does not answer, and may hold more than the others: bring it back, "
            f"or if it is lost for good add --without {silent[0]}"
        )
    order = sorted(frozen, key=lambda name: _rank(frozen[name]), reverse=True)
    best = frozen[order[0]]
    if best["verdict"] == "refuse":
        return Course(refusal=f"{order[0]} holds the most, and can't put it back: {best['reason']}")
    return Course(nodes=order)


def _rank(answer: Answer) -> tuple[int, int, bool]:
    """Who knows the most comes first; of those who know the same, who can put it back."""
    return answer["epoch"], answer["holds"], answer["verdict"] == "append"
