"""More work than agents can do at once: it waits, drains at the rate of the agents, and none of it dies of waiting.

Agents compute one batch after the other (``Costs``). ``WithoutBounds`` is the network as it would be without a
window, credit and the agents' word, where silence since the dispatch costs an attempt: it collapses. Everything is
dispatched at once; what does not fit in the agents' queues is refused, what fits is answered after everybody stopped
waiting, and all of it is computed again, until the batches are dead.
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
COST_MS = COSTS.of(EVENTS) // 1_000
SHARE = 0.8  # of the steady rate, at least, at which a backlog drains
STRAGGLER_MS = 1_000  # the most by which the simulated links delay a message now and then
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
        if isinstance(effect, Send) and isinstance(effect.message, WorkStatus):
            return
        if isinstance(effect, RunRole) and node.busy_until_us - 1_000 * self.now_ms > QUEUE_MAX * COSTS.of(EVENTS):
            batch_id = effect.order.message.manifest.message.batch_id
            self.tell(node, partial(_refused_by_workers, batch_id), 1)
            return
        super()._carry_out(node, effect)


def _refused_by_workers(batch_id: str, now_ms: int) -> RoleFailed:
    return RoleFailed(now_ms=now_ms, batch_id=batch_id, reason="too many calls wait for a worker")


class WithIdlers(World):
    """Agents say that they compute the batches of ``basic``, and never do."""

    def _run(self, node: Node, effect: RunRole) -> None:
        if effect.order.message.manifest.message.level is not Level.BASIC:
            super()._run(node, effect)


def post(world: World, node: Node, sources: Sequence[str], batches: int) -> None:
    for sequence in range(batches):
        world.ingest(node, sources[sequence % len(sources)], sequence, stateful=False, events=EVENTS)


def sealed(nodes: Sequence[Node]) -> int:
    return sum(len(node.sealed) for node in nodes)


def drained_ms(world: World, nodes: Sequence[Node], batches: int, within_ms: int) -> int:
    """Run until the nodes have so many certificates; how long that took."""
    began_ms = world.now_ms
    for until_ms in range(began_ms, began_ms + within_ms, 100):
        world.run_for(until_ms - world.started_ms)
        if sealed(nodes) >= batches:
            return until_ms - began_ms
    pytest.fail(f"{sealed(nodes)} of {batches} certified in {within_ms} ms")


def held_against(world: World, honest: Sequence[Node]) -> Counter[str]:
    """The outcomes other than agreement that coordinators counted against honest agents."""
    keys = {node.key for node in honest}
    found: Counter[str] = Counter()
    for node in world.nodes.values():
        for (key, outcome), times in node.judged.items():
            if key in keys and outcome != "agreed":
                found[outcome] += times
    return found


def check_nothing_died(world: World) -> None:
    for node in world.nodes.values():
        assert not node.buried, next(iter(node.buried.values()))


def leave(nodes: Sequence[Node]) -> None:
    for node in nodes:
        node.up = False
        node.epoch += 1


def flow_of(node: Node) -> Flow:
    flow = node.entities[FLOW_ID]
    assert isinstance(flow, Flow)
    return flow


def test_without_bounds_a_backlog_collapses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of batches die of the queue alone, though agents compute all the time. With bounds none does."""
    monkeypatch.setattr(attempts, "postpone", attempts.fail)
    world = WithoutBounds(1, nodes=3, faults=Faults(), costs=COSTS)
    first = next(iter(world.nodes.values()))
    post(world, first, ["a"], BATCHES)
    world.run_for(BATCHES * COST_MS)
    assert len(first.buried) > BATCHES // 4, len(first.sealed)


@pytest.mark.parametrize("sources", [1, 10])
def test_a_backlog_drains_at_the_rate_of_the_agents(sources: int) -> None:
    """It waits for a quorum that comes back."""
    world = World(1, nodes=3, faults=Faults(), costs=COSTS)
    first, *others = world.nodes.values()
    leave(others)
    post(world, first, [f"source {number}" for number in range(sources)], BATCHES)
    world.run_for(30_000)
    assert not first.sealed
    for node in others:
        world.restart(node)
    took_ms = drained_ms(world, [first], BATCHES, 2 * BATCHES * COST_MS)
    assert took_ms < BATCHES * COST_MS / SHARE
    check_nothing_died(world)
    assert not held_against(world, [first, *others])
    computed = [sum(node.computed.values()) for node in world.nodes.values()]
    assert max(computed) <= BATCHES, "nothing is computed twice"


