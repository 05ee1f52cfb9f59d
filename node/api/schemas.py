"""JSON Schemas of the HTTP interface, as OpenAPI 3.1 components. Data only."""

from typing import Any, Final

from node.api.openapi_sources import configuration_by_type
from node.api.problems import PROBLEMS, TYPE_PREFIX
from protocols.limits import (
    EVENT_TYPE_CHARS_MAX,
    EVENTS_PER_REQUEST_MAX,
    EXTERNAL_ID_CHARS_MAX,
    SOURCE_ID_CHARS_MAX,
    TOPIC_CHARS_MAX,
    TOPICS_PER_BATCH_MAX,
)

Schema = dict[str, Any]

SOURCE_TYPES: Final = ("webhook", "poll", "mqtt", "kafka", "overlay")


def text(description: str = "", **more: Any) -> Schema:
    return {"type": "string", **({"description": description} if description else {}), **more}


def number(description: str = "", **more: Any) -> Schema:
    return {"type": "number", **({"description": description} if description else {}), **more}


def integer(description: str = "", **more: Any) -> Schema:
    return {"type": "integer", **({"description": description} if description else {}), **more}


def nullable(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def array(items: Schema, description: str = "", **more: Any) -> Schema:
    return {"type": "array", "items": items, **({"description": description} if description else {}), **more}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def record(properties: dict[str, Schema], *optional: str, closed: bool = False, **more: Any) -> Schema:
    """An object whose properties are required but for ``optional``."""
    schema: Schema = {
        "type": "object",
        "required": [name for name in properties if name not in optional],
        "properties": properties,
        **more,
    }
    if not schema["required"]:
        del schema["required"]
    if closed:
        schema["additionalProperties"] = False
    return schema


LEVEL: Final = text("Certification level.", enum=["basic", "enhanced", "critical"])
TIME: Final = text("UTC.", format="date-time")
HASH: Final = text(pattern="^sha256:[0-9a-f]{64}$")
HEX: Final = text("Hexadecimal.", pattern="^[0-9a-f]*$")
OBJECT_URL: Final = text("UHRP URL (BRC-26): GET /uhrp/{url}.", pattern="^XU[1-9A-HJ-NP-Za-km-z]{50}$")
TOPICS: Final = array(text(maxLength=TOPIC_CHARS_MAX), maxItems=TOPICS_PER_BATCH_MAX)
ANY_OBJECT: Final[Schema] = {"type": "object"}

EVENT_INPUT: Final = record(
    {
        "externalId": nullable(
            text("The source's own id: makes a repeat a duplicate.", maxLength=EXTERNAL_ID_CHARS_MAX)
        ),
        "eventType": text(minLength=1, maxLength=EVENT_TYPE_CHARS_MAX),
        "timestamp": nullable(text("RFC 3339.", format="date-time")),
        "data": {"description": "Any JSON value; integers within 2^53 - 1, no NaN, no U+0000."},
    },
    "externalId",
    "timestamp",
    closed=True,
)
INGEST_REQUEST: Final = record(
    {
        "sourceId": text(minLength=1, maxLength=SOURCE_ID_CHARS_MAX),
        "events": array(ref("EventInput"), minItems=1, maxItems=EVENTS_PER_REQUEST_MAX),
        "processingOptions": record(
            {
                "requireCertification": {
                    "type": "boolean",
                    "description": "Every event is certified; false asks for no level of its own.",
                },
                "distributionTopics": {**TOPICS, "description": "Default: the topics of the source."},
                "consensusLevel": {
                    **LEVEL,
                    "description": "The strictest of this, the source's policy and the node's setting holds.",
                },
                "durability": text(
                    "replicated: acknowledged once OVERLAY_REPLICAS peers hold the batch too; they finish it "
                    "should this node not come back.",
                    enum=["local", "replicated"],
                ),
            },
            "requireCertification",
            "distributionTopics",
            "consensusLevel",
            "durability",
            closed=True,
        ),
    },
    "processingOptions",
    closed=True,
)
OVERLAY_JOB: Final = record(
    {
        "jobId": text(),
        "jobType": text(enum=["normalize", "validate", "certify", "distribute"]),
        "assignedAgent": nullable(text("Null until the job is awarded.")),
        "status": text(enum=["queued", "running", "completed", "failed", "dead"]),
    }
)
REJECTION: Final = record(
    {
        "index": integer("Place in the request, from 0."),
        "code": text(enum=["invalid-event", "conflict"]),
        "field": text("JSON pointer into the event; empty for the event itself."),
        "reason": text(),
        "remedy": text(),
    }
)
PROCESSED_EVENT: Final = record(
    {
        "eventId": nullable(text()),
        "externalId": nullable(text()),
        "status": text(enum=["ingested", "duplicate", "rejected"]),
        "overlayJobs": array(ref("OverlayJob")),
        "overlayDistribution": record(
            {
                "topics": TOPICS,
                "publishedAt": nullable(
                    text("When the batch was durable and given to the overlay.", format="date-time")
                ),
                "consensusNodes": integer("Executors that the level asks for."),
            }
        ),
        "rejection": ref("Rejection"),
    },
    "rejection",
)
BATCH_SHARE: Final = record(
    {
        "batchId": text(),
        "count": integer("Events of this request in the batch."),
        "durability": text(enum=["local", "replicated"]),
        "holders": array(text("Identity key of a peer that has the batch on disk.")),
    }
)
INGEST_ANSWER: Final = record(
    {
        "ingestionId": text(),
        "processedEvents": array(ref("ProcessedEvent"), "In the order of the request; absent when minimal."),
        "overlayMetadata": record(
            {
                "sourceVerified": {
                    "type": "boolean",
                    "description": "The caller proved to be the source's registered identity.",
                },
                "identityScore": {
                    "type": ["integer", "null"],
                    "minimum": 0,
                    "maximum": 100,
                    "description": "The trust in the source, moved by what validation finds; null if not verified.",
                },
                "processingLatency": integer("Milliseconds from the first byte to the commit."),
                "levelReachable": {"type": "boolean", "description": "False: the events wait for agents to come."},
                "levelShortfall": nullable(text("What keeps the network from the level now.")),
            }
        ),
        "counts": record(
            {
                "accepted": integer("Taken in by this request, versions included."),
                "duplicates": integer(),
                "rejected": integer(),
                "versions": integer("Of the accepted: new versions of known events."),
            }
        ),
        "rejected": array(integer(), "Indexes of the rejected events."),
        "rejections": array(ref("Rejection"), "Only when minimal: why each was rejected."),
        "batches": array(BATCH_SHARE),
        "receipts": array(ref("Receipt"), "One per batch: the node's signature that it is durable."),
    },
    "processedEvents",
    "overlayMetadata",
    "rejections",
)
EVIDENCE: Final = record(
    {
        "step": text(enum=["normalization", "validation", "certification", "distribution"]),
        "agentId": text(),
        "timestamp": TIME,
        "processingTime": integer("Milliseconds of CPU for the whole batch."),
        "inputHash": HASH,
        "outputHash": HASH,
        "validationRules": array(text(), "Only for validation: the kinds of rules in the policy."),
        "validationResult": text("Only for validation.", enum=["passed", "failed"]),
        "brc31Signature": HEX,
    },
    "validationRules",
    "validationResult",
)
CERTIFICATION: Final = record(
    {
        "eventId": text(),
        "certification": record(
            {
                "status": text(enum=["pending", "certified", "invalid", "dead"]),
                "level": LEVEL,
                "contentHash": nullable(HASH),
                "versionId": nullable(text()),
                "certificates": array(
                    record(
                        {
                            "agentId": text(),
                            "agentIdentity": HEX,
                            "certificationType": text(enum=["integrity", "rejection"]),
                            "signature": HEX,
                            "issuedAt": TIME,
                            "overlayEvidence": record(
                                {"consensusNodes": integer(), "agreementRatio": number(minimum=0, maximum=1)}
                            ),
                        }
                    )
                ),
                "processingEvidence": array(ref("Evidence")),
            }
        ),
        "overlayDistribution": record(
            {
                "topics": TOPICS,
                "publishedNodes": integer("Award-holders that were sent the certificate."),
                "confirmationCount": integer("Of them, those that checked and kept it."),
                "networkLatency": nullable(integer("Milliseconds to a confirmation, in the mean.")),
            }
        ),
    }
)
ISSUE: Final = record(
    {"rule": text(), "path": text(), "severity": text(), "expected": {}, "found": {}},
    "severity",
    "expected",
    "found",
)
EVENT: Final = record(
    {
        "eventId": text(),
        "sourceId": text(),
        "externalId": nullable(text()),
        "eventType": text(),
        "timestamp": nullable(text()),
        "status": text(enum=["pending", "certified", "invalid", "dead"]),
        "data": {"description": "As the source sent it."},
        "normalizedData": {"description": "Null until certified or invalid."},
        "issues": array(ref("Issue")),
        "contentHash": nullable(HASH),
        "versionId": nullable(text()),
        "version": integer("From 1; earlier versions are kept."),
        "recordHash": HEX,
        "previousRecordHash": nullable(HEX),
        "batchId": text(),
        "overlayJobs": array(ref("OverlayJob")),
        "ingestedAt": TIME,
        "certifiedAt": nullable(TIME),
    }
)
BATCH: Final = record(
    {
        "batchId": text(),
        "sourceId": text(),
        "sourceSequence": integer(),
        "state": text(enum=["pending", "certified", "dead"]),
        "level": LEVEL,
        "quorum": integer(),
        "policyHash": HEX,
        "objects": record(
            {"payload": nullable(OBJECT_URL), "certificate": nullable(OBJECT_URL), "policy": OBJECT_URL},
            description="Records and certificate are served once the batch is certified.",
        ),
        "topics": TOPICS,
        "counts": record({"events": integer(), "valid": nullable(integer()), "invalid": nullable(integer())}),
        "roots": record({"input": HEX, "normalized": nullable(HEX), "output": nullable(HEX)}),
        "agents": array(record({"agentId": text(), "agentIdentity": HEX, "build": text(), "issuedAt": TIME})),
        "evidence": array(ref("Evidence")),
        "dissent": array(ref("Evidence"), "Signed statements that differ from what was certified."),
        "overlayJobs": array(ref("OverlayJob")),
        "attempts": integer(),
        "reasons": array(text(), "Why attempts failed."),
        "receivedAt": TIME,
        "certifiedAt": nullable(TIME),
        "receipt": {"anyOf": [ref("Receipt"), {"type": "null"}]},
    }
)
SOURCE_INPUT: Final = record(
    {
        "sourceId": text(minLength=1, maxLength=SOURCE_ID_CHARS_MAX, pattern="^[A-Za-z0-9._:-]+$"),
        "name": text(minLength=1),
        "sourceType": text(enum=list(SOURCE_TYPES)),
        "configuration": configuration_by_type(),
        "mappingPolicy": {
            "type": "object",
            "description": "Sections of the policy, those of mapping, coercion and required.",
        },
        "validationRules": {"type": "object", "description": "The other sections of the policy."},
        "policyHash": text("A policy on this node, in place of the two.", pattern="^[0-9a-f]{64}$"),
        "overlayTopics": TOPICS,
        "identityKey": nullable(text("Compressed public key.", pattern="^0[23][0-9a-f]{64}$")),
        "trustScore": integer(minimum=0, maximum=100),
        "enabled": {"type": "boolean"},
    },
    "sourceId",
    "configuration",
    "mappingPolicy",
    "validationRules",
    "policyHash",
    "overlayTopics",
    "identityKey",
    "trustScore",
    "enabled",
    closed=True,
)
SOURCE_CHANGE: Final[Schema] = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": False,
    "properties": {key: value for key, value in SOURCE_INPUT["properties"].items() if key != "sourceId"},
}
SOURCE: Final = record(
    {
        **SOURCE_INPUT["properties"],
        "configuration": {
            **ANY_OBJECT,
            "description": "Secrets are hidden; a change may repeat that.",
        },
        "policyHash": HEX,
        "objects": record({"policy": OBJECT_URL}),
        "lastActivityAt": nullable(TIME),
        "createdAt": TIME,
        "updatedAt": TIME,
        "state": {"anyOf": [ref("SourceState"), {"type": "null"}]},
    }
)
SOURCE_STATE: Final = record(
    {
        "status": text(enum=["starting", "running", "failing", "ended", "listening"]),
        "since": nullable(TIME),
        "detail": text(),
        "lag": {"type": ["integer", "null"], "description": "Events known to wait upstream."},
        "heldUp": {"type": "boolean", "description": "The node is full; the source waits."},
        **{name: integer() for name in ("received", "accepted", "duplicates", "rejected", "errors")},
        "lastError": {"type": ["string", "null"]},
        "lastErrorAt": nullable(TIME),
        "retryAt": nullable(TIME),
        "lastEventAt": nullable(TIME),
    }
)
PROGRESS: Final = record(
    {
        "sourceId": text(),
        "mark": {"type": ["object", "null"], "description": "Where the source is read to; kept with the events."},
        "rejections": array(
            record(
                {
                    "externalId": {"type": ["string", "null"]},
                    "field": text(),
                    "reason": text(),
                    "remedy": text(),
                    "head": text("The first bytes."),
                    "rejectedAt": TIME,
                }
            ),
            "What is no event, the latest first.",
        ),
        "state": {"anyOf": [ref("SourceState"), {"type": "null"}]},
    }
)
PROBLEM: Final = record(
    {
        "type": text(enum=[TYPE_PREFIX + code for code in PROBLEMS]),
        "title": text(),
        "status": integer(),
        "detail": text(),
        "field": text("What is at fault: a JSON pointer into the body, or a parameter's name."),
        "path": text("For a policy: JSON pointer into the document."),
        "remedy": text("What to do about it."),
        "retryAfter": integer("Seconds."),
    },
    "field",
    "path",
    "retryAfter",
    description="RFC 9457. Other members may stand beside these.",
)
DOCUMENT: Final[Schema] = {
    "type": "object",
    "description": "Verified offline by 'overlay-node verify'; see the protocol's description for its form.",
}
READINESS: Final = record(
    {
        "status": text(enum=["ready", "not-ready"]),
        "checks": {
            "type": "object",
            "additionalProperties": record({"ok": {"type": "boolean"}, "detail": text()}),
        },
    }
)
STATS: Final = record(
    {
        "acknowledged": integer("Event versions taken in on this node: the sum of the next four."),
        "certified": integer(),
        "invalid": integer(),
        "pending": integer(),
        "dead": integer(),
        "batches": integer(),
        "levels": {"type": "object", "additionalProperties": integer("Certified events.")},
        "latencyMs": {
            "type": "object",
            "description": "From commit to certificate, of the batches sealed last.",
            "additionalProperties": {"type": ["number", "null"]},
        },
        "agents": array(
            record({"agentId": text(), "role": text(), "events": integer(), "batches": integer()}),
            "Whose evidence agreed with what was certified.",
        ),
        "dissent": integer("Statements that differ from what was certified."),
        "equivocations": integer("Agents' contradictions, by batch and role."),
    }
)
SCHEMAS: Final[dict[str, Schema]] = {
    "EventInput": EVENT_INPUT,
    "IngestRequest": INGEST_REQUEST,
    "IngestAnswer": INGEST_ANSWER,
    "ProcessedEvent": PROCESSED_EVENT,
    "OverlayJob": OVERLAY_JOB,
    "Rejection": REJECTION,
    "Receipt": DOCUMENT,
    "Certificate": DOCUMENT,
    "Certification": CERTIFICATION,
    "Evidence": EVIDENCE,
    "Event": EVENT,
    "Issue": ISSUE,
    "Batch": BATCH,
    "SourceInput": SOURCE_INPUT,
    "SourceChange": SOURCE_CHANGE,
    "Source": SOURCE,
    "SourceState": SOURCE_STATE,
    "Progress": PROGRESS,
    "Problem": PROBLEM,
    "Readiness": READINESS,
    "Stats": STATS,
}
