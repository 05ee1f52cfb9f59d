"""Events and batches as the API shows them, read from the database. Runs on database threads."""

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agents.policy import policy_facts
from node.coordination.certified_result import CertifiedResult
from node.coordination.serialization import read_certificate, read_evidence, read_manifest, unpack_outputs
from node.delivery.batch_content import batch_evidence
from node.worker.compute import unpack
from protocols.certificate import agent_id, event_document, receipt_document, rfc3339
from protocols.errors import ClientFault
from protocols.identifiers import job_id
from protocols.levels import rule_for
from protocols.merkle import leaf_hash
from protocols.messages import Evidence, Level, QuorumCertificate, Role, Signed
from protocols.uhrp import content_url, uhrp_url
from storage import batches, events, jobs, metrics, policies
from storage.rows import BatchRow

if TYPE_CHECKING:
    from psycopg import Connection

Document = dict[str, Any]


class UnknownEventError(ClientFault):
    code = "unknown-event"


class UnknownBatchError(ClientFault):
    code = "unknown-batch"


class NotCertifiedError(ClientFault):
    code = "not-certified"


class EventExpiredError(ClientFault):
    code = "event-expired"


class EventDeadError(ClientFault):
    code = "event-dead"


def timestamp(moment: datetime.datetime | None) -> str | None:
    """A Postgres timestamp, UTC, as RFC 3339."""
    if moment is None:
        return None
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def sealed_since(connection: "Connection", *, sequence: int, limit: int) -> list[CertifiedResult]:
    """Batches sealed after ``sequence``, in their order, the way the feed takes them."""
    found = []
    for row, outputs in batches.sealed_since(connection, sequence, limit):
        assert row.certificate is not None, "a sealed batch has a certificate"
        assert row.seal_sequence is not None, "a sealed batch has a sequence"
        leaves, normalized = unpack_outputs(outputs)
        found.append(
            CertifiedResult(
                certificate=read_certificate(row.certificate),
                topics=tuple(row.topics),
                leaves=leaves,
                normalized=normalized,
                received_ms=row.received_ms,
                certified_ms=row.certified_ms or row.received_ms,
                sequence=row.seal_sequence,
            )
        )
    return found


def _event(connection: "Connection", event_id: str) -> tuple[events.EventRow, BatchRow]:
    row = events.get(connection, event_id)
    if row is None and events.expired(connection, event_id):
        raise EventExpiredError("the event's data was deleted after the time that its policy sets", eventId=event_id)
    if row is None:
        raise UnknownEventError(f"this node has no event {event_id[:100]!r}", eventId=event_id[:100])
    batch = batches.get(connection, row.batch_id)
    assert batch is not None, "an event is stored with its batch"
    return row, batch


def page(
    connection: "Connection",
    *,
    status: str,
    source_id: str | None,
    external_id: str | None,
    after: str,
    limit: int,
) -> Document:
    """GET /overlay/events: by id, latest versions. An event shows up once its batch is sealed, or waits longer."""
    rows = events.list_events(
        connection,
        status=None if status == "any" else status,
        source_id=source_id,
        external_id=external_id,
        after=after,
        limit=limit,
    )
    return {
        "events": [_event_summary(row) for row in rows],
        "nextAfter": rows[-1].event_id if len(rows) == limit else None,
    }


def event_document_of(connection: "Connection", event_id: str) -> Document:
    """GET /overlay/events/{eventId}."""
    row, _ = _event(connection, event_id)
    return {**_event_summary(row), "overlayJobs": batch_jobs(connection, row.batch_id)}


def versions_document(connection: "Connection", event_id: str, *, limit: int) -> Document:
    """GET /overlay/events/{eventId}/versions: the latest first, each naming the one before by its record's hash.

    Raises:
        UnknownEventError: There is no such event.
    """
    rows = events.versions(connection, event_id, limit=limit)
    if not rows:
        raise UnknownEventError(f"this node has no event {event_id[:100]!r}", eventId=event_id[:100])
    return {"eventId": event_id, "sourceId": rows[0].source_id, "versions": [_version(row) for row in rows]}


def _version(row: events.VersionRow) -> Document:
    raw = row.raw_data or {}
    return {
        "version": row.version,
        "versionId": row.version_id,
        "recordHash": row.record_hash.hex(),
        "previousRecordHash": raw.get("previous"),
        "status": row.status or row.state,
        "data": raw.get("data"),
        "normalizedData": row.normalized_data,
        "issues": row.issues or [],
        "contentHash": row.content_hash,
        "batchId": row.batch_id,
        "certifiedAt": timestamp(row.certified_at),
    }


