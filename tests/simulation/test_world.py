"""Thousands of networks from thousands of seeds; a failing seed prints itself and joins ``REGRESSIONS``.

``WORLD_SEEDS=10000 pytest tests/simulation/test_world.py`` runs more of them.
"""

import os
import time
from functools import partial
from random import Random

import pytest

from protocols.messages import Level
from tests.simulation.drivers import Faults
from tests.simulation.world import World

SEEDS = int(os.environ.get("WORLD_SEEDS", "2000"))
REGRESSIONS: tuple[int, ...] = (621, 1927, 2738, 4023, 7960)  # contexts lost and orphaned by adoption


def build(seed: int) -> World:
    """A network of 4 to 13 nodes with faults drawn from the seed; liars stay below the quorum of the level.

    One node may go for good. Then enough honest ones are left, and what it had replicated is finished by others.
    """
    random = Random(seed)
    nodes = random.choice((4, 4, 5, 6, 7, 8, 10, 13))
    level = random.choice((Level.BASIC, Level.ENHANCED, Level.ENHANCED, Level.CRITICAL))
    if level is Level.CRITICAL:
        nodes = max(nodes, 6)
    bad = random.choice((0, 0, 1, 1))
    equivocators = bad if random.random() < 0.4 else 0
    faults = Faults(
        drop=random.choice((0.0, 0.05, 0.2)),
        duplicate=random.choice((0.0, 0.1, 0.3)),
        delay_ms=random.choice((20, 200, 1_500)),
        commit_fails=random.choice((0.0, 0.002, 0.01)),
        skew_ms=random.choice((0, 0, 2_000)),
        liars=bad - equivocators,
        equivocators=equivocators,
        replicated=random.choice((0.0, 0.5, 1.0)),
        gone=random.choice((0, 1)) if nodes > 4 else 0,
        partitions=random.choice((0, 0, 1, 2)),
    )
    world = World(seed, nodes=nodes, faults=faults, level=level)
    if world.level is Level.BASIC:
        for node in world.nodes.values():
            node.lies, node.equivocates = 0, False
    _load(world, random)
    return world


def _load(world: World, random: Random) -> None:
    nodes = list(world.nodes.values())
    for sequence in range(random.randint(2, 6)):
        node = random.choice(nodes)
        stateful = random.random() < 0.5
        source = f"source {stateful} {random.randint(0, 1)}"
        replicated = random.random() < world.faults.replicated

        def post(node=node, source=source, sequence=sequence, stateful=stateful, replicated=replicated) -> None:  # type: ignore[no-untyped-def]
            if node.up:
                world.ingest(node, source, sequence, stateful=stateful, replicated=replicated)

        world.at(random.randint(0, 20_000), post)
    for _ in range(random.randint(0, 3)):
        victim = random.choice(nodes)
        down = random.randint(50, 20_000)
        world.at(random.randint(0, 40_000), partial(world.crash, victim, down))
    for _ in range(world.faults.partitions):
        side = {node.key for node in random.sample(nodes, random.randint(1, len(nodes) // 2))}
        lasts = random.randint(500, 20_000)
        world.at(random.randint(0, 40_000), partial(world.partition, side, lasts))
    if world.faults.gone:
        victim = random.choice(nodes[world.faults.liars + world.faults.equivocators :])
        world.at(random.randint(1_000, 40_000), lambda: world.lose(victim))


def run(seed: int) -> World:
    world = build(seed)
    try:
        world.run()
        world.check()
    except AssertionError as failure:
        raise AssertionError(f"seed {seed}: {failure}") from failure
    return world


def test_no_seed_breaks_a_promise(capsys: pytest.CaptureFixture[str]) -> None:
    """Drops, delays, duplicates, reorder, crashes, failed commits, skew, liars and equivocators."""
    started = time.process_time()
    sealed = dead = proofs = dissent = adopted = 0
    for seed in (*REGRESSIONS, *range(SEEDS)):
        world = run(seed)
        sealed += sum(len(node.sealed) for node in world.nodes.values())
        dead += sum(len(node.buried) for node in world.nodes.values())
        proofs += sum(len(node.proofs) for node in world.nodes.values())
        dissent += sum(len(node.dissent) for node in world.nodes.values())
        adopted += len(world.left_behind())
    took = time.process_time() - started
    with capsys.disabled():
        print(
            f"\n{SEEDS} seeds of 4 to 13 nodes in {took:.1f} s of CPU, {60 * SEEDS / took:.0f} a minute: "
            f"{sealed} batches sealed, {dead} dead, {adopted} left behind for good and finished by others, "
            f"{dissent} dissents and {proofs} equivocation proofs kept"
        )
    assert sealed > 3 * SEEDS
    assert dead == 0, "with liars below the threshold every batch is certified in the end"
    assert proofs > 0
    assert dissent > 0
    assert adopted > 0


def test_same_seed_same_trace() -> None:
    for seed in range(20):
        assert run(seed).trace.digest() == run(seed).trace.digest()


def test_the_checker_sees_a_wrong_certificate() -> None:
    """Two colluding liars are the quorum of ``enhanced``: past the threshold the lie must be seen."""
    caught = 0
    for seed in range(40):
        world = World(seed, nodes=4, faults=Faults(liars=2))
        _load(world, Random(seed))
        world.run()
        try:
            world.check()
        except AssertionError as failure:
            caught += "wrong result" in str(failure)
    assert caught > 10


def test_liars_who_disagree_stall_nothing() -> None:
    """Two liars with different lies cannot make a quorum, and two honest agents of five still can."""
    for seed in range(200):
        world = World(seed, nodes=5, faults=Faults(liars=2, liars_differ=True, drop=0.1))
        _load(world, Random(seed))
        world.run()
        world.check()
