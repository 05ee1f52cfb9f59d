"""Writes one group of admitted requests: everything in one transaction, on a database thread.

The order is: the terms of each request (``terms``), what is known of the events, what is to be done (``batching``),
then numbers, roots, signatures, and the rows. If the connection breaks while the commit is under way, the
transaction is run again, though it is not known whether the first one counted: ``RequestGroup.written`` and a look at
the database tell.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from node.ingest.batch_rows import BatchSigner, CommittedBatch
from node.ingest.batching import Classification, Draft, Planner, Request, Terms, Version
from node.ingest.rejections import record_read
from node.ingest.requests import LevelsNeeded, QueuedRequest
from node.ingest.terms import IngestPolicy, ResolvedTerms, TermsResolver
from protocols.errors import OverlayError
from protocols.limits import EVENTS_PER_BATCH_MAX
from protocols.messages import IdentityKey, Level
from storage import batches, events, jobs, sources

if TYPE_CHECKING:
    from psycopg import Connection


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of a request, but for the times."""

    classification: Classification
    terms: Terms
    source_verified: bool
    identity_score: int | None


@attrs.frozen(kw_only=True)
class Committed:
    """A group as it was written. ``outcomes`` are parallel to the group's requests: an error or ``LevelsNeeded``
    where none of a request was taken.
    """

    batches: tuple[CommittedBatch, ...]
    outcomes: tuple[Outcome | LevelsNeeded | OverlayError, ...]
    known_jobs: dict[str, str]


@attrs.define(kw_only=True)
class RequestGroup:
    """Requests that are committed together, and what an attempt at it has made of them.

    Attributes:
        holders: Peers that could hold batches that are to be replicated.
    """

    requests: Sequence[QueuedRequest]
    holders: tuple[IdentityKey, ...] = ()
    written: Committed | None = None


class GroupWriter:
    """Turns groups into rows. Its ``write`` runs on a database thread, one group at a time."""

    def __init__(self, *, policy: IngestPolicy, resolver: TermsResolver, signer: BatchSigner) -> None:
        self._policy = policy
        self._resolver = resolver
        self._signer = signer

    def write(self, connection: "Connection", *, group: RequestGroup, now_ms: int) -> Committed:
        """Decide on a group's requests and write the batches they make. May run again after a failure."""
        before = group.written
        if before is not None and before.batches and _is_stored(connection, before.batches[0]):
            return before  # the earlier attempt was committed after all
        resolved = self._resolver.resolve(connection, group.requests, group.holders)
        planner = Planner(
            _known(connection, group.requests),
            batch_events=min(self._policy.batch_events, EVENTS_PER_BATCH_MAX),
            coalesce=self._policy.coalesce,
        )
        outcomes: list[Outcome | LevelsNeeded | OverlayError] = []
        for number, (request, terms) in enumerate(zip(group.requests, resolved, strict=True)):
            if not isinstance(terms, ResolvedTerms):
                outcomes.append(terms)
                continue
            outcome = _classified(planner, number, request, terms)
            outcomes.append(outcome)
            if request.read is not None:
                record_read(connection, request.admitted, outcome.classification, request.read)
        made = self._store(connection, planner.drafts, now_ms, group.holders)
        known_jobs = _job_states(connection, outcomes)
        group.written = Committed(batches=made, outcomes=tuple(outcomes), known_jobs=known_jobs)
        return group.written

    def _store(
        self, connection: "Connection", drafts: Sequence[Draft], now_ms: int, holders: tuple[IdentityKey, ...]
    ) -> tuple[CommittedBatch, ...]:
        wanted: dict[str, int] = {}
        for draft in drafts:
            wanted[draft.terms.source_id] = wanted.get(draft.terms.source_id, 0) + 1
        numbers = {
            source_id: sources.take_sequences(connection, source_id, wanted[source_id])
            for source_id in sorted(wanted)
        }
        made, rows = [], []
        for draft in drafts:
            batch, row = self._signer.make(draft, numbers[draft.terms.source_id], now_ms, holders)
            numbers[draft.terms.source_id] += 1
            made.append(batch)
            rows.append(row)
        batches.insert_ingested(connection, rows)
        return tuple(made)


def _is_stored(connection: "Connection", batch: CommittedBatch) -> bool:
    return batches.get(connection, batch.batch_id) is not None


def _classified(planner: Planner, number: int, request: QueuedRequest, terms: ResolvedTerms) -> Outcome:
    planned = Request(number=number, admitted=request.admitted, terms=terms.base, raised=terms.raised)
    source = terms.source
    verified = request.is_of(source.identity_key) or (request.read is not None and request.read.is_proven)
    return Outcome(
        classification=planner.take(planned),
        terms=terms.base,
        source_verified=verified,
        identity_score=source.trust_score if verified else None,
    )


def _known(connection: "Connection", requests: Sequence[QueuedRequest]) -> dict[str, list[Version]]:
    ids = sorted({event_id for request in requests for event_id in request.admitted.event_ids})
    return {
        event_id: [
            Version(
                number=row.version,
                record_hash=row.record_hash,
                previous=row.previous,
                batch_id=row.batch_id,
                level=Level(row.level),
                quorum=row.quorum,
            )
            for row in rows
        ]
        for event_id, rows in events.find_known(connection, ids).items()
    }


def _job_states(
    connection: "Connection", outcomes: Sequence[Outcome | LevelsNeeded | OverlayError]
) -> dict[str, str]:
    """Status of the normalize job of every stored batch that a duplicate stands in."""
    batch_ids = {
        known.batch_id
        for outcome in outcomes
        if isinstance(outcome, Outcome)
        for known in outcome.classification.known
        if known is not None and known.batch_id
    }
    states = {}
    for batch_id in sorted(batch_ids):
        for _, role, _, status, _ in jobs.of_batch(connection, batch_id):
            if role == "normalize":
                states[batch_id] = status
    return states
