"""The OpenAPI 3.1 description of the HTTP interface, built once. A test holds it against the routes."""

from typing import Any, Final

from node.api.describing import in_path, in_query, json_answer, json_body, operation, problem_answers
from node.api.openapi_doors import DOOR_SCHEMAS, door_paths, ingest_operation
from node.api.openapi_overlay import SECURITY_SCHEMES, dead_letter_paths, identity_paths, market_paths, overlay_paths
from node.api.openapi_sources import configuration_schemas
from node.api.openapi_stream import stream_paths
from node.api.openapi_subscriptions import SUBSCRIPTION_SCHEMAS, subscription_paths
from node.api.schemas import EVENT, HEX, OBJECT_URL, SCHEMAS, Schema, array, integer, record, ref, text
from node.worker.policy_files import YAML_TYPES

VERSION: Final = "3.1.0"
TAGS: Final = (
    "events",
    "batches",
    "subscriptions",
    "sources",
    "objects",
    "overlay services",
    "market",
    "identity",
    "node",
)
DESCRIPTION: Final = (
    "Post batches of events to any node; follow their certification; stream what is certified; keep a "
    "certificate that verifies offline. Errors are problem documents (RFC 9457) that say what to do."
)

EXAMPLE_SOURCE: Final = {
    "sourceId": "iot-sensors-farm-001",
    "name": "Farm 1",
    "sourceType": "webhook",
    "mappingPolicy": {"required": ["sensorId", "value"]},
    "validationRules": {"bounds": [{"field": "value", "min": -90, "max": 60}]},
    "overlayTopics": ["gitdata.events.iot"],
}
EXAMPLE_TRIAL: Final = {"events": [{"externalId": "r-1", "eventType": "reading", "data": {"value": 23.5}}]}


def _event_paths() -> dict[str, Any]:
    one = [in_path("eventId")]
    missing = problem_answers("unknown-event", "event-expired")
    certified = problem_answers("unknown-event", "event-expired", "not-certified", "event-dead")
    summary = {key: value for key, value in EVENT["properties"].items() if key != "overlayJobs"}
    document_or_page = json_answer("Verifies offline.", ref("Certificate"), Vary="Accept.")
    document_or_page["content"]["text/html"] = {"schema": text()}
    shared = ("version", "versionId", "recordHash", "previousRecordHash", "contentHash", "batchId", "certifiedAt")
    version = {name: summary[name] for name in (*shared, "data", "normalizedData", "issues")}
    version["status"] = text("As of an event; before the verdict, as of its batch.")
    chain = array(record(version))
    versions = record({"eventId": text(), "sourceId": text(), "versions": chain})
    event_page = record({"events": array(record(summary)), "nextAfter": {"type": ["string", "null"]}})
    return {
        "/overlay/events/ingest": {"post": ingest_operation()},
        **stream_paths(),
        "/overlay/events": {
            "get": operation(
                "listEvents",
                "events",
                "Events by id, filtered; those of a batch under way show up when it is sealed",
                {"200": json_answer("A page.", event_page), **problem_answers("invalid-parameter")},
                parameters=[
                    in_query("status", text(), "any, pending, certified, invalid or dead; default any."),
                    in_query("sourceId", text(), "Events of this source."),
                    in_query("externalId", text(), "Events with this external id."),
                    *PAGING,
                ],
            )
        },
        "/overlay/events/{eventId}": {
            "get": operation(
                "getEvent",
                "events",
                "An event in its latest version",
                {"200": json_answer("The event.", ref("Event")), **missing},
                parameters=one,
            )
        },
        "/overlay/events/{eventId}/certification": {
            "get": operation(
                "getCertification",
                "events",
                "How far an event's certification is",
                {"200": json_answer("Its state.", ref("Certification")), **missing},
                parameters=one,
            )
        },
        "/overlay/events/{eventId}/certificate": {
            "get": operation(
                "getCertificate",
                "events",
                "The certificate, or certificate of rejection, to keep; for a browser, a page about it",
                {"200": document_or_page, **certified, **problem_answers("invalid-parameter")},
                parameters=[
                    *one,
                    in_query("format", text(enum=["json", "html"]), "Goes before Accept; JSON unless HTML is named."),
                ],
            )
        },
        "/overlay/events/{eventId}/versions": {
            "get": operation(
                "listVersions",
                "events",
                "What the event said before: its versions, the latest first",
                {"200": json_answer("The chain.", versions), **missing, **problem_answers("invalid-parameter")},
                parameters=[*one, in_query("limit", integer(minimum=1, maximum=1000), "Page size; default 100.")],
            )
        },
        "/overlay/batches/{batchId}": {
            "get": operation(
                "getBatch",
                "batches",
                "A batch: state, roots, agents, evidence, dissent, receipt",
                {"200": json_answer("The batch.", ref("Batch")), **problem_answers("unknown-batch")},
                parameters=[in_path("batchId")],
            )
        },
    }


