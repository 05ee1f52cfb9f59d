"""The answers to ingest requests: from columns to JSON, put together without an object per event. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import orjson

from node.ingest.batching import Classification, Terms, Version
from node.worker.parsing.admission import Admitted, Rejection
from protocols.certificate import receipt_document, rfc3339
from protocols.identifiers import job_id
from protocols.levels import rule_for
from protocols.messages import IdentityKey, Level, Manifest, Role, Signed

CONFLICT: Final = "conflict"
REJECTED: Final = "invalid-event"


@attrs.frozen(kw_only=True)
class IngestAnswer:
    """What became of a request, once it is durable.

    Attributes:
        terms: Of the request; single events may have got a higher level, which their batches' manifests show.
        manifests: Signed manifest of every draft of the group, by number; this request may use some.
        record_hashes: Of every draft, parallel to ``manifests``: with them a receipt proves each event.
        known_jobs: Status of the normalize job by batch id, for the batches that duplicates stand in.
        source_verified: Whether the caller proved to be the source's registered identity.
        identity_score: The trust in the source, 0 to 100, where it is verified.
        latency_ms: From the first byte read to the commit.
        shortfall: What keeps a level of its batches from being reached now; empty if nothing does.
        holders: By batch id, the peers that hold it too, where the request had it replicated.
    """

    ingestion_id: str
    admitted: Admitted
    classification: Classification
    terms: Terms
    manifests: tuple[Signed[Manifest], ...]
    record_hashes: tuple[tuple[bytes, ...], ...]
    known_jobs: dict[str, str]
    committed_ms: int
    source_verified: bool
    identity_score: int | None
    latency_ms: int
    shortfall: str = ""
    holders: Mapping[str, tuple[IdentityKey, ...]] = attrs.field(factory=dict)

    @property
    def batch_ids(self) -> set[str]:
        """All batches that events of this request stand in, the known ones included."""
        known = {
            version.batch_id for version in self.classification.known if version is not None and version.batch_id
        }
        return known | {self.manifests[number].message.batch_id for number in self.drafts}

    @property
    def counts(self) -> dict[str, int]:
        statuses = self.classification.statuses
        return {
            "accepted": statuses.count("ingested"),
            "duplicates": statuses.count("duplicate"),
            "rejected": len(self.rejections),
            "versions": self.classification.versions,
        }

    @property
    def rejections(self) -> list[Rejection]:
        """In the order of the request."""
        return sorted(
            (*self.admitted.rejections, *self.classification.conflicts), key=lambda rejection: rejection.index
        )

    @property
    def batch_levels(self) -> list[tuple[Level, int]]:
        """Level and quorum of this request's batches, the strictest first. Where it made none, those of the batches
        that its duplicates stand in, or of its terms.
        """
        manifests = [self.manifests[number].message for number in self.drafts]
        made = {(manifest.level, manifest.quorum) for manifest in manifests}
        if made:
            return sorted(made, reverse=True)
        rows = zip(self.classification.statuses, self.classification.known, strict=True)
        known = {(each.level, each.quorum) for status, each in rows if status == "duplicate" and each is not None}
        return sorted(known, reverse=True) or [(self.terms.level, self.terms.quorum)]

    @property
    def drafts(self) -> dict[int, int]:
        """The drafts that hold events of this request, with their number of them."""
        found: dict[int, int] = {}
        for number in self.classification.drafts:
            if number >= 0:
                found[number] = found.get(number, 0) + 1
        return found


def render(answer: IngestAnswer, *, minimal: bool) -> bytes:
    """The answer's body as JSON; ``minimal`` leaves out everything that is per event but the rejections."""
    drafts = answer.drafts
    document: dict[str, Any] = {"ingestionId": answer.ingestion_id}
    if not minimal:
        document["processedEvents"] = orjson.Fragment(_processed(answer))
        document["overlayMetadata"] = {
            "sourceVerified": answer.source_verified,
            "identityScore": answer.identity_score,
            "processingLatency": answer.latency_ms,
            "levelReachable": not answer.shortfall,
            "levelShortfall": answer.shortfall or None,
        }
    document["counts"] = answer.counts
    document["rejected"] = [rejection.index for rejection in answer.rejections]
    if minimal:
        document["rejections"] = [_refusal(rejection) for rejection in answer.rejections]
    document["batches"] = [_batch(answer, number, count) for number, count in drafts.items()]
    document["receipts"] = [
        receipt_document(answer.manifests[number], None if minimal else answer.record_hashes[number])
        for number in drafts
    ]
    return orjson.dumps(document)


