"""What to do with a group of admitted requests: pure. Duplicates, versions and conflicts; then batches.

Events are compared by what they say, not by when they came: a body equal to *any* known version of its event
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
    """Under what a request's events are certified. Equal terms can share a batch."""

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
    """A version of an event: stored in ``batch_id``, or about to be, in the draft of that number."""

    number: int
    record_hash: str
    previous: str | None
    batch_id: str = ""
    draft: int = -1


@attrs.frozen(kw_only=True)
class Request:
    """An admitted request with its terms. ``number`` tells it from the others of its group.

    ``raised`` holds the terms of the events that want others than the request's, by their row.
    """

    number: int
    admitted: Admitted
    terms: Terms
    raised: Mapping[int, Terms] = attrs.Factory(dict)

    def terms_of(self, row: int) -> Terms:
        """The terms of one event: its policy may want a higher level for it than for the rest."""
        return self.raised.get(row, self.terms)


@attrs.frozen(kw_only=True)
class Draft:
    """A batch to be: columns of its records, in batch order."""

    terms: Terms
    event_ids: list[str]
    external_ids: list[str | None]
    event_types: list[str]
    lines: list[bytes]
    hashes: list[str]
    versions: list[int]


@attrs.frozen(kw_only=True)
class Sorted:
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
    """Sorts the requests of one group in their order and lays out the batches."""

    def __init__(self, known: Mapping[str, Sequence[Version]], *, batch_events: int, coalesce: bool) -> None:
        """Args:
        known: The stored versions of each event that the group names, oldest first.
        batch_events: Most events in a batch. coalesce: requests with equal terms may share one.
        """
        self._versions = {event_id: list(versions) for event_id, versions in known.items()}
        self._batch_events = batch_events
        self._coalesce = coalesce
        self._open: dict[tuple[Terms, str, int], int] = {}
        self._members: list[set[str]] = []
        self._bytes: list[int] = []
        self.drafts: list[Draft] = []

    def take(self, request: Request) -> Sorted:
        """Sort one request's events into the drafts."""
        result = Sorted(statuses=[], drafts=[], known=[], conflicts=[], versions=0)
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
        self, request: Request, result: Sorted, row: int, record: tuple[bytes, str], before: Version | None
    ) -> Version:
        line, digest = record
        version = 1 if before is None else before.number + 1
        admitted = request.admitted
        number = self._draft_for(request, row, len(line))
        draft = self.drafts[number]
        draft.event_ids.append(admitted.event_ids[row])
        draft.external_ids.append(admitted.external_ids[row])
        draft.event_types.append(admitted.event_types[row])
        draft.lines.append(line)
        draft.hashes.append(digest)
        draft.versions.append(version)
        _note(result, "ingested", number, None)
        previous = None if before is None else before.record_hash
        return Version(number=version, record_hash=digest, previous=previous, draft=number)

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
            self.drafts.append(
                Draft(
                    terms=terms,
                    event_ids=[],
                    external_ids=[],
                    event_types=[],
                    lines=[],
                    hashes=[],
                    versions=[],
                )
            )
            self._members.append(set())
            self._bytes.append(0)
        self._members[number].add(event_id)
        self._bytes[number] += line_bytes + 1
        return number


def _note(result: Sorted, status: str, draft: int, known: Version | None) -> None:
    result.statuses.append(status)
    result.drafts.append(draft)
    result.known.append(known)


def _same_content(known: Sequence[Version], line: bytes, digest: str) -> Version | None:
    """The version that says the same. A later version's record names the one before, so ours is made to."""
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
