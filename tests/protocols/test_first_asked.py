"""As few agents as make a quorum are asked first, once it is known how long answers take; the others when needed."""

import attrs
import pytest

from protocols.coordination import dispatch
from protocols.effects import Effect, Publish
from protocols.entities import Lease, Pace, Stage, lease_entity_id
from protocols.messages import CertifyOrder, Level, WorkOrder, WorkPhase
from protocols.stimuli import AlarmRang, BatchCommitted, BidReceived
from tests.protocols.stepping import (
    BATCH,
    NOW,
    RULES,
    SELF,
    SteppedNode,
    bid,
    certification,
    index_of,
    lying,
    refusal,
    result,
    ring,
    sent,
    status,
)

LEASE = lease_entity_id(Level.ENHANCED, 2)
PACE = Pace(mean_us=100_000, deviation_us=50_000)
USUAL_MS = 300
BEGUN_MS = NOW + RULES.bid_window_ms


@pytest.fixture(autouse=True)
def _not_shown_to_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "FULL_SHARE", 10**9)


def begun(node: SteppedNode) -> tuple[Effect, ...]:
    """Dispatch the batch to agents of which it is known how long they take."""
    announced = node.step(BatchCommitted(now_ms=NOW, manifest=BATCH.manifest, stateful=False))
    announcement = next(effect for effect in announced if isinstance(effect, Publish)).message
    for agent in range(3):
        message = attrs.evolve(bid(agent).message, announcement_id=announcement.key_id)
        node.step(BidReceived(now_ms=NOW + 10, bid=attrs.evolve(bid(agent), message=message)))
    lease = node.entities[LEASE]
    assert isinstance(lease, Lease)
    node.entities[LEASE] = attrs.evolve(lease, pace=PACE)
    return node.step(AlarmRang(now_ms=BEGUN_MS, entity_id=LEASE))


def asked(effects: tuple[Effect, ...]) -> list[int]:
    return [index_of(effect.to) for effect in sent(effects, WorkOrder)]


def started() -> tuple[SteppedNode, int, int]:
    """A node with a batch dispatched, which other agent was asked, and which was not."""
    node = SteppedNode()
    first = asked(begun(node))
    assert len(first) == 2
    assert index_of(SELF) in first, "its own agent is always one of them: it needs the outputs"
    (other,) = set(first) - {index_of(SELF)}
    return node, other, ({0, 1, 2} - set(first)).pop()


def test_as_many_as_make_a_quorum_are_asked_and_suffice() -> None:
    node, other, left = started()
    node.step(result(0))
    effects = node.step(result(other))
    assert node.stage() is Stage.CERTIFYING
    assert {index_of(effect.to) for effect in sent(effects, CertifyOrder)} == {0, other}
    node.step(certification(0))
    node.step(certification(other))
    assert node.stage() is Stage.SEALING
    assert left not in {index_of(ask.agent) for ask in node.batch.asks}


def test_while_it_is_not_known_how_long_agents_take_all_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    node = SteppedNode()
    monkeypatch.setattr("tests.protocols.test_first_asked.PACE", None)
    assert sorted(asked(begun(node))) == [0, 1, 2]


def test_a_share_of_the_batches_goes_to_all_so_that_all_stay_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "FULL_SHARE", 1)
    assert sorted(asked(begun(SteppedNode()))) == [0, 1, 2]


def test_another_is_asked_beside_one_that_takes_longer_than_usual_and_nobody_is_blamed() -> None:
    node, _, left = started()
    node.step(result(0))
    assert node.batch.alarm_ms == BEGUN_MS + USUAL_MS
    effects = ring(node, node.batch.alarm_ms)
    assert asked(effects) == [left]
    assert {effect.to for effect in sent(effects, WorkOrder)} <= {award.agent for award in node.batch.awards}
    node.step(result(left))
    assert node.stage() is Stage.CERTIFYING


def test_another_is_asked_beside_one_that_says_that_it_is_busy() -> None:
    node, other, left = started()
    node.step(result(0))
    node.step(status(other, WorkPhase.QUEUED, now_ms=BEGUN_MS + 100))
    assert asked(ring(node, BEGUN_MS + USUAL_MS)) == [left]


def test_a_contradiction_calls_the_others_at_once() -> None:
    node, other, left = started()
    node.step(result(0))
    assert left in asked(node.step(lying(other, 1)))


def test_a_refusal_calls_the_others_at_once() -> None:
    node, other, left = started()
    node.step(result(0))
    assert left in asked(node.step(refusal(other)))


def test_one_that_has_no_room_is_not_asked_and_the_next_is() -> None:
    node, other, left = started()
    node.step(result(0))
    effects = node.step(status(other, WorkPhase.NO_ROOM, wait_ms=5_000))
    assert left in asked(effects)


def test_where_all_are_asked_silent_ones_are_asked_again() -> None:
    node, other, left = started()
    node.step(result(0))
    ring(node, BEGUN_MS + USUAL_MS)
    again: list[int] = []
    while not again:
        assert node.stage() is Stage.PROCESSING
        again = asked(ring(node, node.batch.alarm_ms))
    assert set(again) == {other, left}
    node.step(result(left))
    assert node.stage() is Stage.CERTIFYING
