"""Descriptions of the doors that clients push events in by: the ingest API and the webhooks of sources."""

from typing import Any, Final

from node.api.describing import in_path, in_query, json_answer, json_body, operation, problem_answers
from node.api.ingest_stream import LINES_TYPE
from node.api.keyed import HEADER, REPLAYED
from node.api.schemas import LEVEL, Schema, array, integer, record, ref, text
from node.sources.settings.webhook import WebhookSourceSettings

EXAMPLE_REQUEST: Final = {
    "sourceId": "iot-sensors-farm-001",
    "events": [
        {
            "externalId": "sensor_001_20240115_103000",
            "eventType": "sensor_reading",
            "timestamp": "2024-01-15T10:30:00Z",
            "data": {"sensorId": "temp_001", "value": 23.5, "unit": "celsius"},
        }
    ],
    "processingOptions": {
        "requireCertification": True,
        "distributionTopics": ["gitdata.events.iot"],
        "consensusLevel": "enhanced",
    },
}
OTHER_BODIES: Final[dict[str, Schema]] = {
    LINES_TYPE: text("One event a line."),
    "application/cloudevents+json": record({name: text() for name in ("id", "source", "specversion", "type")}),
    "application/cloudevents-batch+json": array({"type": "object"}, "CloudEvents."),
}
EXAMPLE_DELIVERY: Final = {"ref": "refs/heads/main", "repository": {"full_name": "lighthouse/lamp"}}
EXAMPLE_LINES: Final = (
    '{"lines":[1,2],"counts":{"accepted":2,"duplicates":0,"rejected":0,"versions":0},"rejections":[],"batches":[]}\n'
    '{"done":true,"lines":2,"acknowledged":2,"counts":{"accepted":2,"duplicates":0,"rejected":0,"versions":0}}\n'
)
COUNTS: Final = record({name: integer() for name in ("accepted", "duplicates", "rejected", "versions")})
LINE: Final = integer("Counted from 1, blank lines too.")
DOOR_SCHEMAS: Final[dict[str, Schema]] = {
    "WebhookConfiguration": {
        **WebhookSourceSettings.model_json_schema(by_alias=True),
        "description": (
            "The configuration of a webhook source. Without a scheme it takes events by the ingest API alone. "
            "Secrets are written and never shown; while one is changed for another, both hold."
        ),
    },
    "LinesAcknowledged": record(
        {
            "lines": array(LINE, "The first and the last that this stands for.", minItems=2, maxItems=2),
            "counts": COUNTS,
            "rejections": array(
                record({"line": LINE, **{name: text() for name in ("code", "field", "reason", "remedy")}})
            ),
            "batches": array({"type": "object"}, "As in the answer to a whole request."),
            "receipts": array({"type": "object"}, "As in the answer to a whole request."),
            "abridged": {
                "type": "boolean",
                "description": "The client read too slowly: several became one, without batches, and with the first "
                "1,000 rejections.",
            },
        },
        "receipts",
        "abridged",
    ),
    "LinesEnd": record(
        {
            "done": {"type": "boolean", "description": "Whether all that was sent is taken in or rejected."},
            "lines": LINE,
            "acknowledged": integer("The last line that is durable or rejected: send on from the next."),
            "counts": COUNTS,
            "problem": ref("Problem"),
        },
        "lines",
        "problem",
        description="The last line of the answer.",
    ),
}


