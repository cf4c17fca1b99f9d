"""docs/operator.md says what is so."""

import re
from pathlib import Path

import memorycluster_operator.plan

DOCS = (Path(__file__).parents[3] / "docs" / "operator.md").read_text()


def test_the_tests_that_the_table_names_exist() -> None:
    code = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", DOCS))
    assert len(named) > 20
    assert [name for name in sorted(named) if f"def {name}(" not in code] == []


def test_every_reason_to_wait_is_explained() -> None:
    package = Path(memorycluster_operator.plan.__file__).parent
    code = "".join(path.read_text() for path in package.glob("*.py"))
    direct = re.findall(r"(?:wait|_refuse)\(\s*(?:view\.)?snapshot,\s*\"([A-Za-z]+)\"", code)
    found = set(direct) | set(re.findall(r"\d, \"([A-Z][A-Za-z]+)\"", code)) | {"LogMissing", "LogUnfit"}
    assert len(found) > 25
    assert [reason for reason in sorted(found) if f"`{reason}`" not in DOCS] == []
