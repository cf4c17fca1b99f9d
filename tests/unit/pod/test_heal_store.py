"""A member gives up its copy of the log only if the others have everything, and once."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from memorycluster.log.healing import LIST, Copy
from memorycluster.log.interface import LogUnavailable
from memorycluster.pod import __main__ as pod_main
from memorycluster.pod import heal as pod_heal
from memorycluster.pod.heal import heal

OTHERS = ("log-0", "log-2")
LOGS = {"orders-0": 9}


def later() -> str:
    """Return a time at which an order is still good, however long after the import a test runs."""
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat()


class Service:
    """What the other members say, and say after that."""

    def __init__(self, *copies: Copy, then: tuple[Copy, ...] | None = None, silent: bool = False) -> None:
        self._copies, self._then, self._silent = copies, then, silent
        self.asked = 0

    async def copies(self) -> list[Copy]:
        self.asked += 1
        if self.asked > 1 and self._then is not None:
            return list(self._then)
        if self._silent:
            raise LogUnavailable("no answer")
        return list(self._copies)

    async def step_down(self, stream: str) -> None:
        raise AssertionError

    async def scrub(self, stream: str, member: str, *, rate: float, only: int | None = None) -> str:
        raise AssertionError


def sound(**changes: object) -> tuple[Copy, ...]:
    """Return the copies of two members that have everything; what ``changes`` says is of the second."""
    return tuple(
        replace(
            Copy(log, member, leads=member == "log-0", last=9),
            **(changes if member == "log-2" and log != LIST else {}),  # type: ignore[arg-type]
        )
        for log in (*LOGS, LIST)
        for member in OTHERS
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "jetstream" / "$G").mkdir(parents=True)
    return tmp_path


async def try_(data: Path, service: Service, order: str = "pod-1", logs: dict[str, int] = LOGS) -> str:
    return await heal(data, "log-1", order, service, OTHERS, logs, until=later(), within=0)


async def test_it_is_given_up_once_for_each_order(data: Path) -> None:
    assert await try_(data, Service(*sound())) == ""
    assert not (data / "jetstream").exists()
    (data / "jetstream").mkdir()  # the server has started, and has a new one
    assert await try_(data, Service(*sound())) == ""
    assert (data / "jetstream").exists(), "its pod may be started again: the order was carried out"
    assert await try_(data, Service(*sound()), order="pod-2") == ""
    assert not (data / "jetstream").exists()


@pytest.mark.parametrize(
    ("service", "why"),
    [
        (Service(silent=True), "no answer"),
        (Service(*sound(current=False)), "log-2 is behind in orders-0"),
        (Service(*sound(lost=2)), "log-2 has lost 2 messages of orders-0"),
        (Service(*sound(last=8)), "log-2 has orders-0 up to record 8; it went up to 9"),
        (Service(*sound(first=4)), "begin orders-0 at the same record: log-0 at 0, log-2 at 4"),
        (Service(*[copy for copy in sound() if copy.member == "log-0"]), "log-2 does not answer"),
        (Service(*[copy for copy in sound() if copy.log == LIST]), "do not all have orders-0"),
        (Service(*[copy for copy in sound() if not copy.leads]), "has no leader"),
    ],
)
async def test_it_is_kept_unless_the_others_have_everything(data: Path, service: Service, why: str) -> None:
    assert why in await try_(data, service)
    assert (data / "jetstream" / "$G").exists()
    assert not (data / "healed").exists(), "it is tried again"


async def test_one_inspection_is_judged_whole_and_another_one_is_waited_for(data: Path) -> None:
    trims = Service(*sound(first=4), then=sound())
    assert await heal(data, "log-1", "pod-1", trims, OTHERS, LOGS, until=later(), within=30) == ""
    assert trims.asked == 2
    once = Service(*sound(), then=sound(lost=1))
    assert await heal(data, "log-1", "pod-2", once, OTHERS, LOGS, until=later(), within=30) == ""
    assert once.asked == 1


@pytest.mark.parametrize("log", [*LOGS, LIST])
async def test_it_is_kept_while_another_pod_of_the_member_serves(data: Path, log: str) -> None:
    reached = tuple(
        replace(copy, reaches=frozenset(["log-1", "log-2"]))
        if (copy.log, copy.leads) == (log, True)
        else copy
        for copy in sound()
    )
    assert "log-0 still reaches a server log-1" in await try_(data, Service(*reached))
    assert (data / "jetstream" / "$G").exists()
    gone = Service(*reached, then=sound(reaches=frozenset(["log-0"])))
    assert await heal(data, "log-1", "pod-1", gone, OTHERS, LOGS, until=later(), within=30) == "", "waits"


@pytest.mark.parametrize("until", ["", "soon", "2026-01-01T00:00:00+00:00", "2999-01-01T00:00:00"])
async def test_an_order_that_has_ended_or_does_not_say_when_is_none(data: Path, until: str) -> None:
    refused = await heal(data, "log-1", "pod-1", Service(*sound()), OTHERS, LOGS, until=until, within=0)
    assert refused.startswith("the order ")
    assert (data / "jetstream" / "$G").exists()


async def test_it_is_kept_where_there_are_no_two_others(data: Path) -> None:
    assert "no two other members" in await heal(
        data, "log-1", "pod-1", Service(*sound()), OTHERS[:1], LOGS, until=later(), within=0
    )
    assert (data / "jetstream").exists()


async def test_what_was_interrupted_is_completed_and_not_begun_again(data: Path) -> None:
    (data / "jetstream").rename(data / "jetstream.rotten-pod-1")
    assert await try_(data, Service(silent=True)) == ""
    assert not (data / "jetstream.rotten-pod-1").exists()
    assert (data / "healed").read_text() == "pod-1"


async def test_what_another_order_has_left_is_removed_and_says_nothing_about_this_one(data: Path) -> None:
    for left in ("jetstream.rotten", "jetstream.rotten-pod-0"):
        (data / left).mkdir()
    assert await try_(data, Service(silent=True)) == "no answer"
    assert [each.name for each in data.iterdir()] == ["jetstream"]


async def test_the_space_is_free_before_anything_is_written(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        assert not any(data.iterdir())
        raise OSError("no space left on device")

    monkeypatch.setattr(pod_heal, "write_durably", full)
    with pytest.raises(OSError, match="no space"):
        await try_(data, Service(*sound()))


async def test_a_note_that_is_damaged_is_of_no_order(data: Path) -> None:
    (data / "healed").write_bytes(b"pod-1\xff")
    assert await try_(data, Service(*sound())) == ""
    assert (data / "healed").read_text() == "pod-1"
    assert [each.name for each in data.iterdir()] == ["healed"]


def test_whatever_goes_wrong_the_server_starts(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "healed").mkdir()
    (data / "healed" / "wrong").touch()
    monkeypatch.setenv("POD_NAME", "log-1")
    command = ["memorycluster.pod", "heal", "--member", "log-1", "--order", "pod-1", "--data", str(data)]
    monkeypatch.setattr(sys, "argv", [*command, "--others", "log-0"])
    assert pod_main.main() == 0
    assert "the server starts with what is there" in capsys.readouterr().err
    assert (data / "jetstream" / "$G").exists()
