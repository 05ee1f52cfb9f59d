"""The description of /overlay/events/stream, over HTTP and over WebSocket."""

from typing import Any, Final

from node.api.describing import in_query, operation, problem_answers
from node.api.schemas import LEVEL, text

EXAMPLE_STREAM: Final = (
    'id: 12.1\ndata: {"type":"event","eventId":"event_…","eventType":"sensor_reading",'
    '"certificationLevel":"enhanced","timestamp":"2024-01-15T10:30:00Z","data":{"value":23.5},'
    '"certification":{"agentId":"agent_…","signature":"3045…","consensusNodes":3},'
    '"overlayMetadata":{"latency":120,"reliability":1.0,"sourceId":"farm-1","batchId":"…"}}\n\n'
    'id: 12.1\ndata: {"type":"heartbeat","timestamp":"2024-01-15T10:30:30.000Z","activeSubscriptions":1,'
    '"eventsProcessed":156,"head":{"place":"12.1","batchId":"…","identityKey":"02…",'
    '"protocolID":[2,"overlay log checkpoint"],"keyID":"1","signed":"…","signature":"3045…"}}\n\n'
)
EVENTS: Final = (
    "Server-sent events, plain or gzip. The id of each is its place in the feed. Heartbeats come at an interval, "
    "with the signed head of the feed: a client has all it wants up to there, or up to 'place' where that is given. "
    "A client slower than its buffer gets a last message of type dropped with lastEventId, and comes back with it."
)
SOCKET: Final = (
    "The same address takes WebSocket handshakes with the same parameters, signed headers included. Messages are "
    "those of the stream, each event with its place as 'sequence'; the first is a heartbeat. A client "
    'may send {"type":"subscribe","filter":{…},"since":"12.5"} (answered by subscribed, with the sequence from which '
    "the filter holds; members topics, sourceIds, eventTypes, minCertificationLevel, status, expression, "
    'includeProcessingEvidence, includeCertificate), {"type":"credit","events":N} (at most so many further events, '
    'until the next credit), {"type":"ack","sequence":"12.5"} and {"type":"ping"}; subscribe and ping may carry an '
    "'id', which is answered. What is not understood is answered by a message of type error; repeated, it closes the "
    "connection. Closing codes: 1001 the node stops, 1008 nonsense, too many messages, or no right to read any "
    "more, 1011 a fault of the node, "
    "1013 too slow, after a dropped message."
)


def stream_paths() -> dict[str, Any]:
    patterns = "Comma-separated names of dot-separated words; '*' stands for one word, '#' for any number."
    boolean = text(enum=["true", "false"])
    last = {
        "name": "Last-Event-ID",
        "in": "header",
        "required": False,
        "schema": text(),
        "description": "Go on after this event; goes before 'since'.",
    }
    parameters = [
        in_query("topics", text(), f"{patterns} An event with any one of them passes."),
        in_query("sourceIds", text(), "Comma-separated."),
        in_query("eventTypes", text(), patterns),
        in_query("minCertificationLevel", LEVEL, "This level and stricter ones; default basic."),
        in_query(
            "status",
            text(enum=["valid", "invalid", "all"]),
            "Default valid. With the others an event carries its status and issues.",
        ),
        in_query(
            "filter",
            text(),
            "A condition of the policy language over data, eventType, eventId, sourceId, timestamp, level, issues. "
            "Events for which it cannot be evaluated do not pass.",
        ),
        in_query("includeProcessingEvidence", boolean, "Adds processingEvidence."),
        in_query("includeCertificate", boolean, "Adds certificate, which proves the event offline."),
        in_query("subscriptionId", text(), "A subscription's filter and place; nothing beside it."),
        in_query("since", text(), "Start after this id; 0 for everything. Default: from now on."),
        last,
    ]
    events = {
        "description": EVENTS,
        "content": {"text/event-stream": {"schema": text(), "examples": {"one": {"value": EXAMPLE_STREAM}}}},
    }
    codes = (
        "invalid-parameter",
        "unknown-subscription",
        "subscription-not-active",
        "too-many-streams",
        "too-many-expressions",
        "stream-disabled",
        "unavailable",
    )
    described = operation(
        "streamEvents",
        "events",
        "Certified events, live",
        {"200": events, **problem_answers(*codes)},
        parameters=parameters,
    )
    return {"/overlay/events/stream": {"get": {**described, "description": SOCKET}}}
