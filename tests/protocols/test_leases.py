"""Auctions and leases: who is awarded, when a lease is renewed, and who replaces a silent agent."""

import attrs
import pytest

from protocols.effects import (
    Publish,
    ReportPeer,
    SetAlarm,
)
from protocols.entities import Lease, Stage, lease_entity_id
from protocols.load import lane_entity_id
from protocols.messages import Level, Role, WorkOrder
from protocols.stimuli import (
    AlarmRang,
    BatchCommitted,
)
from tests.network_of_keys import AGENTS
from tests.protocols.stepping import (
    BATCH,
    NOW,
    RULES,
    SAID,
    SteppedNode,
    executors,
    index_of,
    leased,
    result,
    ring,
    sent,
)


def test_too_few_bidders_and_the_batch_waits() -> None:
    node = SteppedNode()
    effects = leased(node, agents=1)
    assert sent(effects, WorkOrder) == []
    assert node.stage() is Stage.LEASING
    lease = node.entities[lease_entity_id(Level.ENHANCED, 2)]
    assert isinstance(lease, Lease)
    assert (lease.failures, lease.waiting) == (1, (lane_entity_id(Level.ENHANCED, 2),))
    alarm = next(effect for effect in effects if isinstance(effect, SetAlarm))
    again = node.step(AlarmRang(now_ms=alarm.at_ms, entity_id=lease.entity_id))
    assert any(isinstance(effect, Publish) for effect in again)


def test_a_live_lease_takes_no_auction() -> None:
    node = SteppedNode()
    leased(node)
    manifest = attrs.evolve(BATCH.manifest, message=attrs.evolve(SAID, source_sequence=2))
    effects = node.step(BatchCommitted(now_ms=NOW + 400, manifest=manifest, stateful=False))
    assert len(sent(effects, WorkOrder)) == 3
    assert not any(isinstance(effect, Publish) for effect in effects)


def test_a_lease_is_renewed_before_it_runs_out() -> None:
    node = SteppedNode()
    leased(node)
    manifest = attrs.evolve(BATCH.manifest, message=attrs.evolve(SAID, source_sequence=2))
    late_ms = NOW + RULES.lease_ms - RULES.lease_ms // 4
    effects = node.step(BatchCommitted(now_ms=late_ms, manifest=manifest, stateful=False))
    assert len(sent(effects, WorkOrder)) == 3  # under the old lease
    assert any(isinstance(effect, Publish) for effect in effects)


