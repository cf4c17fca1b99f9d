"""How the output of upstream's runner is read, and what counts as a problem."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.compat.suite import Listed, Mode, UnitResult, load_listed, needless, parse, problems

OUTPUT = """\
Starting test server at port 26018
[ready]: 4711
Testing unit/example
[ok]: adds (1) and 2 (3 ms)
[ok]: reads back (0 ms)
[skip]: left out by name
[ignore]: large memory flag not provided
[err]: breaks in half in tests/unit/example.tcl
Expected 'a' to be equal to 'b' (context: type eval line 3 cmd {assert_equal})
[ok]: goes on (12 ms)
[1/1 done]: unit/example (2 seconds)

                   The End

Test Summary: 3 passed, 1 failed

!!! WARNING The following tests failed:

*** [err]: breaks in half in tests/unit/example.tcl
"""


def run(output: str) -> UnitResult:
    result = UnitResult("unit/example", Mode())
    parse(output, result)
    return result


def entry(test: str | None) -> Listed:
    return Listed("unit/example", test, "because")


def test_reads_each_kind_of_line_once() -> None:
    result = run(OUTPUT)
    assert result.passed == ["adds (1) and 2", "reads back", "goes on"]
    assert result.skipped == ["left out by name"]
    assert result.ignored == 1
    assert [failure.test for failure in result.failed] == ["breaks in half"]
    assert "Expected 'a'" in result.failed[0].detail
    assert "goes on" not in result.failed[0].detail


@pytest.mark.parametrize(
    "line", ["[exception]: Executing test client: I/O error", "[TIMEOUT]: clients state report follows."]
)
def test_a_crash_or_a_stall_is_a_failure(line: str) -> None:
    assert len(run(f"[ok]: first (1 ms)\n{line}\n").failed) == 1


def test_a_stall_names_the_test_that_hangs() -> None:
    stall = "[TIMEOUT]: clients state report follows.\nsock55 => (IN PROGRESS) waits forever\n"
    assert [failure.test for failure in run(stall).failed] == ["waits forever"]


def test_an_unlisted_failure_is_a_problem() -> None:
    assert len(problems(run(OUTPUT), [])) == 1


def test_a_listed_test_that_does_not_exist_is_a_problem() -> None:
    clean = OUTPUT.replace("[err]", "[ok]")
    assert problems(run(clean), [entry("left out by name")]) == []
    assert len(problems(run(clean), [entry("no such test")])) == 1


def test_a_unit_that_runs_nothing_is_a_problem() -> None:
    assert (
        len(problems(run("[ignore]: Not supported in tls mode\n[1/1 done]: unit/example (0 seconds)\n"), []))
        == 1
    )


def test_a_listed_test_that_passes_is_reported() -> None:
    listed = [entry("reads back"), entry("breaks in half"), entry("never seen")]
    assert needless(run(OUTPUT), listed) == ["reads back"]


def test_an_entry_needs_a_reason_and_no_unknown_field(tmp_path: Path) -> None:
    path = tmp_path / "skipped.toml"
    path.write_text('[[skip]]\nunit = "unit/example"\nreason = " "\n')
    with pytest.raises(ValueError, match="no reason"):
        load_listed(path)
    path.write_text('[[skip]]\nunit = "unit/example"\nreason = "x"\ntest = "y"\n')
    with pytest.raises(ValueError, match="'test'"):
        load_listed(path)
    path.write_text('[[skip]]\nunit = "unit/example"\nreason = "x"\nonly-with = "luck"\n')
    with pytest.raises(ValueError, match="only-with"):
        load_listed(path)


def test_an_entry_applies_to_its_mode_only() -> None:
    listed = Listed("unit/example", "a", "because", only_with="io-threads")
    assert listed.applies("unit/example", Mode(io_threads=3))
    assert not listed.applies("unit/example", Mode(delay=1))
    assert not listed.applies("unit/other", Mode(io_threads=3))
