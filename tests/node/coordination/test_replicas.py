"""Batches held for other coordinators: what is kept is what the manifest names, and can be adopted."""

from functools import partial

import attrs
import pytest

from node.coordination.serialization import hold_bytes, read_hold
from node.runtime.workers import WorkerCrashedError
from node.worker import compute
from protocols.effects import AdoptReplica, ConfirmReplication, DropReplica, StoreReplica
from protocols.envelope import sign
from protocols.identifiers import record_line
from protocols.merkle import root_of_records
from protocols.messages import Level, Signed
from protocols.stimuli import BatchAdopted, ReplicaLost, ReplicaStored
from storage import foreign_usage, policies, replicas, reputations
from storage.database import Database
from storage.foreign_usage import Usage
from storage.replicas import NewReplica
from storage.reputations import Reputation
from tests.network_of_keys import NETWORK, certified
from tests.node.coordination.workbench import (
    AGENT,
    COORDINATOR,
    OTHER,
    POLICY,
    Workbench,
    enter,
    hold,
    packed,
    stored,
)

BATCH = certified()
BATCH_ID = BATCH.manifest.message.batch_id
FORGED = compute.pack(b"\n".join(BATCH.records[::-1]))
STORE = StoreReplica(hold=hold(BATCH))
ADOPT = AdoptReplica(hold=hold(BATCH))


async def held(bench: Workbench) -> list[Signed]:  # type: ignore[type-arg]
    assert bench.store is not None
    return list(await bench.store.holds(NETWORK))


async def holder(database: Database) -> Workbench:
    """A node that holds the batch."""
    bench = Workbench(AGENT, database)
    await database.run(partial(policies.put, policy_hash=BATCH.manifest.message.policy_hash, document=POLICY))
    bench.payloads.receive(BATCH_ID, COORDINATOR.identity, packed(BATCH))
    await bench.carry_out(STORE)
    return bench


