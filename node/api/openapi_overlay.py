"""Descriptions of what overlays have in common: identities, the services of BRC-22 and BRC-24, the market."""

from typing import Any, Final

from node.api.describing import in_path, in_query, json_answer, json_body, operation, problem_answers
from node.api.schemas import Schema, array, integer, nullable, record, text
from node.coordination.dead_letters import REPLAYED_AT_ONCE

LIMIT: Final = in_query("limit", integer(minimum=1, maximum=1000), "Page size; default 100.")
EXAMPLE_TEMPLATE: Final = {
    "templateId": "validate-iot",
    "jobType": "validate",
    "overlayTopics": ["gitdata.events.validate"],
    "agentRequirements": {"capabilities": ["validate"], "minimumReputation": 70},
    "processingConstraints": {"maxProcessingTime": 5000, "maxRetries": 3, "requireConsensus": True},
    "outputRequirements": {"certificationLevel": "enhanced", "auditTrailRequired": True, "consensusThreshold": 2},
}
HANDSHAKE_EXAMPLE: Final = {
    "version": "0.1",
    "messageType": "initialRequest",
    "identityKey": "02" + "ab" * 32,
    "initialNonce": "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=",
    "requestedCertificates": {"certifiers": [], "types": {}},
}
SECURITY_SCHEMES: Final = {
    "session": {
        "type": "apiKey",
        "in": "header",
        "name": "x-bsv-auth-signature",
        "description": "BRC-103/104, as AuthFetch of @bsv/sdk speaks it: mutual, answers signed, no setup.",
    },
    "signedRequest": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Signature",
        "description": (
            "With X-Identity-Key (33 bytes, hex) and X-Nonce (nanoseconds since 1970, never twice). A BRC-3 "
            "signature, DER in hex: protocol [2, 'overlay http request'], key ID the nonce, counterparty the "
            "node's identity key (GET /overlay/node), over METHOD, path with query, nonce and the SHA-256 of the "
            "body in hex, joined by line feeds. 'overlay-node call' sends such requests."
        ),
    },
    "authrite": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Authrite-Signature",
        "description": "Legacy BRC-31 (Authrite 0.1): shake hands at /authrite/initialRequest.",
    },
}


def _documentation_paths() -> dict[str, Any]:
    anything: Schema = {"type": "object"}
    markdown = {"200": {"description": "For people.", "content": {"text/markdown": {"schema": text()}}}}
    return {
        "/listTopicManagers": {
            "get": operation(
                "listTopicManagers",
                "overlay services",
                "Topics managed here",
                {"200": json_answer("By name.", anything)},
            )
        },
        "/listLookupServiceProviders": {
            "get": operation(
                "listLookupServiceProviders",
                "overlay services",
                "Lookup services here",
                {"200": json_answer("By name.", anything)},
            )
        },
        "/getDocumentationForTopicManager": {
            "get": operation(
                "getDocumentationForTopicManager",
                "overlay services",
                "What a topic admits",
                {**markdown, **problem_answers("invalid-parameter")},
                parameters=[in_query("manager", text(), "Its name.")],
            )
        },
        "/getDocumentationForLookupServiceProvider": {
            "get": operation(
                "getDocumentationForLookupServiceProvider",
                "overlay services",
                "What a lookup service takes and answers",
                {**markdown, **problem_answers("invalid-parameter")},
                parameters=[in_query("lookupService", text(), "Its name.")],
            )
        },
    }


