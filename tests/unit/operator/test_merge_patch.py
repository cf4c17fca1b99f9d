"""The patch of a status: what it leads to is what was wanted, and it says no more than it has to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from memorycluster_operator.apply import merge_patch

LEAVES = st.integers(0, 3) | st.text(max_size=2) | st.booleans()
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.sampled_from("abcd"), VALUES)


def merged(old: Any, patch: Any) -> Any:
    """Return what RFC 7386 makes of ``old``."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(old) if isinstance(old, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@given(OBJECTS, OBJECTS)
def test_it_leads_to_what_is_wanted(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert merged(old, merge_patch(old, new)) == new


@given(OBJECTS)
def test_nothing_to_say(status: dict[str, Any]) -> None:
    assert merge_patch(status, status) == {}


def test_only_what_differs() -> None:
    old = {"phase": "Ready", "blocked": {"reason": "A", "message": "m"}, "gone": 1}
    new = {"phase": "Ready", "blocked": {"reason": "B", "message": "m"}}
    assert merge_patch(old, new) == {"blocked": {"reason": "B"}, "gone": None}