PAGING = [
    in_query("limit", integer(minimum=1, maximum=1000), "Page size; default 100."),
    in_query("after", text(), "The nextAfter of the page before."),
]

BAD_DOCUMENT: Final = (
    "invalid-json",
    "invalid-request",
    "unsupported-media-type",
    "invalid-policy",
    "body-too-large",
)


def _source_paths() -> dict[str, Any]:
    one = [in_path("sourceId")]
    saved = json_answer("The source.", ref("Source"))
    page = record({"sources": array(ref("Source")), "nextAfter": {"type": ["string", "null"]}})
    change = {"requestBody": json_body(ref("SourceChange"), {"enabled": False}), "parameters": one}
    changed = {"200": saved, **problem_answers("unknown-source", *BAD_DOCUMENT)}
    return {
        "/overlay/sources": {
            "post": operation(
                "createSource",
                "sources",
                "Register a source",
                {"201": saved, **problem_answers("source-exists", *BAD_DOCUMENT)},
                requestBody=json_body(ref("SourceInput"), EXAMPLE_SOURCE),
            ),
            "get": operation(
                "listSources",
                "sources",
                "Sources by id",
                {"200": json_answer("A page.", page), **problem_answers("invalid-parameter")},
                parameters=PAGING,
            ),
        },
        "/overlay/sources/{sourceId}": {
            "get": operation(
                "getSource",
                "sources",
                "A source",
                {"200": saved, **problem_answers("unknown-source")},
                parameters=one,
            ),
            "patch": operation("changeSource", "sources", "Change the fields sent", changed, **change),
            "put": operation(
                "replaceSource",
                "sources",
                "Replace a source: fields not sent get their defaults",
                changed,
                requestBody=json_body(ref("SourceInput"), EXAMPLE_SOURCE),
                parameters=one,
            ),
            "delete": operation(
                "deleteSource",
                "sources",
                "Take a source away; its events stay",
                {"204": {"description": "It is gone."}, **problem_answers("unknown-source")},
                parameters=one,
            ),
        },
        "/overlay/sources/{sourceId}/progress": {
            "get": operation(
                "getProgress",
                "sources",
                "How far a source that this node reads was taken in, and what it said that is no event",
                {"200": json_answer("As of now.", ref("Progress")), **problem_answers("unknown-source")},
                parameters=one,
            ),
            "delete": operation(
                "rewindSource",
                "sources",
                "Read a source from its beginning again; what is known is a repeat",
                {"204": {"description": "It begins anew."}, **problem_answers("unknown-source")},
                parameters=one,
            ),
        },
    }


def _policy_paths() -> dict[str, Any]:
    kept = record({"policyHash": HEX, "objects": record({"policy": OBJECT_URL}), "policy": {"type": "object"}})
    tried = record(
        {
            "index": integer(),
            "externalId": {"type": ["string", "null"]},
            "status": text(enum=["valid", "invalid", "rejected"]),
            "data": {},
            "normalizedData": {},
            "issues": array({"type": "object"}),
            "level": {"type": ["string", "null"]},
        }
    )
    counts = {name: integer() for name in ("events", "valid", "invalid", "rejected", "contextBytes")}
    trial = record({**counts, "issuesByRule": {"type": "object"}, "results": array(tried)})
    return {
        "/overlay/policies": {
            "post": operation(
                "putPolicy",
                "sources",
                "Put a policy on the shelf, for sources to name by its hash",
                {"201": json_answer("Its hash, and its canonical form.", kept), **problem_answers(*BAD_DOCUMENT)},
                requestBody={
                    "required": True,
                    "content": {
                        media_type: {"schema": {"type": "object"}} for media_type in ("application/json", *YAML_TYPES)
                    },
                },
            ),
        },
        "/overlay/policies/{policyHash}/test": {
            "post": operation(
                "testPolicy",
                "sources",
                "Try a policy on events: what each would become, and which rule decided",
                {
                    "200": json_answer("Each event before and after, with its issues.", trial),
                    **problem_answers("unknown-policy", *BAD_DOCUMENT),
                },
                parameters=[in_path("policyHash")],
                requestBody=json_body(record({"events": array({"type": "object"}, minItems=1)}), EXAMPLE_TRIAL),
            ),
        },
        "/overlay/policy-schema": {
            "get": operation(
                "getPolicySchema",
                "sources",
                "The JSON Schema of policies",
                {
                    "200": {
                        "description": "JSON Schema 2020-12.",
                        "content": {"application/schema+json": {"schema": {"type": "object"}}},
                    }
                },
            ),
        },
        "/overlay/policies/{policyHash}": {
            "get": operation(
                "getPolicy",
                "sources",
                "A policy document in its canonical form: its SHA-256 is the hash",
                {
                    "200": json_answer("The document.", {"type": "object"}),
                    **problem_answers("unknown-policy"),
                },
                parameters=[in_path("policyHash")],
            )
        },
    }


