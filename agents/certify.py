"""The computed part of the certify role: the leaf of every event, which the output root commits to."""

from collections.abc import Sequence
from typing import Any, Final

import orjson

from agents.issues import Issue, is_error
from protocols.canonical import canonical_json
from protocols.identifiers import EventIds, content_hash, version_id

VALID: Final = b"valid"
INVALID: Final = b"invalid"


def event_id(ids: EventIds, record: dict[str, Any]) -> str:
    """The id of a record's event."""
    external = record["externalId"]
    if external is not None:
        return ids.external(external)
    return ids.content(data=record["data"], event_type=record["eventType"], timestamp=record["timestamp"])


def leaf(ids: EventIds, record: dict[str, Any], record_hash: str, data: bytes, issues: Sequence[Issue]) -> bytes:
    """The verdict on one event as a canonical JSON line.

    Args:
        record_hash: Of the record's line, 64 hex digits.
        data: Canonical normalized data; an invalid event has a content hash too.

    The line is put together from its parts in key order: ids and hashes are plain ASCII, and the only strings
    that need escaping are the three that came with the event.
    """
    external, kind, timestamp = record["externalId"], record["eventType"], record["timestamp"]
    event = event_id(ids, record)
    content = content_hash(data)
    return (
        b'{"contentHash":"%b","eventId":"%b","eventType":%b,"externalId":%b,"issues":%b,'
        b'"recordHash":"%b","status":"%b","timestamp":%b,"versionId":"%b"}'
    ) % (
        content.encode(),
        event.encode(),
        orjson.dumps(kind),
        orjson.dumps(external),
        canonical_json(list(issues)) if issues else b"[]",
        record_hash.encode(),
        INVALID if any(map(is_error, issues)) else VALID,
        orjson.dumps(timestamp),
        version_id(event, content, record["previous"]).encode(),
    )
