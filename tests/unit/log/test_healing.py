"""What to do about a rotten member: decided by a pure function, and carried out one member at a time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorycluster.log import healing
from memorycluster.log.healing import LIST, Copy, Healer, Kind, Step, decide, unsettled
from memorycluster.log.inspection import Inspection, copies
from memorycluster.log.interface import SNAPSHOTS_STREAM, LogUnavailable

MEMBERS = ["a", "b", "c"]


def held(log: str, leader: str, **lost: int) -> list[Copy]:
    return [Copy(log, member, member == leader, lost=lost.get(member, 0)) for member in MEMBERS]


HEALTHY = [*held(LIST, "b"), *held("one", "a"), *held("two", "c")]

copy_strategy = st.builds(
    Copy,
    log=st.sampled_from([LIST, "one", "two"]),
    member=st.sampled_from(MEMBERS),
    leads=st.booleans(),
    current=st.booleans(),
    lost=st.sampled_from([0, 0, 0, 5]),
)


def test_nothing_is_wrong() -> None:
    assert decide(MEMBERS, HEALTHY) == Step(Kind.NOTHING)


def test_a_rotten_follower_is_wiped() -> None:
    step = decide(MEMBERS, [*held(LIST, "c"), *held("one", "a", c=7)])
    assert (step.kind, step.member) == (Kind.WIPE, "c")
    assert "c has lost 7 messages of one" in step.reason


def test_a_rotten_leader_gives_way_first() -> None:
    step = decide(MEMBERS, [*held(LIST, "c"), *held("one", "a", c=7), *held("two", "c")])
    assert (step.kind, step.member, step.log) == (Kind.STEP_DOWN, "c", "two")


def test_two_rotten_members_need_a_human() -> None:
    assert decide(MEMBERS, [*held(LIST, "a"), *held("one", "a", b=1, c=1)]).kind is Kind.ALARM


def test_a_single_server_can_not_be_healed() -> None:
    assert decide(["a"], [Copy("one", "a", True, lost=3)]).kind is Kind.ALARM


@pytest.mark.parametrize("log", [LIST, "one", "two"])
def test_waits_for_a_member_that_is_behind_in_any_log(log: str) -> None:
    rotten = [replace(copy, lost=1) if (copy.log, copy.member) == ("two", "b") else copy for copy in HEALTHY]
    behind = [
        replace(c, current=False) if (c.log, c.member) == (log, "a") and not c.leads else c for c in rotten
    ]
    assert decide(MEMBERS, rotten).kind is Kind.WIPE
    if behind != rotten:
        assert decide(MEMBERS, behind).kind is Kind.WAIT


def test_waits_for_a_member_that_does_not_answer() -> None:
    assert decide(MEMBERS, [copy for copy in held("one", "a", b=1) if copy.member != "c"]).kind is Kind.WAIT


def test_waits_for_a_leader() -> None:
    assert decide(MEMBERS, [*held(LIST, "a"), *held("one", "", b=1)]).kind is Kind.WAIT


@given(st.lists(copy_strategy))
def test_never_wipes_what_is_needed(found: list[Copy]) -> None:
    step = decide(MEMBERS, found)
    if step.kind is Kind.WIPE:
        others = [member for member in MEMBERS if member != step.member]
        assert not any(copy.lost for copy in found if copy.member in others)
        assert any(copy.lost for copy in found if copy.member == step.member)
        assert not unsettled(others, found)


class Service:
    """A log service and its servers, as the healer sees them."""

    def __init__(self, *, found_when_stopped: list[Copy] | None = None) -> None:
        self.found = [*held(LIST, "b"), *held("one", "a", c=7)]
        self.found_when_stopped = found_when_stopped
        self.did: list[str] = []
        self.rotten = ""
        self.away = False
        self.scrubbed: list[tuple[str, str, int | None]] = []

    async def copies(self) -> list[Copy]:
        return list(self.found)

    async def step_down(self, stream: str) -> None:
        self.did.append(f"step down {stream}")
        self.found = [replace(c, leads=c.member == "a") if c.log == stream else c for c in self.found]

    async def scrub(self, stream: str, member: str, *, rate: float, only: int | None = None) -> str:
        self.scrubbed.append((stream, member, only))
        if self.away:
            raise LogUnavailable("no answer")
        return "gone" if member == self.rotten else ""

    async def stop(self, member: str) -> None:
        self.did.append(f"stop {member}")
        self.before = self.found
        self.found = [copy for copy in self.found if copy.member != member]
        if self.found_when_stopped is not None:
            self.found = self.found_when_stopped

    async def wipe(self, member: str) -> None:
        self.did.append(f"wipe {member}")
        self.before = [replace(copy, lost=0) if copy.member == member else copy for copy in self.before]

    async def start(self, member: str) -> None:
        self.did.append(f"start {member}")
        self.found = self.before


async def test_two_inspections_in_a_row_lead_to_a_wipe() -> None:
    service = Service()
    healer = Healer(service, MEMBERS, service)
    await healer.step()
    assert service.did == []
    assert "c has lost 7" in healer.message
    await healer.step()
    assert service.did == ["stop c", "wipe c", "start c"]
    assert (await healer.step()).kind is Kind.NOTHING
    assert healer.message == ""


async def test_a_passing_appearance_leads_to_nothing() -> None:
    service = Service()
    healer = Healer(service, MEMBERS, service)
    for _ in range(3):
        await healer.step()
        rotten, service.found = service.found, HEALTHY
        await healer.step()
        service.found = rotten
    assert service.did == []


async def test_it_is_started_unwiped_when_the_others_fall_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing, "SETTLE_WITHIN", 0.1)
    service = Service(found_when_stopped=[Copy(LIST, "b", True), Copy("one", "a", True), Copy(LIST, "a")])
    healer = Healer(service, MEMBERS, service)
    await healer.step()
    await healer.step()
    assert service.did == ["stop c", "start c"]


async def test_what_scrubbing_finds_is_healed() -> None:
    service = Service()
    service.found, service.rotten = HEALTHY, "c"
    healer = Healer(service, MEMBERS, service)
    assert (await healer.step()).kind is Kind.NOTHING
    await healer.scrub()
    for _ in range(4):
        await healer.step()
    assert service.did == ["step down two", "stop c", "wipe c", "start c"]
    assert (await healer.step()).kind is Kind.NOTHING


async def test_what_a_reader_found_is_looked_at_and_healed() -> None:
    service = Service()
    service.found, service.rotten = HEALTHY, "c"
    healer = Healer(service, MEMBERS, service)
    healer.suspect("c", "one", 7)
    for _ in range(4):
        await healer.step()
    assert service.scrubbed == [("one", "c", 7)]
    assert service.did == ["step down two", "stop c", "wipe c", "start c"]
    service.rotten = ""
    healer.suspect("c", "one", 7)  # Told again, after it was healed.
    assert (await healer.step()).kind is Kind.NOTHING
    assert len(service.scrubbed) == 2


async def test_what_a_reader_says_is_not_enough_to_wipe_a_member() -> None:
    service = Service()
    service.found = HEALTHY
    healer = Healer(service, MEMBERS, service)
    for service.away in (False, True):
        for _ in range(4):
            healer.suspect("c", "one", 7)
            healer.suspect("nobody", "one", 7)
            assert (await healer.step()).kind is Kind.NOTHING
    assert service.did == []


async def test_a_suspicion_is_looked_at_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing, "INSPECT_EVERY", 3600.0)
    service = Service()
    service.found, service.rotten = HEALTHY, "b"
    healer = Healer(service, MEMBERS, service)
    running = asyncio.create_task(healer.run())
    await asyncio.sleep(0)
    healer.suspect("b", "one", 7)
    async with asyncio.timeout(30):
        while not healer.message:
            await asyncio.sleep(0.01)
    running.cancel()


def inspection(
    member: str, leader: str, *, first: int = 1, last: int = 9, holes: int = 0, **replicas: bool
) -> Inspection:
    """What ``member`` says of the log "one" and the list of logs, both led by ``leader``."""
    group: dict[str, Any] = {"leader": leader}
    if member == leader:
        group["replicas"] = [
            {"name": name, "current": replicas.get(name, True)} for name in MEMBERS if name != member
        ]
    state = {"first_seq": first, "last_seq": last, "messages": last - first + 1 - holes}
    stream = {"name": "one", "cluster": group, "state": state}
    return Inspection.of({"meta_cluster": group, "account_details": [{"stream_detail": [stream]}]})


def of_one(before: dict[str, Inspection], after: dict[str, Inspection] | None = None) -> dict[str, Copy]:
    return {copy.member: copy for copy in copies(before, after or before) if copy.log == "one"}


class TestInspection:
    def test_all_is_well(self) -> None:
        found = of_one({member: inspection(member, "a") for member in MEMBERS})
        assert found == {
            member: Copy("one", member, member == "a", first=1, last=9, reaches=frozenset(reached))
            for member, reached in (("a", "bc"), ("b", ""), ("c", ""))
        }

    def test_of_two_that_answer_neither_is_known_to_have_lost_its_beginning_but_it_shows(self) -> None:
        found = of_one({"a": inspection("a", "a"), "b": inspection("b", "a", first=4)})
        assert {member: (copy.lost, copy.first) for member, copy in found.items()} == {
            "a": (0, 1),
            "b": (0, 4),
        }

    def test_holes_and_a_missing_beginning_are_losses(self) -> None:
        found = of_one(
            {
                "a": inspection("a", "a"),
                "b": inspection("b", "a", holes=2),
                "c": inspection("c", "a", first=4),
            }
        )
        assert {member: copy.lost for member, copy in found.items()} == {"a": 0, "b": 2, "c": 3}

    def test_what_is_no_log_has_holes_where_snapshots_were_deleted(self) -> None:
        answer = {member: inspection(member, "a", holes=3) for member in MEMBERS}
        for each in answer.values():
            each.groups[SNAPSHOTS_STREAM] = each.groups.pop("one")
            each.states[SNAPSHOTS_STREAM] = each.states.pop("one")
        found = list(copies(answer, answer))
        assert {each.log for each in found} == {SNAPSHOTS_STREAM, LIST}
        assert decide(MEMBERS, found).kind is Kind.NOTHING

    def test_who_is_rotten_may_lead_what_is_no_log_and_is_wiped_once_others_have_it(self) -> None:
        snapshots = [Copy(SNAPSHOTS_STREAM, member, member == "c") for member in MEMBERS]
        logs = held("one", "a", c=7) + held(LIST, "a")
        assert decide(MEMBERS, logs + snapshots).kind is Kind.WIPE
        behind = [replace(each, current=each.member != "b") for each in snapshots]
        assert decide(MEMBERS, logs + behind).kind is Kind.WAIT

    def test_trimming_that_has_not_reached_all_is_none(self) -> None:
        before = {"a": inspection("a", "a", first=4), "b": inspection("b", "a"), "c": inspection("c", "a")}
        after = {**before, "b": inspection("b", "a", first=4)}
        assert not any(copy.lost for copy in of_one(before, after).values())

    def test_only_the_leader_knows_who_is_current(self) -> None:
        found = of_one({member: inspection(member, "a", c=False) for member in MEMBERS})
        assert [found[member].current for member in MEMBERS] == [True, True, False]
        nobody = of_one({member: inspection(member, "a") for member in ("b", "c")})
        assert not any(copy.current or copy.leads for copy in nobody.values())

    def test_two_that_claim_to_lead_are_none(self) -> None:
        found = of_one({"a": inspection("a", "a"), "b": inspection("b", "b"), "c": inspection("c", "a")})
        assert not any(copy.leads or copy.current for copy in found.values())

    def test_a_leader_says_whom_it_does_not_reach(self) -> None:
        leader = inspection("a", "a")
        leader.groups["one"]["replicas"][1]["offline"] = True
        found = of_one({"a": leader, "b": inspection("b", "a")})
        assert {member: copy.reaches for member, copy in found.items()} == {
            "a": frozenset("b"),
            "b": frozenset(),
        }

    def test_none_is_current_while_it_is_not_known_what_the_leader_had(self) -> None:
        after = {member: inspection(member, "a") for member in MEMBERS}
        unborn = {**after, "a": Inspection({}, {})}
        missed = {member: each for member, each in after.items() if member != "a"}
        for before in (unborn, missed):
            found = of_one(before, after)
            assert {member: copy.current for member, copy in found.items()} == {
                "a": True,
                "b": False,
                "c": False,
            }

    def test_what_was_committed_but_not_applied_is_behind(self) -> None:
        before = {
            "a": inspection("a", "a", last=9),
            "b": inspection("b", "a"),
            "c": inspection("c", "a", last=5),
        }
        after = {
            "a": inspection("a", "a", last=12),
            "b": inspection("b", "a"),
            "c": inspection("c", "a", last=8),
        }
        assert {m: copy.current for m, copy in of_one(before, after).items()} == {
            "a": True,
            "b": True,
            "c": False,
        }
