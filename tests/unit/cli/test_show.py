import io
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from memorycluster.api.status import (
    Condition,
    LogMemberStatus,
    LogStatus,
    MemoryClusterStatus,
    NodeStatus,
    Phase,
    Role,
    ShardStatus,
)
from memorycluster.cli.show import PLAIN_WIDTH, ConsoleReporter, show_status

MEMBERS = [
    LogMemberStatus(name="log-a", zone="a", leader=True, current=True),
    LogMemberStatus(name="log-b", zone="b", leader=False, current=True),
    LogMemberStatus(name="log-c", zone="c", leader=False, current=False, lag=12),
]


def status(*, message: str = "") -> MemoryClusterStatus:
    primary = NodeStatus(
        name="demo-0-0",
        zone="a",
        role=Role.PRIMARY,
        endpoint="127.0.0.1:7000",
        epoch=3,
        committed_offset=1234,
        applied_offset=1234,
        lag=0,
        lease=4.96,
        ready=True,
    )
    silent = NodeStatus(
        name="demo-0-1", zone="b", role=Role.UNKNOWN, endpoint="127.0.0.1:7001", message=message
    )
    log = LogStatus(first_sequence=1, last_sequence=10, bytes=2048, max_bytes=4 << 30, members=MEMBERS)
    return MemoryClusterStatus(
        observed_generation=1,
        phase=Phase.DEGRADED,
        conditions=[
            Condition(
                type="Ready",
                status="True",
                reason="AllShardsServe",
                message="1 of 1 shards serve",
                last_transition_time=datetime.now(UTC),
            )
        ],
        endpoints=["127.0.0.1:7000", "127.0.0.1:7001"],
        shards=[
            ShardStatus(index=0, slots=["0-16383"], primary="demo-0-0", nodes=[primary, silent], log=log)
        ],
    )


def shown(cluster: MemoryClusterStatus) -> list[str]:
    out = io.StringIO()
    show_status(Console(file=out, width=PLAIN_WIDTH), cluster)
    return out.getvalue().splitlines()


def test_a_table_says_it_all_in_plain_lines() -> None:
    lines = shown(status(message="the agent does not answer"))
    words = [" ".join(line.split()) for line in lines]
    assert lines[0] == "Degraded  1 of 1 shards serve"
    assert "SHARD SLOTS NODE ROLE ZONE ENDPOINT EPOCH COMMITTED APPLIED LAG LEASE" in words
    assert "0 0-16383 demo-0-0 primary a 127.0.0.1:7000 3 1234 1234 0 5.0 s" in words
    assert "demo-0-1 unknown b 127.0.0.1:7001 - - - -" in words
    assert (
        "Log of shard 0: 10 records, 2.0 KiB of 4.0 GiB; log-a leads, log-b current, log-c 12 behind" in lines
    )
    assert "demo-0-1: the agent does not answer" in lines


def test_what_others_wrote_is_not_taken_for_markup() -> None:
    assert "demo-0-1: [red]not red[/red] [x" in shown(status(message="[red]not red[/red] [x"))


def reporter() -> tuple[ConsoleReporter, io.StringIO]:
    out = io.StringIO()
    return ConsoleReporter(Console(file=out, width=PLAIN_WIDTH), data_dir=Path("/d"), ending="Ctrl-C"), out


def test_plain_progress_does_not_repeat_itself() -> None:
    told, out = reporter()
    for done in range(190):
        told.progress(f"compiling {done}/190")
    told.progress("starting the log")
    assert out.getvalue() == "compiling 0/190 ...\nstarting the log ...\n"


def test_notes_carry_the_time() -> None:
    told, out = reporter()
    told.note("engine demo-0-0 ended (killed by SIGKILL); started again")
    time, _, text = out.getvalue().partition(" ")
    assert len(time.split(":")) == 3
    assert text == "engine demo-0-0 ended (killed by SIGKILL); started again\n"


def test_when_ready_it_says_how_to_connect() -> None:
    told, out = reporter()
    told.ready(status(), Path("/cache/my engine"))
    lines = out.getvalue().splitlines()
    assert "Connect  '/cache/my engine/valkey-cli' -c -p 7000" in lines
    assert "Data     /d" in lines
    assert "Stop     Ctrl-C" in lines