def render_lines(answer: IngestAnswer, numbers: Sequence[int]) -> dict[str, Any]:
    """The answer for a piece of a stream, as JSON values: as ``render`` minimal, with line numbers for indexes.

    Args:
        numbers: Of the lines that the request was made of.
    """
    refusals = [_refusal(rejection) for rejection in answer.rejections]
    return {
        "counts": answer.counts,
        "rejections": [{"line": numbers[refusal.pop("index")], **refusal} for refusal in refusals],
        "batches": [_batch(answer, number, count) for number, count in answer.drafts.items()],
        "receipts": [receipt_document(answer.manifests[number], None) for number in answer.drafts],
    }


def _batch(answer: IngestAnswer, number: int, count: int) -> dict[str, Any]:
    manifest = answer.manifests[number].message
    holders = answer.holders.get(manifest.batch_id, ())
    return {
        "batchId": manifest.batch_id,
        "count": count,
        "durability": manifest.durability,
        "holders": [key.hex() for key in holders],
    }


def _refusal(rejection: Rejection) -> dict[str, Any]:
    is_conflict = rejection.reason.startswith(CONFLICT)
    return {
        "index": rejection.index,
        "code": CONFLICT if is_conflict else REJECTED,
        "field": rejection.field,
        "reason": rejection.reason,
        "remedy": rejection.remedy,
    }


def _processed(answer: IngestAnswer) -> bytes:
    """The ``processedEvents`` array in the order of the request."""
    admitted, classified = answer.admitted, answer.classification
    tails = _Tails(answer)
    parts: list[bytes] = [b""] * admitted.total
    conflicts = {rejection.index: rejection for rejection in classified.conflicts}
    for row, index in enumerate(admitted.indexes):
        status, known = classified.statuses[row], classified.known[row]
        event_id, external = admitted.event_ids[row], admitted.external_ids[row]
        if status == "ingested":
            tail = tails.of_draft(classified.drafts[row])
        elif status == "duplicate" and known is not None:
            tail = tails.of_known(known)
        else:
            parts[index] = _rejected(conflicts[index], event_id)
            continue
        parts[index] = b'{"eventId":"%b","externalId":%b,"status":"%b",%b' % (
            event_id.encode(),
            orjson.dumps(external),
            status.encode(),
            tail,
        )
    for rejection in admitted.rejections:
        parts[rejection.index] = _rejected(rejection, None)
    return b"[%b]" % b",".join(parts)


class _Tails:
    """The end of an event's entry: its jobs and its distribution, the same for all events of a batch."""

    def __init__(self, answer: IngestAnswer) -> None:
        self._answer = answer
        self._published = rfc3339(answer.committed_ms)
        self._of_drafts: dict[int, bytes] = {}

    def of_draft(self, number: int) -> bytes:
        """Of an event that stands in a batch of this group."""
        tail = self._of_drafts.get(number)
        if tail is None:
            manifest = self._answer.manifests[number].message
            tail = self._of_drafts[number] = self._tail(manifest.batch_id, "queued", manifest.level, manifest.quorum)
        return tail

    def of_known(self, known: Version) -> bytes:
        """Of a duplicate, by the version that it repeats."""
        if not known.batch_id:
            return self.of_draft(known.draft)
        status = self._answer.known_jobs.get(known.batch_id, "queued")
        return self._tail(known.batch_id, status, known.level, known.quorum)

    def _tail(self, batch_id: str, job_status: str, level: Level, quorum: int) -> bytes:
        distribution = {
            "topics": self._answer.terms.topics,
            "publishedAt": self._published,
            "consensusNodes": rule_for(level, quorum).executors,
        }
        return (
            b'"overlayJobs":[{"jobId":"%b","jobType":"normalize","assignedAgent":null,"status":"%b"}],'
            b'"overlayDistribution":%b}'
        ) % (job_id(Role.NORMALIZE, batch_id).encode(), job_status.encode(), orjson.dumps(distribution))


def _rejected(rejection: Rejection, event_id: str | None) -> bytes:
    return orjson.dumps(
        {
            "eventId": event_id,
            "externalId": rejection.external_id,
            "status": "rejected",
            "overlayJobs": [],
            "overlayDistribution": {"topics": [], "publishedAt": None, "consensusNodes": 0},
            "rejection": _refusal(rejection),
        }
    )
