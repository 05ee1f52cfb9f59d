"""Writes one group of admitted requests: everything in one transaction, on a database thread.

The order is: what is known of the sources and events, what is to be done (``planning``), then numbers, roots,
signatures, and the rows. If the connection breaks while the commit is under way, the transaction is run again
without anybody knowing whether the first one counted: ``Group.written`` and a look at the database tell.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import trio

from agents.policy import compile_policy
from agents.roles import event_level
from node.coordination.serialization import manifest_bytes, read_manifest
from node.ingest.batching import Draft, Planner, Request, Sorted, Terms, Version
from node.ingest.responses import IngestAnswer
from node.worker.compute import pack, unpack
from node.worker.parsing.admission import Admitted
from node.worker.plugins import functions_for
from protocols.canonical import parse_json
from protocols.envelope import Signer, sign
from protocols.errors import ClientFault, OverlayError, WorldFault
from protocols.identifiers import job_id
from protocols.levels import quorum_for, strictest
from protocols.limits import EVENTS_PER_BATCH_MAX
from protocols.merkle import root_of_leaves
from protocols.messages import IdentityKey, Level, Manifest, Role, Signed
from storage import batches, events, jobs, policies, sources

if TYPE_CHECKING:
    from psycopg import Connection


class UnknownSourceError(ClientFault):
    code = "unknown-source"


class SourceDisabledError(ClientFault):
    code = "source-disabled"


class SourceBoundError(ClientFault):
    """The source takes events of the identity that it is bound to, and of nobody else."""

    code = "source-bound"


class TooFewHoldersError(WorldFault):
    """A batch cannot be replicated: too few peers that could take it over are connected."""

    code = "too-few-holders"


@attrs.frozen(kw_only=True)
class Decided:
    """Under what a request's events are certified, and by which source and policy."""

    terms: Terms
    source: sources.Source
    policy: bytes


@attrs.frozen(kw_only=True)
class Split:
    """What a dead batch was taken apart into: the id of the dead part, the part that goes on, if there is one."""

    dead: str
    bad: int
    rest: "CommittedBatch | None"
    rest_id: str


@attrs.frozen(kw_only=True)
class Reading:
    """What comes with events of a source that this node reads itself.

    Attributes:
        mark: How far the source is read with these events; None where the source keeps that itself.
        heads: The first bytes of each event as it was said, for those that turn out to be none.
        is_proven: The source proved itself, by its secret.
    """

    mark: Mapping[str, Any] | None
    heads: tuple[bytes, ...]
    is_proven: bool = False


class Pending:
    """An admitted request that waits for its commit. ``outcome`` is set before ``done``."""

    def __init__(
        self,
        *,
        admitted: Admitted,
        caller: IdentityKey | None,
        ingestion_id: str,
        started_s: float,
        reading: Reading | None = None,
    ) -> None:
        self.admitted = admitted
        self.caller = caller
        self.ingestion_id = ingestion_id
        self.started_s = started_s
        self.reading = reading
        self.outcome: IngestAnswer | OverlayError | None = None
        self.done = trio.Event()

    def finish(self, outcome: IngestAnswer | OverlayError) -> None:
        self.outcome = outcome
        self.done.set()


@attrs.frozen(kw_only=True)
class CommittedBatch:
    """A durable batch: what the driver is told, and its payload as the agents will get it."""

    manifest: Signed[Manifest]
    stateful: bool
    packed: bytes
    record_hashes: tuple[bytes, ...]
    holders: tuple[IdentityKey, ...] = ()


@attrs.frozen(kw_only=True)
class Decision:
    """What became of a request, but for the times; a fault where none of it was taken."""

    sorted: Sorted
    terms: Terms
    source_verified: bool
    identity_score: int | None


@attrs.frozen(kw_only=True)
class Committed:
    """A group as it was written. ``decisions`` are parallel to the group's requests."""

    batches: tuple[CommittedBatch, ...]
    decisions: tuple[Decision | OverlayError, ...]
    known_jobs: dict[str, str]


@attrs.define(kw_only=True)
class Group:
    """Requests that are committed together, and what an attempt at it has made of them.

    Attributes:
        holders: Who could keep batches that are to be replicated.
    """

    requests: Sequence[Pending]
    holders: tuple[IdentityKey, ...] = ()
    written: Committed | None = None


