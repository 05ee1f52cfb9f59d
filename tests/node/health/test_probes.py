"""What each probe finds, by the parts that it looks at."""

import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pytest
import trio

from node.coordination.driver import Driver
from node.health.certification import QuorumProbe, pending_probe
from node.health.feeds import sources_probe, subscriptions_probe
from node.health.lifecycle import Lifecycle, Phase
from node.health.peers import p2p_probe, sync_probe
from node.health.processes import parsers_probe, workers_probe
from node.health.storage import database_probe, disk_probe
from node.ingest.admission_control import AdmissionControl, IngestLimits
from node.ingest.terms import IngestPolicy
from node.network.sync import Freshness
from node.runtime.clock import clock_ms
from node.runtime.conditions import Probe, Severity
from node.runtime.workers import Workers
from protocols.entities import Batch, Entity, Stage
from protocols.levels import shortfall
from protocols.messages import Level
from protocols.rules import Rules
from storage import disk
from storage.database import Database
from storage.disk import DiskReserve
from storage.embedded import EmbeddedPostgres
from tests.node import work_calls
from tests.node.ingest.test_levels import source
from tests.node.network.advertising import Neighbours
from tests.node.running import AGENT, NETWORK, NODE, Forgetful, Running, running
from tests.outage import out_of_order, set_read_only
from tests.storage.test_database_faults import frozen

CAUGHT_UP = Freshness(synced=True, as_of_ms=1_700_000_000_000, peers=2, connected=2, alone=False)
RULES = Rules(network=NETWORK, self_key=NODE.identity)


async def codes(probe: Probe) -> list[str]:
    found = await probe.look()
    assert {each.condition for each in found} <= set(probe.conditions)
    return [each.condition.code for each in found]


async def until_codes(probe: Probe, *expected: str) -> None:
    with trio.fail_after(60):
        while await codes(probe) != list(expected):
            await trio.sleep(0.1)


# --- database and disk -------------------------------------------------------------------------------------------


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    with Database(postgres_url) as opened:
        yield opened


async def test_a_database_that_is_away_and_comes_back(database: Database, postgres_url: str) -> None:
    probe = database_probe(database, lambda: None)
    assert await codes(probe) == []
    with out_of_order(postgres_url):
        await until_codes(probe, "database-down")
    await until_codes(probe)


async def test_a_database_that_is_read_only(database: Database, postgres_url: str) -> None:
    probe = database_probe(database, lambda: None)
    set_read_only(postgres_url, "on")
    await until_codes(probe, "database-read-only")
    set_read_only(postgres_url, "off")
    await until_codes(probe)


async def test_a_database_that_is_frozen(database: Database, postgres: EmbeddedPostgres) -> None:
    probe = database_probe(database, lambda: None)
    with frozen(postgres):
        await until_codes(probe, "database-slow")
    await until_codes(probe)


async def test_commits_that_are_held_up_are_the_database_s(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        assert (await node.source()).status_code == 201
        probe = database_probe(node.database, lambda: node.ingest.trouble)
        with psycopg.connect(postgres_url) as other:
            other.execute("LOCK TABLE batches")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_post, node)
                await until_codes(probe, "database-slow")
            other.rollback()
        await until_codes(probe)


async def _post(node: Running) -> None:
    await node.post({"externalId": "e", "eventType": "reading", "data": {}})


async def test_a_disk_with_too_little_room(tmp_path: Path) -> None:
    reserve = DiskReserve(tmp_path, reserved_bytes=2**60)
    probe = disk_probe(reserve)
    assert await codes(probe) == [], "not looked at yet"
    reserve.look()
    assert await codes(probe) == ["disk-low"]
    assert "MiB are free" in (await probe.look())[0].detail


@contextmanager
def disk_that_hangs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    released, real = threading.Event(), os.statvfs

    def hang(path: Path) -> os.statvfs_result:
        released.wait(60)
        return real(path)

    monkeypatch.setattr(os, "statvfs", hang)
    try:
        yield
    finally:
        released.set()


async def test_a_disk_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "SILENT_S", 0.1)
    monkeypatch.setattr(disk, "LOOK_S", 0.05)
    reserve = DiskReserve(tmp_path)
    probe = disk_probe(reserve)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reserve.watch)
        await until_codes(probe)
        with disk_that_hangs(monkeypatch):
            await until_codes(probe, "disk-silent")
        await until_codes(probe)
        monkeypatch.setattr(reserve, "_directory", tmp_path / "gone")
        await until_codes(probe, "disk-silent")
        nursery.cancel_scope.cancel()


