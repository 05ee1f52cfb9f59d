"""Plans the batches of a group of admitted requests: pure. Duplicates, versions and conflicts; then batches.

Events are compared by their content, not by when they came: a body equal to *any* known version of its event
is a duplicate; a different one is a new version or a conflict, by the policy of its source. No batch holds an
event twice, so that a batch's events can be written with one statement.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from node.worker.parsing.admission import Admitted, Rejection, with_previous
from protocols.identifiers import record_hash
from protocols.messages import Level

BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
CONFLICT_REMEDY: Final = "send it under an external id of its own, or set the source's onConflict to 'version'"


@attrs.frozen(kw_only=True)
class Terms:
    """How events are certified. Events of equal terms can share a batch."""

    source_id: str
    policy_hash: bytes
    level: Level
    quorum: int
    topics: tuple[str, ...]
    stateful: bool
    on_conflict: str
    replicated: bool = False


@attrs.frozen(kw_only=True)
class Version:
    """A version of an event: stored in ``batch_id``, or about to be, in the draft of that number.

    Attributes:
        previous: Record hash of the version before; None for the first.
        level, quorum: Of its batch.
    """

    number: int
    record_hash: str
    previous: str | None
    level: Level
    quorum: int
    batch_id: str = ""
    draft: int = -1


@attrs.frozen(kw_only=True)
class Request:
    """An admitted request with its terms.

    Attributes:
        number: Its place in its group.
        raised: The terms of the events whose level the policy raised, by their row.
    """

    number: int
    admitted: Admitted
    terms: Terms
    raised: Mapping[int, Terms] = attrs.Factory(dict)

    def terms_of(self, row: int) -> Terms:
        """The terms of one event."""
        return self.raised.get(row, self.terms)


@attrs.frozen(kw_only=True)
class Draft:
    """A planned batch: columns of its records, in batch order."""

    terms: Terms
    event_ids: list[str]
    lines: list[bytes]
    hashes: list[str]
    versions: list[int]


@attrs.frozen(kw_only=True)
class Classification:
    """What becomes of a request's events: columns parallel to those of ``Admitted``.

    Attributes:
        statuses: ``ingested``, ``duplicate`` or ``rejected``.
        drafts: The number of the draft that an ingested event stands in; -1 for all others.
        known: For a duplicate, the version it repeats.
    """

    statuses: list[str]
    drafts: list[int]
    known: list[Version | None]
    conflicts: list[Rejection]
    versions: int


class Planner:
    """Classifies the events of one group's requests, in their order, and lays out the batches."""

    def __init__(self, known: Mapping[str, Sequence[Version]], *, batch_events: int, coalesce: bool) -> None:
        """Args:
        known: The stored versions of each event that the group names, oldest first.
        batch_events: Most events of a request in one batch. coalesce: requests with equal terms may share one.
        """
        self._versions = {event_id: list(versions) for event_id, versions in known.items()}
        self._batch_events = batch_events
        self._coalesce = coalesce
        self._open: dict[tuple[Terms, str, int], int] = {}
        self._members: list[set[str]] = []
        self._bytes: list[int] = []
        self.drafts: list[Draft] = []

    def take(self, request: Request) -> Classification:
        """Classify one request's events and enter the new ones in the drafts."""
        result = Classification(statuses=[], drafts=[], known=[], conflicts=[], versions=0)
        versions = 0
        admitted = request.admitted
        for row, (event_id, line, digest) in enumerate(
            zip(admitted.event_ids, admitted.lines, admitted.hashes, strict=True)
        ):
            known = self._versions.get(event_id)
            if known is None:
                self._versions[event_id] = [self._ingest(request, result, row, (line, digest), None)]
                continue
            same = _same_content(known, line, digest)
            if same is not None:
                _note(result, "duplicate", -1, same)
            elif request.terms.on_conflict == "reject":
                _note(result, "rejected", -1, known[-1])
                result.conflicts.append(_conflict(admitted, row))
            else:
                line = with_previous(line, known[-1].record_hash)
                known.append(self._ingest(request, result, row, (line, record_hash(line)), known[-1]))
                versions += 1
        return attrs.evolve(result, versions=versions)

    def _ingest(
        self, request: Request, result: Classification, row: int, record: tuple[bytes, str], before: Version | None
    ) -> Version:
        line, digest = record
        version = 1 if before is None else before.number + 1
        admitted = request.admitted
        number = self._draft_for(request, row, len(line))
        draft = self.drafts[number]
        draft.event_ids.append(admitted.event_ids[row])
        draft.lines.append(line)
        draft.hashes.append(digest)
        draft.versions.append(version)
        _note(result, "ingested", number, None)
        previous = None if before is None else before.record_hash
        return Version(
            number=version,
            record_hash=digest,
            previous=previous,
            level=draft.terms.level,
            quorum=draft.terms.quorum,
            draft=number,
        )

    def _draft_for(self, request: Request, row: int, line_bytes: int) -> int:
        """The open draft of these terms and this type of event, or a new one where it is full or holds the event
        already. Events that are chained stay in their order, whatever their types.
        """
        terms, event_id = request.terms_of(row), request.admitted.event_ids[row]
        kind = "" if terms.stateful else request.admitted.event_types[row]
        key = (terms, kind, 0 if self._coalesce else request.number)
        number = self._open.get(key)
        if number is not None:
            full = len(self.drafts[number].lines) >= self._batch_events
            if full or self._bytes[number] + line_bytes > BATCH_BYTES_MAX or event_id in self._members[number]:
                number = None
        if number is None:
            if terms.stateful:  # events of the source stay in their order: nothing goes into an earlier batch now
                self._open = {each: kept for each, kept in self._open.items() if each[0].source_id != terms.source_id}
            number = self._open[key] = len(self.drafts)
            self.drafts.append(Draft(terms=terms, event_ids=[], lines=[], hashes=[], versions=[]))
            self._members.append(set())
            self._bytes.append(0)
        self._members[number].add(event_id)
        self._bytes[number] += line_bytes + 1
        return number


def _note(result: Classification, status: str, draft: int, known: Version | None) -> None:
    result.statuses.append(status)
    result.drafts.append(draft)
    result.known.append(known)


def _same_content(known: Sequence[Version], line: bytes, digest: str) -> Version | None:
    """The version with the same content. The record of a later version names the one before: so does ours then."""
    for version in known:
        mine = digest if version.previous is None else record_hash(with_previous(line, version.previous))
        if mine == version.record_hash:
            return version
    return None


def _conflict(admitted: Admitted, row: int) -> Rejection:
    return Rejection(
        index=admitted.indexes[row],
        external_id=admitted.external_ids[row],
        field="",
        reason="conflict: another body is known under this external id",
        remedy=CONFLICT_REMEDY,
    )