def test_a_backlog_drains_while_agents_come_and_go() -> None:
    """One after the other is killed and comes back, half of the time one of four is away."""
    world = World(2, nodes=4, faults=Faults(), costs=COSTS)
    first, *others = world.nodes.values()
    random = Random(2)
    post(world, first, ["a", "b"], BATCHES)
    for at_ms in range(5_000, 2 * BATCHES * COST_MS, 20_000):
        world.at(at_ms, partial(world.crash, random.choice(others), 10_000))
    took_ms = drained_ms(world, [first], BATCHES, 2 * BATCHES * COST_MS)
    assert took_ms < BATCHES * COST_MS / SHARE
    check_nothing_died(world)


def test_liars_and_a_backlog() -> None:
    world = World(3, nodes=5, faults=Faults(liars=1), costs=COSTS)
    liar, *honest = world.nodes.values()
    post(world, honest[0], ["a", "b"], BATCHES // 4)
    took_ms = drained_ms(world, honest[:1], BATCHES // 4, BATCHES * COST_MS)
    assert took_ms < BATCHES // 4 * COST_MS / SHARE
    check_nothing_died(world)
    assert not held_against(world, honest)
    assert honest[0].judged[liar.key, "dissented"] > 0


def test_coordinators_share_agents_evenly() -> None:
    """Three floods, of which one is three times as large: each gets its part while it lasts, within what follows from
    whose agents are its own and which one has no flood itself."""
    world = World(4, nodes=4, faults=Faults(), costs=COSTS)
    large, *small = list(world.nodes.values())[:3]
    each = BATCHES // 5
    post(world, large, ["a"], 3 * each)
    for node in small:
        post(world, node, ["b"], each)
    drained_ms(world, [large, *small], 3 * each, 4 * BATCHES * COST_MS)
    counts = [len(node.sealed) for node in (large, *small)]
    assert max(counts) < 2 * min(counts), counts
    took_ms = drained_ms(world, [large, *small], 5 * each, 4 * BATCHES * COST_MS)
    assert took_ms < 2 * each * COST_MS / SHARE
    check_nothing_died(world)
    assert not held_against(world, list(world.nodes.values()))


def test_a_flood_of_one_source_delays_the_others_little() -> None:
    """Nine quiet sources beside it: each batch of theirs goes before what the flood has waiting."""
    world = World(5, nodes=3, faults=Faults(), costs=Costs(batch_us=20_000))
    first = next(iter(world.nodes.values()))
    posted: dict[str, int] = {}

    def quiet(number: int, sequence: int) -> None:
        batch_id = world.ingest(first, f"quiet {number}", sequence, stateful=False, events=EVENTS)
        posted[batch_id] = world.now_ms

    post(world, first, ["flood"], BATCHES)
    for sequence in range(10):
        for number in range(9):
            world.at(1_000 * sequence + 111 * number, partial(quiet, number, sequence))
    delays_ms: list[int] = []
    for until_ms in range(0, 12_000, 10):
        world.run_for(until_ms)
        ended = [batch_id for batch_id in posted if batch_id in first.sealed]
        delays_ms += (world.now_ms - posted.pop(batch_id) for batch_id in ended)
    assert not posted
    assert len(first.sealed) < BATCHES, "the flood lasts"
    assert sorted(delays_ms)[len(delays_ms) * 19 // 20] < 2 * first.rules.delay_target_ms
    assert max(delays_ms) < 2 * first.rules.delay_target_ms + STRAGGLER_MS, "one message of each fifty takes long"


def test_agents_that_never_finish_do_not_stop_another_lane() -> None:
    """Their batches fill the window; those of another level have places of their own."""
    world = WithIdlers(7, nodes=3, faults=Faults(), level=Level.BASIC)
    first = next(iter(world.nodes.values()))
    post(world, first, ["a"], 2 * first.rules.window_first)
    world.run_for(2_000)
    assert flow_of(first).in_flight == flow_of(first).window.size
    world.level = Level.ENHANCED
    post(world, first, ["b"], 20)
    drained_ms(world, [first], 20, 5_000)


def test_the_window_follows_the_agents() -> None:
    """Fast agents get more at once; when they become slow, less."""
    world = World(6, nodes=3, faults=Faults(delay_ms=100), costs=Costs(batch_us=1_000))
    first = next(iter(world.nodes.values()))
    post(world, first, ["a"], BATCHES)
    drained_ms(world, [first], BATCHES // 2, 60_000)
    wide = flow_of(first).window.size
    world.costs = COSTS
    drained_ms(world, [first], BATCHES, 2 * BATCHES * COST_MS)
    assert flow_of(first).window.size < first.rules.window_first < wide