# --- processes ---------------------------------------------------------------------------------------------------


async def test_worker_processes_that_are_being_ended_are_not_asked() -> None:
    """While a node stops, its probes go on looking: a question that failed then was counted as a bug."""
    async with Workers(1) as workers:
        await workers.execute(work_calls.facts)
        await workers.admit(work_calls.facts)
    assert await workers.workers_answer(0.5)
    assert await workers.parsers_answer(0.5)


async def test_worker_processes_that_are_stopped_do_not_answer_and_are_replaced() -> None:
    async with Workers(1) as workers:
        assert await workers.parsers_answer(0.1), "none was started: there is nothing to wait for"
        facts: dict[str, Any] = await workers.admit(work_calls.facts)
        probe = parsers_probe(workers.parsers_answer)
        assert await codes(probe) == []
        os.kill(facts["pid"], signal.SIGSTOP)
        assert not await workers.parsers_answer(0.5)
        await until_codes(probe)
        assert (await workers.admit(work_calls.facts))["pid"] != facts["pid"]


async def test_calls_that_hang_are_seen_and_those_that_wait_behind_others_are_not_blamed() -> None:
    async with Workers(1) as workers, trio.open_nursery() as nursery:
        nursery.start_soon(workers.execute, work_calls.hang)
        assert await codes(workers_probe(workers.workers_answer)) == []
        with trio.fail_after(60):
            while await workers.workers_answer(0.5):
                await trio.sleep(0.05)
        assert await codes(parsers_probe(workers.parsers_answer)) == [], "parsers are other processes"
        nursery.cancel_scope.cancel()


# --- phases, peers, feeds ----------------------------------------------------------------------------------------


async def test_a_node_that_starts_or_stops() -> None:
    lifecycle = Lifecycle()
    found = []
    for phase in Phase:
        lifecycle.phase = phase
        found.append(await codes(lifecycle.probe()))
    assert found == [["starting"], [], ["draining"]]


async def test_peers_that_cannot_be_reached() -> None:
    transport = Neighbours(NODE.identity, [AGENT.identity])
    probe = p2p_probe(transport)  # type: ignore[arg-type]  # as much of one as it takes
    assert await codes(probe) == []
    transport.connected.clear()
    assert await codes(probe) == ["no-peers"]
    transport.addresses = ()  # type: ignore[assignment]
    assert await codes(probe) == ["p2p-closed", "no-peers"]


async def test_a_node_that_has_never_caught_up() -> None:
    fresh = CAUGHT_UP
    probe = sync_probe(lambda: fresh)
    assert await codes(probe) == []
    fresh = attrs.evolve(CAUGHT_UP, as_of_ms=0, peers=0)
    assert await codes(probe) == ["not-caught-up"]
    fresh = attrs.evolve(fresh, connected=0, alone=True)
    assert await codes(probe) == [], "a node without peers has nobody to catch up with"


async def test_sources_and_subscriptions_that_fail_are_counted_without_their_names() -> None:
    for make, code in ((sources_probe, "source-failing"), (subscriptions_probe, "subscription-failing")):
        assert await codes(make(lambda: 0)) == []
        (finding,) = await make(lambda: 3).look()
        assert (finding.condition.code, finding.condition.severity) == (code, Severity.WARNING)
        assert finding.detail.startswith("3 ")


# --- certification -----------------------------------------------------------------------------------------------


class Holding(Driver):
    """A driver that was given batches."""

    def __init__(self, batches: Sequence[Batch] = ()) -> None:
        super().__init__(RULES, Forgetful())
        self.batches = batches

    def entities(self) -> Sequence[Entity]:
        return tuple(self.batches)


async def taken_in(node: Running, level: str, *, age_s: float = 0.0) -> Batch:
    """A batch as the driver has it."""
    options = {"processingOptions": {"consensusLevel": level}}
    answer = await node.post({"externalId": f"{level}-{age_s}", "eventType": "t", "data": {}}, body=options)
    assert answer.status_code == 202, answer.text
    signed = node.recorder.told[-1].manifest
    earlier = attrs.evolve(signed.message, received_ms=clock_ms() - round(1_000 * age_s))
    return Batch(manifest=attrs.evolve(signed, message=earlier), stage=Stage.PROCESSING, stateful=False)


