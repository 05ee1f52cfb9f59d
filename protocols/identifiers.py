"""Records, and the ids of events, versions, batches and jobs: the same event posted twice, to any node, has one id.

A *record* is the line of a batch payload that stands for one raw event: the RFC 8785 form of
``{"data", "eventType", "externalId", "previous", "timestamp"}``. ``previous`` is the record hash of the
event's earlier version, or null. Canonical JSON holds no raw newline, so a payload is records joined by one.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Any, Final

import orjson

from protocols.canonical import canonical_json
from protocols.merkle import leaf_hash
from protocols.roles import Role

EVENT_PREFIX: Final = "event_"
VERSION_PREFIX: Final = "ver_"
CONTENT_PREFIX: Final = "sha256:"
BATCH_PREFIX: Final = "batch_"
JOB_PREFIX: Final = "job_"
BATCH_ID: Final = re.compile(r"batch_[0-9a-f]{64}")


def record_line(
    *, data: Any, event_type: str, external_id: str | None, previous: str | None, timestamp: str | None
) -> bytes:
    """The record of an event, as bytes without a newline.

    Args:
        data: Any JSON value.
        previous: Record hash of the event's earlier version, 64 hex digits, or None for the first.
        timestamp: As the source gave it; no form is asked for here.

    Raises:
        NotCanonicalizableError: ``data`` holds a number or a string that RFC 8785 has no form for.
    """
    return canonical_json(
        {
            "data": data,
            "eventType": event_type,
            "externalId": external_id,
            "previous": previous,
            "timestamp": timestamp,
        }
    )


def record_hash(line: bytes) -> str:
    """RFC 6962 leaf hash of a record, 64 hex digits."""
    return leaf_hash(line).hex()


class EventIds:
    """Makes the event ids of one source; what its events share is encoded once."""

    def __init__(self, network: str, source_id: str) -> None:
        place = canonical_json([network, source_id])[:-1]
        self._external = place + b',"external",'
        self._content = place + b',"content","'

    def external(self, external_id: str) -> str:
        # A single string's RFC 8785 form is what orjson writes; sorting and numbers are what differ.
        preimage = self._external + orjson.dumps(external_id) + b"]"
        return EVENT_PREFIX + hashlib.sha256(preimage).hexdigest()

    def externals(self, texts: Iterable[bytes]) -> list[str]:
        """Of many events, given the JSON text of each external id."""
        sha256, before = hashlib.sha256, self._external
        return [EVENT_PREFIX + sha256(b"%b%b]" % (before, text)).hexdigest() for text in texts]

    def content(self, *, data: Any, event_type: str, timestamp: str | None) -> str:
        return self.canonical_content(canonical_json({"data": data, "eventType": event_type, "timestamp": timestamp}))

    def canonical_content(self, message: bytes) -> str:
        """From the RFC 8785 form of ``{"data", "eventType", "timestamp"}``, where a caller has it already."""
        digest = hashlib.sha256(message).hexdigest().encode()
        return EVENT_PREFIX + hashlib.sha256(self._content + digest + b'"]').hexdigest()


def event_id(network: str, source_id: str, external_id: str) -> str:
    """Id of an event that its source names: ``event_`` and 64 hex digits."""
    return EventIds(network, source_id).external(external_id)


def content_event_id(network: str, source_id: str, *, data: Any, event_type: str, timestamp: str | None) -> str:
    """Id of an event that has no external id: two with equal content are one event."""
    return EventIds(network, source_id).content(data=data, event_type=event_type, timestamp=timestamp)


def content_hash(normalized: bytes) -> str:
    """``sha256:`` and the hash of canonical normalized data."""
    return CONTENT_PREFIX + hashlib.sha256(normalized).hexdigest()


def version_id(event: str, content: str, previous: str | None) -> str:
    """``ver_`` and 64 hex digits, over event id, content hash and the record's ``previous``.

    All three are plain ASCII without quotes (ids and hex), so their JSON needs no escaping.
    """
    before = "null" if previous is None else f'"{previous}"'
    preimage = f'["{event}","{content}",{before}]'.encode()
    return VERSION_PREFIX + hashlib.sha256(preimage).hexdigest()


def batch_id(manifest: bytes) -> str:
    """Id of a batch: ``batch_`` and the SHA-256 of its encoded manifest, 64 hex digits."""
    return BATCH_PREFIX + hashlib.sha256(manifest).hexdigest()


def batch_digest(batch: str) -> bytes:
    """The SHA-256 that a batch id shows, 32 bytes: the short form of the id between nodes.

    Raises:
        ValueError: it is not the id of a batch.
    """
    if not BATCH_ID.fullmatch(batch):
        raise ValueError(f"{batch!r:.100} must be {BATCH_PREFIX} and 64 lower-case hex digits")
    return bytes.fromhex(batch.removeprefix(BATCH_PREFIX))


def batch_of(digest: bytes) -> str:
    """The inverse of ``batch_digest``."""
    return BATCH_PREFIX + digest.hex()


def job_id(role: Role, batch: str) -> str:
    """Id of the job that a role has over a batch: ``job_normalize_`` and the hex digits of the batch id."""
    return f"{JOB_PREFIX}{role.word}_{batch.removeprefix(BATCH_PREFIX)}"
