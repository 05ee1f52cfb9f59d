"""More work than the agents can do at once: it waits, drains at the rate of the agents, and none of it dies of it.

Agents compute one batch after the other (``Costs``). ``WithoutBounds`` is the network as it would be without a window,
credit and words of agents, where silence since the dispatch costs an attempt: it collapses. Everything is dispatched
at once; what does not fit in the agents' queues is refused, what fits is answered after everybody stopped waiting, and
all of it is computed again, until the batches are dead.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

import attrs
import pytest

from protocols.coordination import attempts
from protocols.effects import Effect, RunRole, Send
from protocols.load import FLOW_ID, Flow
from protocols.messages import Level, WorkStatus
from protocols.stimuli import RoleFailed
from tests.simulation.drivers import Costs, Faults, Node
from tests.simulation.world import World

BATCHES = 1_000
EVENTS = 17
COSTS = Costs(batch_us=180_000, event_us=1_000)  # of a machine that is slow, or shared with others
SHARE = 0.8  # of the steady rate, at least, at which a backlog drains
QUEUE_MAX = 512  # calls that a pool of workers lets wait


class WithoutBounds(World):
    """Everything is dispatched at once and begun at once, and agents say nothing while they compute."""

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed, **options)
        for node in self.nodes.values():
            node.rules = attrs.evolve(
                node.rules,
                window_first=10**9,
                window_max=10**9,
                capacity=10**9,
                workers=10**9,
                queue_ms=node.rules.attempt_ms,
                attempts_max=5,
            )

    def _carry_out(self, node: Node, effect: Effect) -> None:
        assert self.costs is not None
        if isinstance(effect, Send) and isinstance(effect.message, WorkStatus):
            return
        if isinstance(effect, RunRole):
            manifest = effect.order.message.manifest.message
            waiting_us = node.busy_until_us - 1_000 * self.now_ms
            if waiting_us > QUEUE_MAX * self.costs.of(manifest.events):
                refused = partial(_busy, manifest.batch_id)
                self.tell(node, refused, 1)
                return
        super()._carry_out(node, effect)


def _busy(batch_id: str, now_ms: int) -> RoleFailed:
    return RoleFailed(now_ms=now_ms, batch_id=batch_id, reason="too many calls wait for a worker")


def post(world: World, node: Node, sources: Sequence[str], batches: int, events: int = EVENTS) -> None:
    for sequence in range(batches):
        world.ingest(node, sources[sequence % len(sources)], sequence, stateful=False, events=events)


def drained_ms(world: World, nodes: Sequence[Node], batches: int, within_ms: int) -> int:
    """Run until the nodes have so many certificates; how long that took."""
    began_ms = world.now_ms
    for until_ms in range(began_ms, began_ms + within_ms, 100):
        world.run_for(until_ms - world.started_ms)
        if sum(len(node.sealed) for node in nodes) >= batches:
            return until_ms - began_ms
    pytest.fail(f"{sum(len(node.sealed) for node in nodes)} of {batches} certified in {within_ms} ms")


def late(world: World) -> Counter[tuple[bytes, str]]:
    """What coordinators held against honest agents."""
    honest = {node.key for node in world.nodes.values() if not node.lies and not node.equivocates}
    found: Counter[tuple[bytes, str]] = Counter()
    for node in world.nodes.values():
        found.update({key: times for key, times in node.judged.items() if key[0] in honest and key[1] != "agreed"})
    return found


def away(world: World, nodes: Sequence[Node]) -> None:
    for node in nodes:
        node.up = False
        node.epoch += 1


def test_without_bounds_a_backlog_collapses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of it dies, though agents compute all the time."""
    monkeypatch.setattr(attempts, "postpone", attempts.fail)
    world = WithoutBounds(1, nodes=3, faults=Faults(), costs=COSTS)
    first = next(iter(world.nodes.values()))
    post(world, first, ["a"], BATCHES)
    world.run_for(400_000)
    computed = sum(sum(node.computed.values()) for node in world.nodes.values()) / len(world.nodes)
    print(len(first.sealed), len(first.buried), computed)
    assert len(first.buried) > BATCHES // 2


@pytest.mark.parametrize("stateful", [False, True])
def test_a_backlog_drains_at_the_rate_of_the_agents(stateful: bool) -> None:
    world = World(1, nodes=3, faults=Faults(), costs=COSTS)
    first, *others = world.nodes.values()
    away(world, others)
    post(world, first, ["a", "b"], BATCHES)
    world.run_for(30_000)
    assert not first.sealed
    for node in others:
        world.restart(node)
    took = drained_ms(world, [first], BATCHES, 400_000)
    steady = BATCHES * COSTS.of(EVENTS) // 1_000
    flow = first.entities[FLOW_ID]
    print(took, steady, flow.window.size, world.sent)
    assert took < steady / SHARE
    assert not first.buried
    assert not late(world)