def overlay_paths() -> dict[str, Any]:
    anything: Schema = {"type": "object"}
    bad = (
        "invalid-submission",
        "invalid-beef",
        "invalid-transaction",
        "unknown-topics",
        "double-spend",
        "topic-full",
    )
    topics = {
        "name": "X-Topics",
        "in": "header",
        "required": True,
        "schema": text(),
        "description": 'A JSON array of topics: ["tm_ship"].',
    }
    values = {
        "name": "x-includes-off-chain-values",
        "in": "header",
        "required": False,
        "schema": text(),
        "description": "true: the body is the BEEF's length as a CompactSize, the BEEF, and the values.",
    }
    binary = {"required": True, "content": {"application/octet-stream": {"schema": text()}}}
    found = json_answer("An output-list; as octet-stream where X-Aggregation is yes.", anything)
    return {
        "/submit": {
            "post": operation(
                "submit",
                "overlay services",
                "BRC-22: a transaction for topics; on disk before the answer",
                {
                    "200": json_answer("By topic, what it admits and removes.", anything),
                    **problem_answers(*bad, "body-too-large", "overloaded"),
                },
                description=(
                    "A repeat is answered as the first time. X-Overlay-Unchecked in the answer names what this node "
                    "had no means to check: scripts, merkle-paths."
                ),
                parameters=[topics, values],
                requestBody=binary,
            )
        },
        "/lookup": {
            "post": operation(
                "lookup",
                "overlay services",
                "BRC-24: the outputs that a lookup service finds",
                {
                    "200": found,
                    **problem_answers("invalid-json", "invalid-query", "unknown-service", "unsupported-media-type"),
                },
                requestBody=json_body(anything, {"service": "ls_ship", "query": {"topics": ["tm_ship"]}}),
            )
        },
        **_documentation_paths(),
    }


DEAD_LETTER: Final = {
    "batchId": text(),
    "sourceId": text(),
    "level": text("basic, enhanced or critical."),
    "quorum": integer("How many equal results it needed."),
    "events": integer(),
    "attempts": integer("Those it had."),
    "reasons": array(text(), "One for each attempt: when, and why it failed."),
    "receivedAt": text(format="date-time"),
    "state": text("dead; another one after a replay."),
    "deadAt": nullable(text(format="date-time")),
    "coordinator": nullable(text("Whose batch it is; null where it is this node's.")),
}
REPLAY: Final = {
    "askedBy": nullable(text("The identity that had it tried again.")),
    "at": text(format="date-time"),
    "reasons": array(text(), "Why it had been dead."),
}


def dead_letter_paths() -> dict[str, Any]:
    letter, life = record(DEAD_LETTER), record(REPLAY)
    one = [in_path("batchId")]
    replayed = record({"replayed": array(text("A batch id."))})
    return {
        "/overlay/dead-letters": {
            "get": operation(
                "listDeadLetters",
                "batches",
                "Batches that ran out of attempts, the latest first",
                {
                    "200": json_answer(
                        "A page.", record({"deadLetters": array(letter), "nextBefore": nullable(text())})
                    ),
                    **problem_answers("invalid-parameter"),
                },
                parameters=[LIMIT, in_query("before", text(), "What the page before named as nextBefore.")],
            )
        },
        "/overlay/dead-letters/{batchId}": {
            "get": operation(
                "getDeadLetter",
                "batches",
                "Why a batch is dead, attempt by attempt, and its earlier lives",
                {
                    "200": json_answer("The batch.", record({**DEAD_LETTER, "replays": array(life)})),
                    **problem_answers("unknown-dead-letter"),
                },
                parameters=one,
            )
        },
        "/overlay/dead-letters/{batchId}/replay": {
            "post": operation(
                "replayDeadLetter",
                "batches",
                "Have a dead batch tried again, with all its attempts",
                {
                    "202": json_answer("It waits again.", replayed),
                    **problem_answers("unknown-dead-letter", "not-dead"),
                },
                parameters=one,
            )
        },
        "/overlay/dead-letters/replay": {
            "post": operation(
                "replayDeadLetters",
                "batches",
                f"Have the latest {REPLAYED_AT_ONCE} dead batches tried again",
                {"202": json_answer("They wait again.", replayed)},
            )
        },
    }