def _event_summary(row: events.EventRow) -> Document:
    return {
        "eventId": row.event_id,
        "sourceId": row.source_id,
        "externalId": row.external_id,
        "eventType": row.event_type,
        "timestamp": row.raw_data["timestamp"],
        "status": row.validation_status,
        "data": row.raw_data["data"],
        "normalizedData": row.normalized_data,
        "issues": row.validation_issues,
        "contentHash": row.content_hash,
        "versionId": row.version_id,
        "version": row.version,
        "recordHash": row.record_hash.hex(),
        "previousRecordHash": row.raw_data["previous"],
        "batchId": row.batch_id,
        "ingestedAt": timestamp(row.ingested_at),
        "certifiedAt": timestamp(row.certified_at),
    }


def batch_jobs(connection: "Connection", batch_id: str) -> list[Document]:
    """The jobs of a batch; its rows come with its verdicts, until then the first job is queued."""
    rows = jobs.of_batch(connection, batch_id) or [
        (job_id(Role.NORMALIZE, batch_id), Role.NORMALIZE.word, None, "queued", 0)
    ]
    return [
        {"jobId": name, "jobType": role, "assignedAgent": agent, "status": status}
        for name, role, agent, status, _ in rows
    ]


def certification(connection: "Connection", event_id: str, *, network: str) -> Document:
    """GET /overlay/events/{eventId}/certification."""
    row, batch = _event(connection, event_id)
    certificate = None if batch.certificate is None else read_certificate(batch.certificate)
    agreeing = [] if certificate is None else _evidence(connection, batch, network, agrees=True)
    document = policies.get(connection, batch.policy_hash)
    rules = [] if document is None else validation_rules(document)
    passed = row.validation_status != "invalid"
    return {
        "eventId": row.event_id,
        "certification": {
            "status": row.validation_status,
            "level": Level(batch.level).word,
            "contentHash": row.content_hash,
            "versionId": row.version_id,
            "certificates": [] if certificate is None else certificates(certificate, rejected=not passed),
            "processingEvidence": [_with_rules(entry, rules, passed) for entry in batch_evidence(agreeing)],
        },
        "overlayDistribution": {
            "topics": list(batch.topics),
            "publishedNodes": batch.published,
            "confirmationCount": batch.confirmed,
            "networkLatency": batch.latency_ms if batch.confirmed else None,
        },
    }


def certificates(certificate: QuorumCertificate, *, rejected: bool) -> list[Document]:
    """The signatures of a quorum certificate, one entry for each agent."""
    statement = certificate.statement
    asked = rule_for(statement.level, statement.quorum).executors
    ratio = round(min(1.0, len(certificate.certifications) / asked), 4)
    return [
        {
            "agentId": agent_id(signed.signer),
            "agentIdentity": signed.signer.hex(),
            "certificationType": "rejection" if rejected else "integrity",
            "signature": signed.signature.hex(),
            "issuedAt": rfc3339(signed.message.issued_ms),
            "overlayEvidence": {
                "consensusNodes": len(certificate.certifications),
                "agreementRatio": ratio,
            },
        }
        for signed in certificate.certifications
    ]


def validation_rules(document: bytes) -> list[str]:
    """The kinds of rules that a policy checks events against."""
    return list(policy_facts(document).rule_kinds)


def _with_rules(entry: Document, rules: list[str], passed: bool) -> Document:
    if entry["step"] != "validation":
        return entry
    return {**entry, "validationRules": rules, "validationResult": "passed" if passed else "failed"}


def _evidence(connection: "Connection", batch: BatchRow, network: str, *, agrees: bool) -> Sequence[Signed[Evidence]]:
    rows = batches.evidence(connection, batch.batch_id)
    work = (Role.NORMALIZE.word, Role.VALIDATE.word)
    return [read_evidence(row.frame, network) for row in rows if row.agrees is agrees and row.role in work]


def certificate_document(connection: "Connection", event_id: str, *, network: str) -> Document:
    """GET /overlay/events/{eventId}/certificate: everything an offline check needs.

    Raises:
        NotCertifiedError, EventDeadError: there is none, yet or ever.
    """
    return certificate_and_objects(connection, event_id)[0]


