"""What a run found: on the terminal, as JSON, and in README.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.figures import Section

README = Path(__file__).parent / "README.md"
RESULTS = Path(__file__).parent / "results.json"
BEGIN, END = "<!-- results: written by the benchmarks -->", "<!-- end of results -->"


@dataclass
class Report:
    """Everything that one run found."""

    facts: Mapping[str, str]
    sections: list[Section] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Sections that could not be measured, and why."""

    def markdown(self) -> str:
        lines = [f"- {name}: {fact}" for name, fact in self.facts.items()]
        lines += ["", "### Goals", ""]
        goals = [goal for section in self.sections for goal in section.goals]
        lines += _table(
            ["goal", "measured", ""],
            [[goal.text, goal.measured, "met" if goal.met else "**missed**"] for goal in goals],
        )
        lines += [f"\nNot measured: {name}: {reason}" for name, reason in self.failures.items()]
        for section in self.sections:
            lines += ["", f"### {section.title}", "", " ".join(section.how.split()), ""]
            lines += _table(section.columns, section.rows)
        return "\n".join(lines)

    def write(self) -> None:
        """Put the results into README.md and results.json."""
        text = README.read_text()
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        README.write_text(f"{before}{BEGIN}\n\n{self.markdown()}\n\n{END}{after}")
        self.write_json(RESULTS)

    def write_json(self, path: Path) -> None:
        found = {
            "facts": self.facts,
            "failures": self.failures,
            "sections": [asdict(section) for section in self.sections],
        }
        path.write_text(json.dumps(found, indent=1) + "\n")


def show(console: Console, section: Section) -> None:
    """Print a section."""
    table = Table(title=section.title, title_justify="left")
    for number, column in enumerate(section.columns):
        table.add_column(escape(column), justify="left" if number == 0 else "right")
    for row in section.rows:
        table.add_row(*(escape(cell.replace("**", "")) for cell in row))
    console.print(table)
    for goal in section.goals:
        mark = "[green]met[/]" if goal.met else "[red]missed[/]"
        console.print(f"  {mark}: {escape(goal.text)}: {escape(goal.measured)}")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
