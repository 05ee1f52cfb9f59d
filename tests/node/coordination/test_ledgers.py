"""What the node notes about agents and batches besides is kept while the database is away."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from node.coordination.dispatcher import Handlers
from node.coordination.observations import Observations
from node.coordination.reputations import Reputations
from protocols.effects import Effect, RecordDistribution, RecordLateEvidence, StoreProof
from protocols.envelope import sign
from protocols.messages import Evidence, FraudProof, Role
from protocols.proofs import proof_of
from storage import batches, peers, policies, reputations, sources
from storage.database import Database
from storage.errors import DatabaseUnavailableError
from storage.reputations import INCIDENTS_KEPT
from storage.rows import NewBatch
from tests.lost_replies import lossy_way
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


@pytest.mark.parametrize("carried_out", [True, False])
async def test_an_occasion_is_kept_once_though_its_commit_was_not_answered(
    postgres_url: str, carried_out: bool
) -> None:
    with lossy_way(postgres_url) as way, Database(way.url) as database:
        known = Reputations(database)
        for outcome in ("dissented", "late"):
            known.count(AGENT.identity, Role.VALIDATE, outcome, BATCH_ID)
            way.lose("INSERT INTO blemishes", carried_out=carried_out)
            await known.flush()
        assert way.lost == 2
        occasions = await database.run(partial(reputations.incidents_of, agent=AGENT.identity))
        assert [each.outcome for each in occasions] == ["late", "dissented"]
        await (again := Reputations(database)).load()
        assert again.counts(AGENT.identity) == known.counts(AGENT.identity)


@pytest.mark.parametrize("runs", [True, False])
async def test_a_proof_outlasts_an_outage(postgres_url: str, runs: bool) -> None:
    """Fails where the one attempt of its effect was all there was: nobody sends a proof twice."""
    proof = StoreProof(proof=_proof(), heard_from=NODE.identity)
    with Database(postgres_url, attempts_max=1) as database:
        records = Observations(database, Reputations(database))
        async with trio.open_nursery() as nursery:
            if runs:
                nursery.start_soon(records.run)
            with out_of_order(postgres_url), pytest.raises(DatabaseUnavailableError):
                await record(records, proof)
            if not runs:
                await records.flush()
            with trio.fail_after(30):
                while not (found := await database.run(partial(peers.equivocations, signer=None, limit=9))):
                    await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
        assert [(each.signer, each.heard_from) for each in found] == [(AGENT.identity, NODE.identity)]


def _proof() -> FraudProof:
    one = late().evidence
    return proof_of(one, sign(AGENT, attrs.evolve(one.message, output_digest=bytes(32))))


async def test_the_latest_occasions_are_kept_however_many_gather(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        known = Reputations(database)
        for number in range(INCIDENTS_KEPT + 20):
            known.count(AGENT.identity, Role.NORMALIZE, "late", f"batch_{number}")
        await known.flush()
        occasions = await database.run(partial(reputations.incidents_of, agent=AGENT.identity))
        assert len(occasions) == INCIDENTS_KEPT
        assert occasions[0].batch_id == f"batch_{INCIDENTS_KEPT + 19}"