async def test_events_that_wait_for_too_long_and_a_backlog_that_is_full(postgres_url: str) -> None:
    async with running(postgres_url, policy=IngestPolicy(level_floor=None, threshold=1)) as node:
        assert (await node.source()).status_code == 201
        admission = AdmissionControl(IngestLimits(unsettled_max=5))
        old, young = await taken_in(node, "basic", age_s=100), await taken_in(node, "basic", age_s=1)
        cases: list[tuple[list[Batch], list[str]]] = [
            ([], []),
            ([young], []),
            ([young, old], ["events-wait"]),
            ([attrs.evolve(old, stage=Stage.SEALED), attrs.evolve(old, stage=Stage.DEAD)], []),
        ]
        for batches, expected in cases:
            assert await codes(pending_probe(Holding(batches), admission, lambda: 60.0)) == expected
        admission.backlog.enter("others", 5)
        assert await codes(pending_probe(Holding(), admission, lambda: 60.0)) == ["backlog-full"]


def quorum_probe(
    database: Database, policy: IngestPolicy, *, agents: int, batches: Sequence[Batch] = (), is_needed: bool = False
) -> Probe:
    operators = [f"operator-{number}" for number in range(agents)]
    return QuorumProbe(
        database=database,
        driver=Holding(batches),
        policy=policy,
        shortfall=partial(shortfall, operators=operators),
        is_needed=lambda: is_needed,
    ).probe()


async def test_a_node_alone_is_told_that_it_cannot_certify(database: Database) -> None:
    probe = quorum_probe(database, IngestPolicy(), agents=1)
    (finding,) = await probe.look()
    assert finding.condition.severity is Severity.WARNING
    assert finding.detail == "level enhanced wants 2 agents where 2 must agree, 1 are known"
    assert "EVENT_CONSENSUS_REQUIRED=false" in finding.condition.remedy
    needed = quorum_probe(database, IngestPolicy(), agents=1, is_needed=True)
    assert (await needed.look())[0].condition.severity is Severity.BLOCKING
    assert await codes(quorum_probe(database, IngestPolicy(level_floor=None, threshold=1), agents=1)) == []


@pytest.mark.parametrize(
    "certification",
    [{"level": "critical"}, {"levels": [{"when": "data.value > 40", "level": "critical"}]}],
)
async def test_levels_that_policies_of_sources_ask_for_count(
    postgres_url: str, certification: dict[str, Any]
) -> None:
    alone = IngestPolicy(level_floor=None, threshold=1)
    async with running(postgres_url) as node:
        await source(node, {"certification": certification})
        assert await codes(quorum_probe(node.database, alone, agents=3)) == ["no-quorum"]
        assert await codes(quorum_probe(node.database, alone, agents=4)) == []
        disabled = await node.client.patch("/overlay/sources/s1", json={"enabled": False})
        assert disabled.status_code == 200, disabled.text
        assert await codes(quorum_probe(node.database, alone, agents=1)) == [], "nobody uses that level"


async def test_levels_of_events_that_wait_count(postgres_url: str) -> None:
    alone = IngestPolicy(level_floor=None, threshold=1)
    async with running(postgres_url, policy=alone) as node:
        assert (await node.source()).status_code == 201
        waiting = [await taken_in(node, level) for level in ("basic", "critical")]
        (finding,) = await quorum_probe(node.database, alone, agents=2, batches=waiting).look()
        assert finding.detail.startswith(f"level {Level.CRITICAL.word} wants 4 agents of distinct operators")
        assert await codes(quorum_probe(node.database, alone, agents=2, batches=waiting[:1])) == []


async def test_levels_read_last_stay_in_use_while_the_database_is_away(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(postgres_url) as node:
        await source(node, {"certification": {"level": "critical"}})
        probe = quorum_probe(node.database, IngestPolicy(), agents=3)
        assert await codes(probe) == ["no-quorum"]
        monkeypatch.setattr("node.health.certification.READ_S", 0.0)
        with out_of_order(postgres_url):
            assert await codes(probe) == ["no-quorum"]
