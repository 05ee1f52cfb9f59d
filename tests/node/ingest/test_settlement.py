"""What the end of a batch means here: its events count no longer, and requests that wait for it are answered."""

from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing

from node.coordination.certified_result import CertifiedResult
from node.ingest.admission_control import AdmissionControl, IngestLimits
from node.ingest.backlog import OverloadedError
from node.ingest.replication import Replications
from node.ingest.settlement import Settlement
from node.ingest.trust_scores import TrustScores
from protocols.stimuli import Stimulus
from storage.database import Database
from tests.network_of_keys import AGENTS, certified
from tests.node.running import coalescing

COORDINATOR, OTHER = AGENTS[0], AGENTS[1]
BATCH_ID = certified().certificate.statement.batch_id
EVENTS = certified().certificate.statement.events


@attrs.define
class Searches:
    """Batches to be searched for the event that ends workers; the search itself is tested on its own."""

    batch_ids: list[str] = attrs.Factory(list)

    def enqueue(self, batch_id: str) -> None:
        self.batch_ids.append(batch_id)


async def refuse(stimulus: Stimulus) -> None:
    raise AssertionError(f"nothing is given to coordination here, not {stimulus}")


@attrs.define
class Settled:
    settlement: Settlement
    admission: AdmissionControl
    replications: Replications
    trust: TrustScores
    searches: Searches


def settled(database: Database, identity: bytes = COORDINATOR.identity) -> Settled:
    admission = AdmissionControl(IngestLimits(unsettled_max=EVENTS))
    replications, trust, searches = Replications(), TrustScores(database), Searches()
    settlement = Settlement(
        identity=identity,
        admission=admission,
        coalescer=coalescing(database, refuse),
        replications=replications,
        trust=trust,
        bisection=searches,  # type: ignore[arg-type]  # as much of it as settling takes
    )
    admission.backlog.enter(BATCH_ID, EVENTS)
    return Settled(settlement, admission, replications, trust, searches)


def result() -> CertifiedResult:
    batch = certified()
    return CertifiedResult(
        certificate=batch.certificate,
        topics=batch.manifest.message.topics,
        leaves=batch.output.leaves,
        normalized=batch.output.normalized,
        received_ms=1_000,
        certified_ms=2_500,
        sequence=1,
    )


async def test_a_certified_batch_makes_room_for_more(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        found = settled(database)
        with pytest.raises(OverloadedError):
            found.admission.backlog.refuse_if_full()
        found.settlement.on_certified(result())
        found.admission.backlog.refuse_if_full()
        assert found.admission.backlog.unsettled == 0
        assert found.searches.batch_ids == []


async def test_a_batch_that_was_finished_for_another_node_does_not_count(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        found = settled(database, OTHER.identity)
        found.replications.expect(BATCH_ID)
        found.settlement.on_certified(result())
        assert found.admission.backlog.unsettled == EVENTS
        assert found.replications.waits(BATCH_ID)


async def ends(found: Settled, end: Callable[[], None]) -> bool:
    """Whether a request that waits for holders of the batch is answered by the batch's end."""
    found.replications.expect(BATCH_ID)
    answered = False

    async def wait() -> None:
        nonlocal answered
        answered = await found.replications.wait([BATCH_ID], 5) == {BATCH_ID: ()}

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            end()
    return answered


async def test_a_request_that_waits_for_holders_is_answered_by_the_end(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        found = settled(database)
        assert await ends(found, lambda: found.settlement.on_certified(result()))
        assert await ends(found, lambda: found.settlement.on_dead(BATCH_ID, 0))


async def test_a_dead_batch_is_counted_out_and_searched_once_it_counted(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        found = settled(database)
        found.settlement.on_dead(BATCH_ID, 0)
        assert (found.admission.backlog.unsettled, found.searches.batch_ids) == (EVENTS, [])
        found.settlement.on_dead(BATCH_ID, EVENTS)
        assert (found.admission.backlog.unsettled, found.searches.batch_ids) == (0, [BATCH_ID])


def test_the_time_to_a_certificate_is_in_seconds() -> None:
    assert result().took_s == 1.5
