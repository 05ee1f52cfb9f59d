"""What the node notes about agents and batches besides is kept while the database is away."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from node.coordination.dispatcher import Handlers
from node.coordination.observations import Observations
from node.coordination.reputations import Reputations
from protocols.effects import Effect, RecordDistribution, RecordLateEvidence
from protocols.envelope import sign
from protocols.messages import Evidence, Role
from storage import batches, policies, reputations, sources
from storage.database import Database
from storage.errors import DatabaseUnavailableError
from storage.reputations import INCIDENTS_KEPT
from storage.rows import NewBatch
from tests.node.certified_batches import AGENT, DIGEST, NETWORK, NODE
from tests.outage import out_of_order

BATCH_ID = "batch_1"


async def make_batch(database: Database) -> None:
    batch = NewBatch(
        batch_id=BATCH_ID,
        source_id="s1",
        source_sequence=1,
        policy_hash=DIGEST,
        level=2,
        quorum=2,
        stateful=False,
        topics=[],
        manifest=b"m",
        payload=b"p",
        received_ms=1,
        event_ids=["event_" + 64 * "1"],
        record_hashes=[64 * "2"],
        versions=[1],
    )
    values = {"source_id": "s1", "name": "s1", "source_type": "webhook", "policy_hash": DIGEST}
    await database.run(partial(policies.put, policy_hash=DIGEST, document=b"{}"))
    await database.run(partial(sources.create, values=values))
    await database.run(partial(batches.insert_ingested, batches=[batch]))


def late(signer: Any = AGENT) -> RecordLateEvidence:
    evidence = Evidence(
        network=NETWORK,
        batch_id=BATCH_ID,
        role=Role.VALIDATE,
        policy_hash=DIGEST,
        input_digest=DIGEST,
        context_in=DIGEST,
        output_digest=DIGEST,
        context_out=DIGEST,
        valid=1,
        invalid=0,
        build="test",
        finished_ms=1,
        processing_us=7,
    )
    return RecordLateEvidence(evidence=sign(signer, evidence), agrees=False)


async def record(records: Observations, effect: Effect) -> None:
    """Carry out one effect as the dispatcher would."""
    handlers: Handlers = records.handlers
    await handlers[type(effect)](effect)


async def signers(database: Database) -> Sequence[tuple[bytes, bool]]:
    rows = await database.run(partial(batches.evidence, batch_id=BATCH_ID))
    return [(row.signer, row.agrees) for row in rows]


async def test_late_dissent_and_distribution_outlast_an_outage(postgres_url: str) -> None:
    with Database(postgres_url, attempts_max=1) as database:
        await make_batch(database)
        records = Observations(database, Reputations(database))
        await record(records, RecordDistribution(batch_id=BATCH_ID, published=3, confirmed=0, latency_ms=9))
        await record(records, late(NODE))
        with out_of_order(postgres_url):
            with pytest.raises(DatabaseUnavailableError):
                await records.flush()
            await record(records, late())
            await record(records, RecordDistribution(batch_id=BATCH_ID, published=3, confirmed=2, latency_ms=11))
        await records.flush()
        assert sorted(await signers(database)) == sorted([(NODE.identity, False), (AGENT.identity, False)])
        row = await database.run(partial(batches.get, batch_id=BATCH_ID))
        assert row is not None
        assert (row.published, row.confirmed, row.latency_ms) == (3, 2, 11)


async def test_figures_written_twice_are_there_once(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        await make_batch(database)
        records = Observations(database, Reputations(database))
        await record(records, late())
        await records.flush()
        await record(records, late())
        await records.flush()
        assert await signers(database) == [(AGENT.identity, False)]


async def test_reputations_outlast_an_outage_and_a_restart(postgres_url: str) -> None:
    with Database(postgres_url, attempts_max=1) as database:
        known = Reputations(database)
        known.count(AGENT.identity, Role.NORMALIZE, "agreed", BATCH_ID)
        known.count(AGENT.identity, Role.NORMALIZE, "dissented", BATCH_ID)
        with out_of_order(postgres_url), pytest.raises(DatabaseUnavailableError):
            await known.flush()
        known.count(AGENT.identity, Role.NORMALIZE, "late", BATCH_ID)
        await known.flush()
        again = Reputations(database)
        await again.load()
        counts = again.counts(AGENT.identity)[Role.NORMALIZE]
        assert (counts.agreed, counts.dissented, counts.late) == (1, 1, 1)
        occasions = await database.run(partial(reputations.incidents_of, agent=AGENT.identity))
        assert [each.outcome for each in occasions] == ["late", "dissented"]


async def test_the_latest_occasions_are_kept_however_many_gather(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        known = Reputations(database)
        for number in range(INCIDENTS_KEPT + 20):
            known.count(AGENT.identity, Role.NORMALIZE, "late", f"batch_{number}")
        await known.flush()
        occasions = await database.run(partial(reputations.incidents_of, agent=AGENT.identity))
        assert len(occasions) == INCIDENTS_KEPT
        assert occasions[0].batch_id == f"batch_{INCIDENTS_KEPT + 19}"
