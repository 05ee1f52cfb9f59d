"""What ingest answers: from columns to JSON, put together without an object per event. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import orjson

from node.ingest.batching import Sorted, Terms
from node.worker.parsing.admission import Admitted, Rejection
from protocols.certificate import receipt_document, rfc3339
from protocols.identifiers import job_id
from protocols.levels import rule_for
from protocols.messages import IdentityKey, Manifest, Role, Signed

CONFLICT: Final = "conflict"
REJECTED: Final = "invalid-event"


@attrs.frozen(kw_only=True)
class IngestAnswer:
    """What became of a request, once it is durable.

    Attributes:
        manifests: Signed manifest of every draft of the group, by number; this request may use some.
        record_hashes: Of every draft, parallel to ``manifests``: with them a receipt proves each event.
        known_jobs: Job id and status by batch id, for the batches that duplicates stand in.
        source_verified: Whether the caller proved to be the source's registered identity.
        identity_score: The trust in the source, 0 to 100, where it is verified.
        latency_ms: From the first byte read to the commit.
        shortfall: What keeps the level from being reached now; empty if nothing does.
        holders: By batch id, the peers that hold it too, where the request had it replicated.
    """

    ingestion_id: str
    admitted: Admitted
    sorted: Sorted
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
        known = {version.batch_id for version in self.sorted.known if version is not None and version.batch_id}
        return known | {self.manifests[number].message.batch_id for number in self.drafts}

    @property
    def counts(self) -> dict[str, int]:
        statuses = self.sorted.statuses
        return {
            "accepted": statuses.count("ingested"),
            "duplicates": statuses.count("duplicate"),
            "rejected": len(self.rejections),
            "versions": self.sorted.versions,
        }

    @property
    def rejections(self) -> list[Rejection]:
        """In the order of the request."""
        return sorted((*self.admitted.rejections, *self.sorted.conflicts), key=lambda rejection: rejection.index)

    @property
    def drafts(self) -> dict[int, int]:
        """The drafts that hold events of this request, with their number of them."""
        found: dict[int, int] = {}
        for number in self.sorted.drafts:
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
    """What became of lines, as JSON values: as ``render`` minimal, events called by the numbers of their lines.

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
    admitted, sorted_ = answer.admitted, answer.sorted
    distribution = orjson.dumps(
        {
            "topics": answer.terms.topics,
            "publishedAt": rfc3339(answer.committed_ms),
            "consensusNodes": rule_for(answer.terms.level, answer.terms.quorum).executors,
        }
    )
    tails = {
        number: _tail(answer.manifests[number].message.batch_id, "queued", distribution) for number in answer.drafts
    }
    parts: list[bytes] = [b""] * admitted.total
    conflicts = {rejection.index: rejection for rejection in sorted_.conflicts}
    for row, index in enumerate(admitted.indexes):
        status, known = sorted_.statuses[row], sorted_.known[row]
        event_id, external = admitted.event_ids[row], admitted.external_ids[row]
        if status == "ingested":
            tail = tails[sorted_.drafts[row]]
        elif status == "duplicate" and known is not None:
            batch_id = known.batch_id or answer.manifests[known.draft].message.batch_id
            tail = _tail(batch_id, answer.known_jobs.get(batch_id, "queued"), distribution)
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


def _tail(batch_id: str, job_status: str, distribution: bytes) -> bytes:
    """What all events of a batch say alike."""
    return (
        b'"overlayJobs":[{"jobId":"%b","jobType":"normalize","assignedAgent":null,"status":"%b"}],'
        b'"overlayDistribution":%b}'
    ) % (job_id(Role.NORMALIZE, batch_id).encode(), job_status.encode(), distribution)


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