async def test_a_replica_is_stored_and_confirmed(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        bench = Workbench(AGENT, database)
        bench.payloads.receive(BATCH_ID, COORDINATOR.identity, packed(BATCH))
        (confirmed,) = await bench.carry_out(STORE)
        assert isinstance(confirmed, ReplicaStored)
        assert confirmed.hold == STORE.hold
        assert await held(bench) == [STORE.hold]
        assert await database.run(partial(replicas.payload, batch_id=BATCH_ID)) == packed(BATCH)


@pytest.mark.parametrize("payload", [FORGED, b"no zstd", compute.pack(b"{}")])
async def test_a_forged_payload_is_not_kept_and_counts_against_its_sender(postgres_url: str, payload: bytes) -> None:
    with Database(postgres_url) as database:
        bench = Workbench(AGENT, database)
        bench.payloads.receive(BATCH_ID, OTHER.identity, payload)
        assert await bench.carry_out(StoreReplica(hold=hold(BATCH, sender=OTHER))) == []
        assert bench.struck == [(OTHER.identity, "forged-payload")]
        assert await held(bench) == []


def record(external_id: str | None, value: object) -> bytes:
    return record_line(data={"v": value}, event_type="t", external_id=external_id, previous=None, timestamp=None)


@pytest.mark.parametrize(
    "records",
    [
        [record("a", 1), record("b", 2), record("a", 3)],
        [record(None, 1), record(None, 1)],
        [record(None, 1), record("b", 1), record(None, 1)],
        [record("a", 1), record("b", "x\0y")],
        [record("a", {"\0": 1})],
    ],
    ids=["one id", "equal", "equal apart", "U+0000", "U+0000 in a name"],
)
async def test_a_batch_that_cannot_be_written_is_not_kept(postgres_url: str, records: list[bytes]) -> None:
    """It would be adopted, end, and end the node with it: the events of a batch are written with one statement."""
    said = attrs.evolve(
        BATCH.manifest.message, input_root=root_of_records(records), events=len(records), level=Level.BASIC, quorum=1
    )
    unfit = attrs.evolve(BATCH, manifest=sign(COORDINATOR, said), records=tuple(records))
    with Database(postgres_url) as database:
        bench = Workbench(AGENT, database)
        bench.payloads.receive(said.batch_id, COORDINATOR.identity, packed(unfit))
        assert await bench.carry_out(StoreReplica(hold=hold(unfit))) == []
        assert bench.struck == [(COORDINATOR.identity, "forged-payload")]
        assert await held(bench) == []


async def test_what_adopting_takes_must_all_be_there(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        bench = Workbench(AGENT, database)
        assert await bench.carry_out(STORE) == [], "no payload"
        bench.payloads.receive(BATCH_ID, COORDINATOR.identity, packed(BATCH))
        bench.peers.policies.clear()
        assert await bench.carry_out(STORE) == [], "no policy"
        assert await held(bench) == []
        assert bench.struck == []


async def test_a_worker_that_fails_leaves_the_replica_for_later(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        bench = Workbench(AGENT, database)
        bench.payloads.receive(BATCH_ID, COORDINATOR.identity, packed(BATCH))
        bench.workers.faults.append(WorkerCrashedError("gone"))
        assert await bench.carry_out(STORE) == []
        assert bench.struck == []
        assert len(await bench.carry_out(STORE)) == 1, "the coordinator asks again"


async def test_no_more_is_held_than_may_be(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_usage, "KEPT_MAX", Usage(0, 0))
    with Database(postgres_url) as database:
        bench = Workbench(AGENT, database)
        bench.payloads.receive(BATCH_ID, COORDINATOR.identity, packed(BATCH))
        assert await bench.carry_out(STORE) == [], "not kept is not confirmed"
        assert await held(bench) == []
        assert bench.workers.calls == 0, "it is refused before it costs work"


async def test_a_batch_that_makes_room_is_reported_and_forgotten(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign_usage, "KEPT_MAX", Usage(1, 10**9))
    monkeypatch.setattr(foreign_usage, "COORDINATOR_SHARE", 1)
    monkeypatch.setattr(foreign_usage, "STRANGERS_SHARE", 1)
    strangers = NewReplica(
        batch_id="batch_strange", coordinator=b"s", policy_hash=b"", hold=b"", payload=b"", policy_bytes=0, kept_ms=1
    )
    known = Reputation(agent=COORDINATOR.identity, role="validate", agreed=1)
    with Database(postgres_url) as database:
        await database.run(partial(replicas.keep, new=strangers))
        await database.run(partial(reputations.save, changed=[known], incidents=[]))
        bench = Workbench(AGENT, database)
        bench.payloads.receive(BATCH_ID, COORDINATOR.identity, packed(BATCH))
        lost, stored_here = await bench.carry_out(STORE)
        assert isinstance(lost, ReplicaLost)
        assert lost.batch_id == "batch_strange"
        assert isinstance(stored_here, ReplicaStored)
        assert await held(bench) == [STORE.hold]


async def test_a_policy_that_is_known_from_memory_is_stored_with_what_is_held(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        bench = Workbench(AGENT, database)
        bench.payloads.receive(BATCH_ID, COORDINATOR.identity, packed(BATCH))
        await bench.carry_out(STORE)
        assert await database.run(partial(policies.get, policy_hash=BATCH.manifest.message.policy_hash)) == POLICY
        (adopted,) = await bench.carry_out(ADOPT)
        assert isinstance(adopted, BatchAdopted)


async def test_a_replica_is_dropped(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        bench = await holder(database)
        drop = DropReplica(batch_id=BATCH_ID)
        await bench.carry_out(drop, drop)
        assert await held(bench) == []


async def test_an_adopted_batch_is_this_node_s_to_finish(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        bench = await holder(database)
        first, second = await bench.carry_out(ADOPT, ADOPT)
        assert isinstance(first, BatchAdopted)
        assert first == attrs.evolve(second, now_ms=first.now_ms), "again after a restart"
        row = await stored(database, BATCH)
        assert (row.state, row.events) == ("pending", 5)
        assert bench.store is not None
        (pending,) = await bench.store.pending()
        assert (pending.batch_id, pending.coordinator) == (BATCH_ID, COORDINATOR.identity)


async def test_adoption_rests_on_the_payload_that_was_stored(postgres_url: str) -> None:
    """Fails where a payload that any peer sends takes precedence: the batch was lost until it was evicted."""
    with Database(postgres_url) as database:
        bench = await holder(database)
        bench.payloads.receive(BATCH_ID, OTHER.identity, FORGED)
        bench.payloads.receive(BATCH_ID, COORDINATOR.identity, FORGED)
        (adopted,) = await bench.carry_out(ADOPT)
        assert isinstance(adopted, BatchAdopted)
        assert (await stored(database, BATCH)).events == 5


async def test_a_replica_that_is_gone_is_not_adopted(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        bench = Workbench(AGENT, database)
        (lost,) = await bench.carry_out(ADOPT)
        assert isinstance(lost, ReplicaLost), "else its entity would ask for it again for ever"
        assert lost.batch_id == BATCH_ID
        bench = await holder(database)
        bench.workers.faults.append(WorkerCrashedError("gone"))
        assert await bench.carry_out(ADOPT) == [], "its alarm asks again"


async def test_this_node_s_own_batch_is_no_replica_to_adopt(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        await enter(database, BATCH)
        bench = Workbench(COORDINATOR, database)
        assert len(await bench.carry_out(ADOPT)) == 1
        assert bench.store is not None
        (pending,) = await bench.store.pending()
        assert pending.coordinator is None, "it stays its own"


async def test_holders_are_reported_once_they_suffice() -> None:
    bench = Workbench(COORDINATOR)
    await bench.carry_out(ConfirmReplication(batch_id=BATCH_ID, holders=(AGENT.identity,)))
    assert bench.replicated == [(BATCH_ID, (AGENT.identity,))]


def test_a_hold_is_read_back_as_it_was_signed() -> None:
    assert read_hold(hold_bytes(STORE.hold), NETWORK) == STORE.hold