def _object_paths() -> dict[str, Any]:
    def content(description: str) -> dict[str, Any]:
        types = ("application/x-ndjson", "application/cbor", "application/json")
        return {"description": description, "content": {media_type: {"schema": text()} for media_type in types}}

    headers = {"ETag": {"schema": text("The SHA-256, 64 hex digits.")}, "Accept-Ranges": {"schema": text()}}
    partial = content("The range: one, or the last so many bytes; several are answered whole.")
    bytes_range = {
        "name": "Range",
        "in": "header",
        "required": False,
        "schema": text(),
        "description": "bytes=FIRST-LAST, bytes=FIRST- or bytes=-COUNT (RFC 9110).",
    }
    get = operation(
        "getObject",
        "objects",
        "An object by its content: the records of a batch, a quorum certificate or a policy",
        {
            "200": {**content("The bytes whose SHA-256 is asked for."), "headers": headers},
            "206": {**partial, "headers": {**headers, "Content-Range": {"schema": text()}}},
            "304": {"description": "If-None-Match names it."},
            **problem_answers(
                "invalid-uhrp-url",
                "invalid-parameter",
                "unknown-object",
                "precondition-failed",
                "range-not-satisfiable",
                "overloaded",
            ),
        },
        description=(
            "The name is a UHRP URL (BRC-26), after uhrp:// or bare, or a SHA-256 in hex. What is not here is asked "
            "of peers, and checked. A batch's records are canonical JSON, one a line; a certificate is CBOR."
        ),
        parameters=[
            in_path("name"),
            in_query("local", text(enum=["true", "false"]), "true: peers are not asked. Default false."),
            bytes_range,
        ],
    )
    return {"/uhrp/{name}": {"get": get}}


def _node_paths() -> dict[str, Any]:
    def plain(media_type: str, description: str) -> dict[str, Any]:
        return {"200": {"description": description, "content": {media_type: {"schema": text()}}}}

    anything: Schema = {"type": "object"}
    agents = record({"agents": array(anything)})
    peers = record({"peers": array(anything)})
    ready = ref("Readiness")
    get: dict[str, tuple[str, str, dict[str, Any]]] = {
        "/overlay/agents": (
            "listAgents",
            "Who offers which roles",
            {"200": json_answer("As this node sees it.", agents)},
        ),
        "/overlay/peers": (
            "listPeers",
            "Connections",
            {"200": json_answer("As this node sees it.", peers)},
        ),
        "/overlay/stats": (
            "getStats",
            "What became of the events taken in here",
            {"200": json_answer("From the database.", ref("Stats"))},
        ),
        "/healthz": (
            "getHealth",
            "Whether the process serves",
            {"200": json_answer("It does.", record({"status": text()}))},
        ),
        "/readyz": (
            "getReadiness",
            "Whether the node can do its work",
            {"200": json_answer("Ready.", ready), "503": json_answer("Not ready.", ready)},
        ),
        "/metrics": ("getMetrics", "Prometheus metrics", plain("text/plain", "Text format 0.0.4.")),
        "/openapi.json": ("getOpenapi", "This document", {"200": json_answer("OpenAPI 3.1.", anything)}),
        "/docs": ("getDocs", "This document, to read", plain("text/html", "A page.")),
        "/docs/{name}": (
            "getDocsPart",
            "Script and style of that page",
            {**plain("text/css", "A file."), **problem_answers("not-found")},
        ),
    }
    paths = {
        path: {"get": operation(operation_id, "node", summary, responses)}
        for path, (operation_id, summary, responses) in get.items()
    }
    paths["/docs/{name}"]["get"]["parameters"] = [in_path("name")]
    return paths


def document() -> dict[str, Any]:
    """The whole description, JSON values only."""
    return {
        "openapi": VERSION,
        "info": {"title": "Overlay agent node", "version": "1", "description": DESCRIPTION},
        "tags": [{"name": name} for name in TAGS],
        "paths": {
            **_event_paths(),
            **subscription_paths(),
            **_source_paths(),
            **_policy_paths(),
            **door_paths(),
            **_object_paths(),
            **overlay_paths(),
            **identity_paths(),
            **market_paths(),
            **dead_letter_paths(),
            **_node_paths(),
        },
        "security": [{}, *({name: []} for name in SECURITY_SCHEMES)],
        "components": {
            "schemas": SCHEMAS | DOOR_SCHEMAS | SUBSCRIPTION_SCHEMAS | configuration_schemas(),
            "securitySchemes": SECURITY_SCHEMES,
        },
    }