@pytest.mark.parametrize(("agents", "early"), [(2, True), (3, False)])
def test_a_lease_with_too_few_agents_is_renewed_early(agents: int, early: bool) -> None:
    """Two of two are the quorum of enhanced: whoever was away and is back must not wait for the lease's end."""
    node = SteppedNode()
    leased(node, agents=agents)
    heard = []
    for sequence, later_ms in ((2, RULES.lease_ms // 16), (3, RULES.lease_ms // 4)):
        manifest = attrs.evolve(BATCH.manifest, message=attrs.evolve(SAID, source_sequence=sequence))
        effects = node.step(BatchCommitted(now_ms=NOW + later_ms, manifest=manifest, stateful=False))
        assert len(sent(effects, WorkOrder)) == agents, "under the lease that stands"
        heard.append(any(isinstance(effect, Publish) for effect in effects))
    assert heard == [False, early]


def test_a_renewal_that_came_to_nothing_does_not_stop_the_next_auction() -> None:
    """Nobody bids while the node is cut off; its lease runs out later, and must be had again."""
    node = SteppedNode()
    leased(node)
    entity_id = lease_entity_id(Level.ENHANCED, 2)
    manifest = attrs.evolve(BATCH.manifest, message=attrs.evolve(SAID, source_sequence=2))
    now_ms = NOW + RULES.lease_ms - RULES.lease_ms // 4
    node.step(BatchCommitted(now_ms=now_ms, manifest=manifest, stateful=False))
    effects = node.step(AlarmRang(now_ms=now_ms + RULES.bid_window_ms, entity_id=entity_id))
    alarm = next(effect for effect in effects if isinstance(effect, SetAlarm))
    node.step(AlarmRang(now_ms=alarm.at_ms, entity_id=entity_id))
    manifest = attrs.evolve(BATCH.manifest, message=attrs.evolve(SAID, source_sequence=3))
    effects = node.step(BatchCommitted(now_ms=NOW + 2 * RULES.lease_ms, manifest=manifest, stateful=False))
    assert any(isinstance(effect, Publish) for effect in effects)


def test_bidders_that_are_far_away_are_waited_for_longer_each_time() -> None:
    node = SteppedNode()
    entity_id = lease_entity_id(Level.ENHANCED, 2)
    effects = node.step(BatchCommitted(now_ms=NOW, manifest=BATCH.manifest, stateful=False))
    windows, now_ms = [], NOW
    for _ in range(6):
        closes_ms = next(effect.at_ms for effect in effects if isinstance(effect, SetAlarm))
        windows.append((closes_ms - now_ms) // RULES.bid_window_ms)
        effects = node.step(AlarmRang(now_ms=closes_ms, entity_id=entity_id))
        now_ms = next(effect.at_ms for effect in effects if isinstance(effect, SetAlarm))
        effects = node.step(AlarmRang(now_ms=now_ms, entity_id=entity_id))
    assert windows == [1, 2, 4, 8, 16, 16]


def test_those_who_stay_silent_are_replaced_well_before_the_deadline() -> None:
    node = SteppedNode()
    leased(node, agents=4)
    awarded = executors(node)
    (reserve,) = {agent.identity for agent in AGENTS[:4]} - awarded
    first, *silent = sorted(awarded)
    node.step(result(index_of(first)))
    patience_ends_ms = node.batch.patience_ends_ms
    assert NOW < patience_ends_ms < node.batch.attempt_ends_ms
    effects = ring(node, patience_ends_ms)
    assert [order.to for order in sent(effects, WorkOrder)] == [reserve]
    late = [effect for effect in effects if isinstance(effect, ReportPeer)]
    assert {(each.peer, each.outcome) for each in late} == {(silent[0], "late")}
    assert {each.role for each in late} == {Role.NORMALIZE, Role.VALIDATE}
    assert executors(node) == {first, reserve, silent[1]}
    node.step(result(index_of(reserve)))
    assert node.stage() is Stage.CERTIFYING


def test_the_next_batch_of_a_lease_goes_to_the_substitute() -> None:
    node = SteppedNode()
    leased(node, agents=4)
    silent = sorted(executors(node))[0]
    ring(node, node.batch.patience_ends_ms)
    lease = node.entities[lease_entity_id(Level.ENHANCED, 2)]
    assert isinstance(lease, Lease)
    assert lease.grant is not None
    assert silent not in {award.agent for award in lease.grant.awards}
    assert lease.grant.reserves == ()


def test_without_a_reserve_the_same_are_asked_again() -> None:
    node = SteppedNode()
    leased(node, agents=3)
    asked = executors(node)
    effects = ring(node, node.batch.patience_ends_ms)
    assert {order.to for order in sent(effects, WorkOrder)} == asked
    assert executors(node) == asked


def test_patience_follows_what_is_usual() -> None:
    node = SteppedNode()
    leased(node, agents=4)
    slow = node.batch.patience_ends_ms - node.batch.asked_ms
    assert slow == RULES.attempt_ms // 3, "nothing is known yet"
    for agent in sorted(executors(node))[:2]:
        observed = attrs.evolve(result(index_of(agent)), now_ms=node.batch.asked_ms + 40)
        node.step(observed)
    lease = node.entities[lease_entity_id(Level.ENHANCED, 2)]
    assert isinstance(lease, Lease)
    assert lease.pace is not None
    assert 40_000 <= lease.pace.mean_us < 60_000
    assert node.batch.patience_ends_ms - node.batch.asked_ms == RULES.patience_ms_min
