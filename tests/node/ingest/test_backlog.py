"""Admission by drain: how many events are taken in, from whom, and when those refused may come again."""

from contextlib import closing

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from node.ingest.backlog import FIRST_EVENTS, Backlog, BacklogLimits, OverloadedError, Reservation
from node.ingest.event_counts import Lane
from node.ingest.request_hints import source_of
from node.worker.parsing.bodies import RequestEncoding
from protocols.messages import Level

BASIC, CRITICAL = (Level.BASIC, 1), (Level.CRITICAL, 3)
LIMITS = BacklogLimits(unsettled_max=1_000_000, target_delay_s=2.0, batch_events=100)


@attrs.define
class World:
    """A backlog with a clock, batches that wait, and lanes that lack agents, all set by hand."""

    limits: BacklogLimits = LIMITS
    now_s: float = 0.0
    held_up: set[str] = attrs.Factory(set)
    blocked: set[Lane] = attrs.Factory(set)
    number: int = 0
    backlog: Backlog = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.backlog = Backlog(
            self.limits,
            shortfall=lambda level, quorum: "no agents" if (level, quorum) in self.blocked else "",
            is_held_up=self.held_up.__contains__,
            clock=lambda: self.now_s,
        )

    def enter(self, source: str, events: int, lane: Lane = BASIC, caller: str | None = None) -> str:
        self.number += 1
        callers = None if caller is None else {caller: events}
        self.backlog.enter(f"b{self.number}", events, source_id=source, lane=lane, callers=callers)
        return f"b{self.number}"

    def drains(self, per_s: int, seconds: float = 10.0) -> None:
        """Let so many events a second end, for a while."""
        for _ in range(int(seconds * 10)):
            self.now_s += 0.1
            self.backlog.leave(self.enter("drained", per_s // 10), has_ended=True)

    def is_taken(self, source: str | None, events: int = 100, caller: str | None = None) -> bool:
        return self.backlog.refusal(events, source_id=source, caller=caller) is None


def test_as_many_events_are_taken_in_as_end_within_the_target() -> None:
    world = World()
    world.drains(5_000)
    taken = 0
    while world.is_taken("s1", 500):
        world.enter("s1", 500)
        taken += 500
    assert taken == pytest.approx(2 * 5_000, rel=0.1)


@pytest.mark.parametrize("sources", [1, 2, 5, 20])
def test_floods_share_what_is_taken_in_and_leave_room_for_one_more(sources: int) -> None:
    world = World()
    world.drains(5_000)
    taken = dict.fromkeys(range(sources), 0)
    while any(world.is_taken(f"s{source}", 50) for source in taken):
        for source in taken:
            if world.is_taken(f"s{source}", 50):
                world.enter(f"s{source}", 50)
                taken[source] += 50
    assert min(taken.values()) >= max(taken.values()) - 50, "equal shares"
    assert sum(taken.values()) == pytest.approx(10_000, rel=0.25)
    assert world.is_taken("quiet", 500)


def test_a_caller_has_a_share_whatever_sources_it_names() -> None:
    world = World()
    world.drains(5_000)
    taken = 0
    while taken < 100_000 and world.is_taken("s1", 500, caller="c1"):
        world.enter("s1", 500, caller="c1")
        taken += 500
    assert taken < 12_000
    assert world.is_taken("s1", 500, caller="c2"), "another caller's first batch of the same source"
    world.enter("s1", 15_000, caller="c1")
    assert not world.is_taken("s1", 500, caller="c2"), "no more than twice the bound, whoever comes"


def test_before_anything_ended_a_few_thousand_are_taken_in() -> None:
    world = World()
    taken = 0
    while world.is_taken("s1", 500):
        world.enter("s1", 500)
        taken += 500
    assert taken == pytest.approx(FIRST_EVENTS, rel=0.2)


def test_a_quiet_node_keeps_the_rate_that_it_once_had() -> None:
    world = World()
    world.drains(5_000)
    world.drains(10, seconds=60)
    assert world.backlog.drain.per_s == pytest.approx(5_000, rel=0.05)


def test_a_slower_drain_is_noticed_by_what_waits() -> None:
    world = World()
    world.drains(5_000)
    for _ in range(3):
        world.enter("old", 1_500)
    world.now_s += 1.1
    world.drains(500)
    assert world.backlog.drain.per_s == pytest.approx(500, rel=0.1)


def test_while_events_wait_longer_than_the_target_only_first_batches_are_taken() -> None:
    world = World()
    world.drains(5_000)
    old = [world.enter("s1", 1_500) for _ in range(3)]
    world.now_s += 1.6
    refused = world.backlog.refusal(100, source_id="s1")
    assert refused is not None
    assert "wait for their certificates for 3.2 s" in str(refused)
    assert world.is_taken("s2")
    world.held_up.update(old)
    world.now_s += 0.2
    assert world.is_taken("s1"), "they failed, and wait for their next attempt: that says nothing of a queue"


def test_few_events_that_wait_for_long_keep_nobody_out_and_say_nothing_of_the_rate() -> None:
    """They wait for an auction, or for an agent that fell silent: not because of their number."""
    world = World()
    before = world.backlog.drain.per_s
    first = [world.enter("s1", 20) for _ in range(10)]
    world.now_s += 3
    assert world.is_taken("s1", 20)
    for batch_id in first:
        world.now_s += 0.1
        world.backlog.leave(batch_id, has_ended=True)
    assert world.backlog.drain.per_s == before


def test_one_batch_that_takes_long_keeps_nobody_out() -> None:
    """Its agents may be slow, or say that they are at it and are not."""
    world = World()
    world.drains(5_000)
    world.enter("s1", 100)
    world.now_s += 60.0
    assert world.is_taken("s1")
    world.enter("s1", 100)
    world.enter("s1", 100)
    assert world.is_taken("s1"), "the others are young"


def test_an_event_of_one_source_is_no_measure_for_those_of_another() -> None:
    sizes = World().backlog.sizes
    for _ in range(50):
        sizes.learn(1_000_000, "large", 1)
        sizes.learn(40, "small", 1)
    assert (sizes.estimate(1_000_000, "large"), sizes.estimate(4_000, "small")) == (1, 100)
    assert sizes.estimate(25_000, "unknown") == sizes.estimate(25_000, None) == 100


def test_many_sources_are_not_all_remembered() -> None:
    sizes = World().backlog.sizes
    for number in range(10_000):
        sizes.learn(1_000, f"s{number}", 1)
    assert sizes.estimate(1_000, "s9999") < sizes.estimate(1_000, "s0") == 4


def test_what_waits_for_agents_that_are_not_there_has_the_fixed_bound_alone() -> None:
    world = World(limits=attrs.evolve(LIMITS, unsettled_max=100_000))
    world.drains(1_000)
    world.blocked.add(CRITICAL)
    taken = 0
    while world.is_taken("s1", 1_000):
        world.enter("s1", 1_000, lane=CRITICAL)
        world.now_s += 0.1
        taken += 1_000
    assert taken == 100_000
    assert not world.is_taken("s2"), "as many as may wait at all"


def test_others_go_on_beside_what_waits_for_agents() -> None:
    world = World()
    world.drains(1_000)
    world.blocked.add(CRITICAL)
    world.enter("s1", 50_000, lane=CRITICAL, caller="c1")
    world.now_s += 0.2
    world.enter("s2", 100, caller="c1")
    assert world.is_taken("s2", caller="c1")
    world.blocked.clear()
    world.now_s += 0.2
    assert not world.is_taken("s2", caller="c1"), "the agents are back: it drains first"
    assert not world.is_taken("s1", caller="c1")


def test_those_refused_come_back_when_the_excess_has_ended_and_not_all_at_once() -> None:
    world = World()
    world.drains(1_000)
    world.enter("s1", 12_500)
    waits = set()
    for _ in range(200):
        refused = world.backlog.refusal(500, source_id="s1")
        assert refused is not None
        waits.add(refused.fields["retryAfter"])
    assert waits <= set(range(10, 23)), "10,500 too many, at 1,000 a second, and up to twice as long"
    assert len(waits) > 3


def test_what_a_request_has_more_than_it_seemed_is_not_refused_later() -> None:
    world = World()
    world.drains(1_000)
    with closing(world.backlog.reserve(10, source_id="s1")) as room:
        room.settle("s1", 100_000)
        assert world.backlog.unsettled == 100_000
    assert world.backlog.unsettled == 0


def test_a_request_of_another_source_than_it_seemed_is_looked_at_again() -> None:
    world = World()
    world.drains(1_000)
    world.enter("flood", 10_000)
    assert not world.is_taken("flood")
    with closing(world.backlog.reserve(100, source_id="made up")) as room, pytest.raises(OverloadedError):
        room.settle("flood", 100)
    assert world.backlog.unsettled == 10_000


def test_a_merged_batch_keeps_the_shares_of_its_parts() -> None:
    world = World()
    world.drains(1_000)
    first, second = world.enter("s1", 1_500, caller="c1"), world.enter("s1", 900, caller="c2")
    world.backlog.merge([first, second], "whole", 2_400)
    world.backlog.enter("whole", 7)  # reported once more
    assert world.backlog.unsettled == 2_400
    other = world.enter("s2", 50)
    assert not world.is_taken("s2", 100, caller="c1")
    assert world.is_taken("s2", 100, caller="c3")
    world.backlog.leave("whole")
    assert world.is_taken("s2", 100, caller="c1")
    world.backlog.leave(other)
    assert world.backlog.unsettled == 0


@pytest.mark.parametrize(
    ("body", "form", "source"),
    [
        (b'{"sourceId": "s1", "events": []}', RequestEncoding(), "s1"),
        (b'{"events":[' + b'{"data":1},' * 5_000 + b'{}],"sourceId":"s1"}', RequestEncoding(), "s1"),
        (b'{"events":[' + b"1," * 5_000 + b'"sourceId":"s1",' + b"1," * 5_000, RequestEncoding(), None),
        (b'{"sourceId":"a\\u0062"}', RequestEncoding(), None),
        (b'{"sourceId":"s1"}', RequestEncoding(coding="gzip"), None),
        (b"{}", RequestEncoding(shape="lines", source_id="s2"), "s2"),
        (b'{"sourceId":"\xff\xfe"}', RequestEncoding(), "��"),
        (b"", RequestEncoding(), None),
    ],
)
def test_the_source_is_seen_without_parsing(body: bytes, form: RequestEncoding, source: str | None) -> None:
    assert source_of(body, form) == source


NAMES = st.sampled_from("ab")
EVENTS = st.integers(0, 3_000)
LANES = st.sampled_from([BASIC, CRITICAL])


class Counts(RuleBasedStateMachine):
    """Whatever comes and goes, the events add up, and nothing is left when all has ended."""

    rooms = Bundle("rooms")
    batches = Bundle("batches")

    def __init__(self) -> None:
        super().__init__()
        self.world = World(limits=attrs.evolve(LIMITS, unsettled_max=20_000))
        self.reserved: dict[Reservation, int] = {}
        self.entered: dict[str, int] = {}
        self.refusals: list[OverloadedError] = []

    @rule(target=rooms, source=st.none() | NAMES, caller=st.none() | NAMES, events=EVENTS)
    def reserve(self, source: str | None, caller: str | None, events: int) -> Reservation | None:
        try:
            room = self.world.backlog.reserve(events, source_id=source, caller=caller)
        except OverloadedError as refused:
            self.refusals.append(refused)
            return None
        self.reserved[room] = events
        return room

    @rule(room=rooms, source=NAMES, events=EVENTS)
    def settle(self, room: Reservation | None, source: str, events: int) -> None:
        if room not in self.reserved or room is None:
            return
        try:
            room.settle(source, events)
        except OverloadedError:
            self.reserved[room] = 0
        else:
            self.reserved[room] = events

    @rule(room=consumes(rooms))
    def end(self, room: Reservation | None) -> None:
        if room is not None:
            self.reserved.pop(room, None)
            room.close()

    @rule(target=batches, source=NAMES, events=EVENTS, lane=LANES, caller=st.none() | NAMES)
    def enter(self, source: str, events: int, lane: Lane, caller: str | None) -> str:
        batch_id = self.world.enter(source, events, lane, caller)
        self.entered[batch_id] = events
        return batch_id

    @rule(batch_id=consumes(batches), has_ended=st.booleans())
    def leave(self, batch_id: str, has_ended: bool) -> None:
        self.world.backlog.leave(batch_id, has_ended=has_ended)
        self.entered.pop(batch_id, None)

    @rule(target=batches, first=consumes(batches), second=consumes(batches))
    def merge(self, first: str, second: str) -> str:
        whole = f"{first}+{second}"
        events = self.entered.pop(first, 0) + self.entered.pop(second, 0)
        self.world.backlog.merge([first, second], whole, events)
        self.entered[whole] = events
        return whole

    @rule(seconds=st.floats(0, 5), lane=LANES)
    def time_passes(self, seconds: float, lane: Lane) -> None:
        self.world.now_s += seconds
        self.world.blocked ^= {lane}

    @invariant()
    def events_add_up(self) -> None:
        assert self.world.backlog.unsettled == sum(self.reserved.values()) + sum(self.entered.values())

    def teardown(self) -> None:
        assert {refused.fields["retryAfter"] for refused in self.refusals} <= set(range(1, 61))
        for room in self.reserved:
            room.close()
        for batch_id in self.entered:
            self.world.backlog.leave(batch_id)
        assert self.world.backlog.unsettled == 0
        assert all(self.world.is_taken(name, 1, caller=name) for name in "ab"), "nobody holds anything"


Counts.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestCounts = Counts.TestCase