def ingest_operation() -> dict[str, Any]:
    """POST /overlay/events/ingest."""
    acknowledged = json_answer(
        "Durable: the answer leaves after the commit, flushed to disk.",
        ref("IngestAnswer"),
        Preference_Applied="return=minimal where it was applied.",
        **{REPLAYED.replace("-", "_"): "true where the answer was given before, under the same Idempotency-Key."},
    )
    lines = {"anyOf": [ref("LinesAcknowledged"), ref("LinesEnd")]}
    acknowledged["content"][LINES_TYPE] = {"schema": lines, "examples": {"one": {"value": EXAMPLE_LINES}}}
    body = json_body(ref("IngestRequest"), EXAMPLE_REQUEST)
    body["content"] |= {media_type: {"schema": schema} for media_type, schema in OTHER_BODIES.items()}
    return operation(
        "ingestEvents",
        "events",
        "Take events in",
        {
            "202": acknowledged,
            **problem_answers(
                "invalid-json",
                "invalid-request",
                "invalid-idempotency-key",
                "source-disabled",
                "unknown-source",
                "request-timeout",
                "stream-idle",
                "idempotency-key-in-use",
                "body-too-large",
                "too-many-events",
                "unsupported-media-type",
                "idempotency-key-reused",
                "overloaded",
                "ingestion-disabled",
                "unavailable",
                "too-many-streams",
            ),
        },
        description=(
            "Idempotent on (sourceId, externalId): a repeat is answered as duplicate with the same ids; another "
            "body under a known externalId is a new version or a conflict, by the source's policy. A bad event "
            "is reported by its index; the others are taken. Lines without a Content-Length are taken in as they "
            "come, without a bound on their whole length, each piece (1,000 events, 1 MiB, or what is there after "
            "200 ms of silence) acknowledged by a line of the answer; a request that is signed or has an "
            "Idempotency-Key is read whole instead, within the bound on bodies. Such a stream ends after 60 s of "
            "silence; its last line says what was acknowledged, and what was wrong."
        ),
        parameters=_ingest_parameters(),
        requestBody=body,
    )


def _ingest_parameters() -> list[dict[str, Any]]:
    return [
        _in_header("Prefer", text(), "return=minimal leaves the per-event lists out (RFC 7240)."),
        _in_header(
            HEADER,
            text(minLength=1, maxLength=255),
            "The same request under the same key is answered as before, byte for byte, for 24 hours.",
        ),
        in_query("sourceId", text(), "For lines and CloudEvents, whose bodies have no place for it."),
        in_query("consensusLevel", LEVEL, "For those: as in processingOptions."),
        in_query("durability", text(enum=["local", "replicated"]), "For those: as in processingOptions."),
        in_query("distributionTopics", text(), "For those: comma-separated."),
    ]


def _in_header(name: str, schema: Schema, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": description}


def door_paths() -> dict[str, Any]:
    """The webhooks."""
    greeted: Schema = {"type": "object", "description": "To a sender that tries the address: GitHub's ping, Slack's."}
    return {
        "/overlay/sources/{sourceId}/webhook": {
            "post": operation(
                "takeDelivery",
                "sources",
                "Take in what a sender pushes, signed with the source's secret",
                {
                    "200": json_answer("No event was in it.", greeted),
                    "202": json_answer("Durable, as at the ingest API.", ref("IngestAnswer")),
                    **problem_answers(
                        "invalid-request",
                        "signature-refused",
                        "identity-required",
                        "source-bound",
                        "source-disabled",
                        "no-webhook",
                        "unknown-source",
                        "request-timeout",
                        "body-too-large",
                        "too-many-events",
                        "unsupported-media-type",
                        "overloaded",
                        "ingestion-disabled",
                    ),
                },
                description=(
                    "Schemes of GitHub, Stripe, Slack, Standard Webhooks, a bearer token, or an HMAC-SHA256 of the "
                    "operator's description: see WebhookConfiguration. The signature is checked over the body as it "
                    "came. A repeated delivery is a duplicate by its external id. Refusals are counted in the "
                    "source's state, with their reason."
                ),
                parameters=[
                    in_path("sourceId"),
                    _in_header("Prefer", text(), "return=minimal leaves the per-event lists out (RFC 7240)."),
                ],
                requestBody={
                    "required": True,
                    "content": {
                        "application/json": {"schema": {}, "examples": {"push": {"value": EXAMPLE_DELIVERY}}},
                        "application/x-www-form-urlencoded": {"schema": record({"payload": text("JSON.")})},
                    },
                },
            )
        }
    }