@attrs.frozen(kw_only=True)
class IngestPolicy:
    """The node's own say in how events are certified and batched.

    Attributes:
        level_floor: No event is certified below it; None leaves that to requests and sources.
        threshold: EVENT_CONSENSUS_THRESHOLD, for all levels above ``basic``.
        topics: For events whose request and source name none.
        distribute: Off: events go to no topics, whoever names some. The answer says so.
        replicated: Whether every batch is held by peers before it is acknowledged, or those alone that ask for it.
        replicas: By how many.
    """

    batch_events: int = 100
    coalesce: bool = True
    level_floor: Level | None = Level.ENHANCED
    threshold: int = 2
    topics: tuple[str, ...] = ()
    distribute: bool = True
    replicated: bool = False
    replicas: int = 2


class GroupWriter:
    """Turns groups into rows. Its ``write`` runs on a database thread, one group at a time."""

    def __init__(
        self,
        *,
        network: str,
        policy: IngestPolicy,
        signer: Signer,
        quorum_floor: Callable[[Level], int] = lambda level: 0,
    ) -> None:
        """``quorum_floor``: how many must agree at least at a level, as the operator's job templates say now."""
        self._network = network
        self._policy = policy
        self._signer = signer
        self._quorum_floor = quorum_floor

    def write(self, connection: "Connection", *, group: Group, now_ms: int) -> Committed:
        """Decide on a group's requests and write the batches they make. May run again after a failure."""
        before = group.written
        if before is not None and before.batches:
            first = before.batches[0].manifest.message.batch_id
            if batches.get(connection, first) is not None:
                return before  # the earlier attempt was committed after all
        decided = self._terms(connection, group)
        known = _known(connection, group.requests)
        planner = Planner(
            known,
            batch_events=min(self._policy.batch_events, EVENTS_PER_BATCH_MAX),
            coalesce=self._policy.coalesce,
        )
        decisions: list[Decision | OverlayError] = []
        for number, (pending, terms) in enumerate(zip(group.requests, decided, strict=True)):
            if isinstance(terms, OverlayError):
                decisions.append(terms)
                continue
            request = self._request(number, pending.admitted, terms)
            reading = pending.reading
            verified = _is(pending.caller, terms.source.identity_key) or (reading is not None and reading.is_proven)
            decision = Decision(
                sorted=planner.take(request),
                terms=terms.terms,
                source_verified=verified,
                identity_score=terms.source.trust_score if verified else None,
            )
            decisions.append(decision)
            if reading is not None:
                _keep_reading(connection, pending.admitted, decision, reading)
        made = self._store(connection, planner.drafts, now_ms, group.holders)
        group.written = Committed(
            batches=made, decisions=tuple(decisions), known_jobs=_job_states(connection, decisions)
        )
        return group.written

    def _request(self, number: int, admitted: Admitted, decided: Decided) -> Request:
        """A request with the terms of each event. In a chain of batches all of a request's events go together, at
        the highest level that one of them asks for: apart they would be out of their order.
        """
        terms, functions = decided.terms, functions_for(decided.policy)
        if not compile_policy(decided.policy, functions).levels:
            return Request(number=number, admitted=admitted, terms=terms)
        raised: dict[int, Terms] = {}
        for row, line in enumerate(admitted.lines):
            asked = event_level(decided.policy, line, functions)
            if asked is not None and Level[asked.upper()] > terms.level:
                raised[row] = self._at_level(terms, Level[asked.upper()])
        if raised and terms.stateful:
            highest = max(raised.values(), key=lambda each: each.level)
            return Request(number=number, admitted=admitted, terms=highest)
        return Request(number=number, admitted=admitted, terms=terms, raised=raised)

    def _at_level(self, terms: Terms, level: Level) -> Terms:
        quorum = quorum_for(level, threshold=self._policy.threshold, floor=self._quorum_floor(level))
        return attrs.evolve(terms, level=level, quorum=quorum)

    def _terms(self, connection: "Connection", group: Group) -> list[Decided | OverlayError]:
        requests = group.requests
        named = sources.get_many(connection, sorted({pending.admitted.source_id for pending in requests}))
        documents = {source.policy_hash: policies.get(connection, source.policy_hash) for source in named.values()}
        found: list[Decided | OverlayError] = []
        for pending in requests:
            source = named.get(pending.admitted.source_id)
            if source is None:
                found.append(
                    UnknownSourceError(
                        f"no source {pending.admitted.source_id!r} is registered on this node", field="/sourceId"
                    )
                )
            elif not source.enabled:
                found.append(SourceDisabledError(f"the source {source.source_id!r} is disabled", field="/sourceId"))
            elif _is_a_stranger_to(source, pending):
                found.append(
                    SourceBoundError(
                        f"the source {source.source_id!r} takes events of one identity alone",
                        field="/sourceId",
                        remedy="prove that identity, or post to a source of your own",
                    )
                )
            else:
                document = documents[source.policy_hash]
                assert document is not None, "a foreign key holds every source's policy"
                terms = self._terms_of(pending.admitted, source, document)
                shortage = self._shortage(terms, group)
                decided = Decided(terms=terms, source=source, policy=document)
                found.append(decided if shortage is None else shortage)
        return found

    def _shortage(self, terms: Terms, group: Group) -> TooFewHoldersError | None:
        if not terms.replicated or len(group.holders) >= self._policy.replicas:
            return None
        return TooFewHoldersError(
            f"{self._policy.replicas} peers are to hold each batch, {len(group.holders)} that could are connected",
            field="/processingOptions/durability",
        )

    def _terms_of(self, admitted: Admitted, source: sources.Source, document: bytes) -> Terms:
        compiled = compile_policy(document, functions_for(document))
        asked = (admitted.level, compiled.level)
        levels = [Level[word.upper()] for word in asked if word is not None]
        level = strictest(self._policy.level_floor, *levels)
        topics = admitted.topics
        if topics is None:
            topics = tuple(sorted(set(source.overlay_topics))) or self._policy.topics
        if not self._policy.distribute:
            topics = ()
        return Terms(
            source_id=source.source_id,
            policy_hash=source.policy_hash,
            level=level,
            quorum=quorum_for(level, threshold=self._policy.threshold, floor=self._quorum_floor(level)),
            topics=topics,
            stateful=compiled.stateful,
            on_conflict=compiled.on_conflict,
            replicated=self._policy.replicated or admitted.durability == "replicated",
        )

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
            batch, row = self._seal_draft(draft, numbers[draft.terms.source_id], now_ms, holders)
            numbers[draft.terms.source_id] += 1
            made.append(batch)
            rows.append(row)
        batches.insert_ingested(connection, rows)
        return tuple(made)

    def _seal_draft(
        self, draft: Draft, number: int, now_ms: int, holders: tuple[IdentityKey, ...]
    ) -> tuple[CommittedBatch, batches.NewBatch]:
        terms = draft.terms
        holders = holders if terms.replicated else ()
        hashes = tuple(bytes.fromhex(digest) for digest in draft.hashes)
        manifest = Manifest(
            network=self._network,
            coordinator=self._signer.identity,
            source_id=terms.source_id,
            source_sequence=number,
            policy_hash=terms.policy_hash,
            level=terms.level,
            quorum=terms.quorum,
            input_root=root_of_leaves(hashes),
            events=len(draft.lines),
            topics=terms.topics,
            durability="replicated" if terms.replicated else "local",
            received_ms=now_ms,
        )
        signed = sign(self._signer, manifest)
        packed = pack(b"\n".join(draft.lines))
        row = batches.NewBatch(
            batch_id=manifest.batch_id,
            source_id=terms.source_id,
            source_sequence=number,
            policy_hash=terms.policy_hash,
            level=int(terms.level),
            quorum=terms.quorum,
            stateful=terms.stateful,
            topics=list(terms.topics),
            manifest=manifest_bytes(signed),
            payload=packed,
            received_ms=now_ms,
            event_ids=draft.event_ids,
            external_ids=draft.external_ids,
            event_types=draft.event_types,
            records=draft.lines,
            record_hashes=draft.hashes,
            versions=draft.versions,
            job_id=job_id(Role.NORMALIZE, manifest.batch_id),
            holders=holders,
        )
        batch = CommittedBatch(
            manifest=signed, stateful=terms.stateful, packed=packed, record_hashes=hashes, holders=holders
        )
        return batch, row

    def split(self, connection: "Connection", *, batch_id: str, bad: frozenset[int], now_ms: int) -> Split | None:
        """Take a dead batch of this node's own apart: the events at ``bad`` stay dead, in a batch of their own; the
        others wait for agents again, in another. None where it is not dead any more.
        """
        found = batches.dead_to_split(connection, batch_id)
        if found is None:
            return None
        lines = unpack(found.payload).split(b"\n")
        said = read_manifest(found.manifest, self._network).message
        terms = Terms(
            source_id=said.source_id,
            policy_hash=said.policy_hash,
            level=said.level,
            quorum=said.quorum,
            topics=said.topics,
            stateful=found.stateful,
            on_conflict="version",
        )
        parts = [
            [row for row in found.index if (row.position in bad) is of_bad] for of_bad in (True, False)
        ]  # an event that is another batch's by now has no row here
        made: list[CommittedBatch | None] = []
        for part in parts:
            if not part:
                made.append(None)
                continue
            draft = _draft_of(terms, part, lines)
            number = sources.take_sequences(connection, terms.source_id, 1)
            batch, row = self._seal_draft(draft, number, now_ms, ())
            batches.insert_part(connection, row, found.number, [each.position for each in part])
            made.append(batch)
        dead, rest = made
        dead_id = "" if dead is None else dead.manifest.message.batch_id
        rest_id = "" if rest is None else rest.manifest.message.batch_id
        reasons = [*found.reasons, f"{len(bad)} of its events end every worker: {dead_id}; the others are {rest_id}"]
        batches.finish_split(connection, batch_id, dead_id, rest_id, reasons)
        return Split(dead=dead_id, bad=len(parts[0]), rest=rest, rest_id=rest_id)