def market_paths() -> dict[str, Any]:
    anything: Schema = {"type": "object"}
    template = {"requestBody": json_body(anything, EXAMPLE_TEMPLATE)}
    one = [in_path("templateHash")]
    missing = problem_answers("unknown-template", "invalid-parameter")
    return {
        "/overlay/agents/{agentId}": {
            "get": operation(
                "getAgent",
                "market",
                "An agent: what it offers, how it did here, and why its reputation is what it is",
                {"200": json_answer("As this node sees it.", anything), **problem_answers("unknown-agent")},
                parameters=[in_path("agentId")],
            )
        },
        "/overlay/jobs": {
            "get": operation(
                "listJobs",
                "market",
                "The latest auctions",
                {
                    "200": json_answer("Latest first.", record({"jobs": array(anything)})),
                    **problem_answers("invalid-parameter"),
                },
                parameters=[LIMIT],
            )
        },
        "/overlay/jobs/{jobId}": {
            "get": operation(
                "getJob",
                "market",
                "An auction by its job or lease: bids, scores, choice",
                {"200": json_answer("How it ended.", anything), **problem_answers("unknown-job")},
                parameters=[in_path("jobId")],
            )
        },
        "/overlay/proofs": {
            "get": operation(
                "listProofs",
                "market",
                "Equivocations: two signed statements of one agent that contradict each other",
                {"200": json_answer("Latest first.", record({"proofs": array(anything)}))},
            )
        },
        "/overlay/job-templates": {
            "get": operation(
                "listTemplates",
                "market",
                "The job templates in use, or every version of one",
                {
                    "200": json_answer("Templates.", record({"templates": array(anything)})),
                    **problem_answers("invalid-parameter"),
                },
                parameters=[in_query("templateId", text(), "Every version an operator set under this id.")],
            ),
            "post": operation(
                "putTemplate",
                "market",
                "Keep a job template and use it from the next auction on",
                {
                    "201": json_answer("The template.", anything),
                    **problem_answers("invalid-json", "invalid-template", "body-too-large", "unsupported-media-type"),
                },
                **template,
            ),
        },
        "/overlay/job-templates/{templateHash}": {
            "get": operation(
                "getTemplate",
                "market",
                "A version of a job template in its canonical form: its SHA-256 is the hash",
                {"200": json_answer("The document.", anything), **missing},
                parameters=one,
            ),
            "delete": operation(
                "withdrawTemplate",
                "market",
                "Take a version out of use: the one before it comes back, or the one built in",
                {"200": json_answer("Withdrawn.", anything), **missing},
                parameters=one,
            ),
        },
    }


def identity_paths() -> dict[str, Any]:
    anything: Schema = {"type": "object"}
    node = record(
        {
            "agentId": text(),
            "identityKey": text(),
            "network": text(),
            "build": text(),
            "identityRequired": {
                "type": "boolean",
                "description": "Whether events are taken of proven identities only.",
            },
        }
    )
    caller = record(
        {
            "identityKey": {"type": ["string", "null"]},
            "form": text(enum=["anonymous", "session", "headers", "authrite"]),
            "roles": array(text(enum=["operator", "owner", "reader"])),
        }
    )
    refused = problem_answers("invalid-authentication", "not-authenticated", "body-too-large")
    return {
        "/overlay/node": {
            "get": operation("getNode", "identity", "Whose node this is", {"200": json_answer("Its identity.", node)})
        },
        "/overlay/caller": {
            "get": operation(
                "getCaller",
                "identity",
                "Who the caller proved to be, and its roles here",
                {"200": json_answer("The caller.", caller), **refused},
            )
        },
        "/.well-known/auth": {
            "post": operation(
                "shakeHands",
                "identity",
                "BRC-104: initialRequest and certificateResponse",
                {"200": json_answer("initialResponse, or the certificates taken.", anything), **refused},
                requestBody=json_body(anything, HANDSHAKE_EXAMPLE),
            )
        },
        "/authrite/initialRequest": {
            "post": operation(
                "shakeHandsAuthrite",
                "identity",
                "Legacy BRC-31: initialRequest",
                {"200": json_answer("initialResponse.", anything), **refused},
                requestBody=json_body(anything, {"authrite": "0.1", "messageType": "initialRequest"}),
            )
        },
    }
