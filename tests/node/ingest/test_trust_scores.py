"""Trust in sources moves with what validation found, whatever the database does meanwhile."""

from contextlib import suppress
from functools import partial

import attrs
import pytest

from node.ingest.trust_scores import TrustScores
from protocols.messages import Level, Statement
from storage import policies, sources
from storage.database import Database
from storage.errors import DatabaseUnavailableError
from storage.sources import TRUST_HALF_LIFE_EVENTS
from tests.lost_replies import lossy_way
from tests.node.certified_batches import DIGEST, NETWORK, NODE
from tests.outage import out_of_order

STATEMENT = Statement(
    network=NETWORK,
    batch_id="batch_1",
    coordinator=NODE.identity,
    source_id="s1",
    policy_hash=DIGEST,
    level=Level.ENHANCED,
    quorum=2,
    input_root=DIGEST,
    normalized_root=DIGEST,
    output_root=DIGEST,
    context_in=DIGEST,
    context_out=DIGEST,
    events=10,
    valid=8,
    invalid=2,
)


async def make_sources(database: Database, *names: str) -> None:
    await database.run(partial(policies.put, policy_hash=DIGEST, document=b"{}"))
    for name in names:
        values = {"source_id": name, "name": name, "source_type": "webhook", "policy_hash": DIGEST}
        await database.run(partial(sources.create, values=values))


async def verdicts(database: Database, name: str) -> tuple[float, float]:
    """Valid and invalid events counted for a source; the older ones have faded."""
    query = "SELECT trust_valid, trust_invalid FROM overlay_event_sources WHERE source_id = %s"
    row = await database.run(lambda connection: connection.execute(query, (name,)).fetchone())
    assert row is not None
    return float(row[0]), float(row[1])


async def test_verdicts_are_added_up_by_source_and_move_its_score(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        await make_sources(database, "s1", "s2")
        scores = TrustScores(database)
        for _ in range(5):
            scores.note(STATEMENT)
        scores.note(attrs.evolve(STATEMENT, source_id="s2", valid=0, invalid=10))
        await scores.flush()
        assert await verdicts(database, "s1") == (40, 10)
        assert await verdicts(database, "s2") == (0, 10)
        found = await database.run(lambda connection: sources.get_many(connection, ["s1", "s2"]))
        before = 50
        assert (found["s1"].trust_score or 0) > before > (found["s2"].trust_score or 0)


async def test_verdicts_of_a_write_that_failed_are_counted_with_the_next(postgres_url: str) -> None:
    with Database(postgres_url, attempts_max=1) as database:
        await make_sources(database, "s1")
        scores = TrustScores(database)
        scores.note(STATEMENT)
        with out_of_order(postgres_url):
            with pytest.raises(DatabaseUnavailableError):
                await scores.flush()
            scores.note(attrs.evolve(STATEMENT, valid=1, invalid=9))
        await scores.flush()
        fade = 0.5 ** (10 / TRUST_HALF_LIFE_EVENTS)
        assert await verdicts(database, "s1") == pytest.approx((8 * fade + 1, 2 * fade + 9))


@pytest.mark.parametrize("attempts_max", [1, 3])
@pytest.mark.parametrize("carried_out", [True, False])
async def test_verdicts_count_once_though_their_commit_was_not_answered(
    postgres_url: str, carried_out: bool, attempts_max: int
) -> None:
    with lossy_way(postgres_url) as way, Database(way.url, attempts_max=attempts_max) as database:
        await make_sources(database, "s1")
        scores = TrustScores(database)
        scores.note(STATEMENT)
        way.lose("UPDATE overlay_event_sources", carried_out=carried_out)
        with suppress(DatabaseUnavailableError):
            await scores.flush()
        await scores.flush()
        assert way.lost == 1
        assert await verdicts(database, "s1") == (8, 2)


async def test_a_source_that_is_gone_takes_nothing_from_the_others(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        await make_sources(database, "s1")
        scores = TrustScores(database)
        scores.note(attrs.evolve(STATEMENT, source_id="gone"))
        scores.note(STATEMENT)
        await scores.flush()
        assert await verdicts(database, "s1") == (8, 2)