def _draft_of(terms: Terms, part: Sequence[batches.IndexRow], lines: Sequence[bytes]) -> Draft:
    records = [parse_json(lines[row.position]) for row in part]
    return Draft(
        terms=terms,
        event_ids=[row.event_id for row in part],
        external_ids=[record["externalId"] for record in records],  # type: ignore[call-overload,index,misc]
        event_types=[record["eventType"] for record in records],  # type: ignore[call-overload,index,misc]
        lines=[lines[row.position] for row in part],
        hashes=[row.record_hash for row in part],
        versions=[row.version for row in part],
    )


def _is_a_stranger_to(source: sources.Source, pending: Pending) -> bool:
    """Whether a source is bound to an identity other than the caller's; what the node reads comes from its row."""
    bound = source.identity_key is not None and pending.reading is None
    return bound and not _is(pending.caller, source.identity_key)


def _keep_reading(connection: "Connection", admitted: Admitted, decision: Decision, reading: Reading) -> None:
    """Write down, with the events, how far the source is read and what it said that is no event."""
    if reading.mark is not None:
        sources.set_mark(connection, admitted.source_id, reading.mark)
    refused = [*admitted.rejections, *decision.sorted.conflicts]
    if refused:
        kept = [
            sources.Rejected(
                external_id=each.external_id,
                field=each.field,
                reason=each.reason,
                remedy=each.remedy,
                head=reading.heads[each.index],
            )
            for each in refused
        ]
        sources.keep_rejected(connection, admitted.source_id, kept)


def _known(connection: "Connection", requests: Sequence[Pending]) -> dict[str, list[Version]]:
    ids = sorted({event_id for pending in requests for event_id in pending.admitted.event_ids})
    return {
        event_id: [
            Version(number=row.version, record_hash=row.record_hash, previous=row.previous, batch_id=row.batch_id)
            for row in rows
        ]
        for event_id, rows in events.find_known(connection, ids).items()
    }


def _job_states(connection: "Connection", decisions: Sequence[Any]) -> dict[str, str]:
    """Status of the normalize job of every stored batch that a duplicate stands in."""
    batch_ids = {
        known.batch_id
        for decision in decisions
        if isinstance(decision, Decision)
        for known in decision.sorted.known
        if known is not None and known.batch_id
    }
    states = {}
    for batch_id in sorted(batch_ids):
        for _, role, _, status, _ in jobs.of_batch(connection, batch_id):
            if role == "normalize":
                states[batch_id] = status
    return states


def _is(caller: IdentityKey | None, identity_key: str | None) -> bool:
    return caller is not None and caller.hex() == identity_key