def certificate_and_objects(connection: "Connection", event_id: str) -> tuple[Document, Document]:
    """The certificate document of an event, and the UHRP URLs of what belongs to its batch.

    Raises:
        NotCertifiedError, EventDeadError: there is none, yet or ever.
    """
    row, batch = _event(connection, event_id)
    if batch.state == "dead":
        raise EventDeadError(
            f"no quorum was reached for this event: {'; '.join(batch.reasons)[:500]}", batchId=batch.batch_id
        )
    outputs = batches.outputs(connection, batch.batch_id)
    packed = batches.payload(connection, batch.batch_id)
    if batch.certificate is None or outputs is None or packed is None:
        raise NotCertifiedError(
            "the event's batch has not reached its quorum yet", batchId=batch.batch_id, retryAfter=1
        )
    leaves, normalized = unpack_outputs(outputs)
    records = unpack(packed)
    document = event_document(
        read_certificate(batch.certificate),
        leaves=leaves.split(b"\n"),
        index=row.position,
        data=normalized.split(b"\n")[row.position],
        record=records.split(b"\n")[row.position],
    )
    return document, batch_objects(batch, records)


def batch_document(connection: "Connection", batch_id: str, *, network: str) -> Document:
    """GET /overlay/batches/{batchId}."""
    batch = batches.get(connection, batch_id)
    if batch is None:
        raise UnknownBatchError(f"this node has no batch {batch_id[:100]!r}", batchId=batch_id[:100])
    manifest = read_manifest(batch.manifest, network)
    certificate = None if batch.certificate is None else read_certificate(batch.certificate)
    statement = None if certificate is None else certificate.statement
    records = _records(connection, batch_id)
    return {
        "batchId": batch.batch_id,
        "sourceId": batch.source_id,
        "sourceSequence": batch.source_sequence,
        "state": batch.state,
        "mergedInto": batch.merged_into,
        "level": Level(batch.level).word,
        "quorum": batch.quorum,
        "policyHash": batch.policy_hash.hex(),
        "objects": batch_objects(batch, records),
        "topics": list(batch.topics),
        "counts": {"events": batch.events, "valid": batch.valid, "invalid": batch.invalid},
        "roots": {
            "input": manifest.message.input_root.hex(),
            "normalized": None if statement is None else statement.normalized_root.hex(),
            "output": None if statement is None else statement.output_root.hex(),
        },
        "agents": [] if certificate is None else signers(certificate),
        "evidence": batch_evidence(_evidence(connection, batch, network, agrees=True)),
        "dissent": batch_evidence(_evidence(connection, batch, network, agrees=False)),
        "overlayJobs": batch_jobs(connection, batch_id),
        "attempts": batch.attempts,
        "reasons": list(batch.reasons),
        "receivedAt": rfc3339(batch.received_ms),
        "certifiedAt": None if batch.certified_ms is None else rfc3339(batch.certified_ms),
        "receipt": receipt_document(manifest, [leaf_hash(line) for line in records.split(b"\n")])
        if records
        else None,
    }


def batch_objects(batch: BatchRow, records: bytes) -> Document:
    """UHRP URLs of what belongs to a batch. Its records and its certificate are served once it is sealed."""
    return {
        "payload": None if batch.certificate is None or not records else content_url(records),
        "certificate": None if batch.certificate is None else content_url(batch.certificate),
        "policy": uhrp_url(batch.policy_hash),
    }


def _records(connection: "Connection", batch_id: str) -> bytes:
    """Empty where they are deleted, as their policy asks."""
    packed = batches.payload(connection, batch_id)
    assert packed is not None, "a batch is stored with its payload"
    return unpack(packed) if packed else b""


def signers(certificate: QuorumCertificate) -> list[Document]:
    return [
        {
            "agentId": agent_id(signed.signer),
            "agentIdentity": signed.signer.hex(),
            "build": signed.message.build,
            "issuedAt": rfc3339(signed.message.issued_ms),
        }
        for signed in certificate.certifications
    ]


def node_stats(connection: "Connection") -> Document:
    """GET /overlay/stats: the state of every event version that this node acknowledged."""
    found = metrics.stats(connection)
    return {
        "acknowledged": found.acknowledged,
        "certified": found.certified,
        "invalid": found.invalid,
        "pending": found.pending,
        "dead": found.dead,
        "batches": found.batches,
        "levels": {Level(level).word: count for level, count in found.levels.items()},
        "latencyMs": found.latency_ms,
        "agents": [
            {"agentId": agent_id(signer), "role": role, "events": count, "batches": batch_count}
            for signer, role, count, batch_count in found.agents
        ],
        "dissent": found.dissent,
        "equivocations": found.equivocations,
    }
