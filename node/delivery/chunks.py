"""Certified batches as messages of a stream, made once for all clients that want the same.

A batch has one source, one level and one set of topics, so whether a client wants it is decided per batch.
What differs between clients is only whether evidence is included and which verdicts are asked for.
"""

import functools
from collections.abc import Sequence
from typing import Any, Final

import attrs
import orjson

from node.executor import Sealed
from node.names import sha256_text, whole_ms
from protocols.certificate import STEPS, agent_id, rfc3339
from protocols.levels import rule_for
from protocols.messages import Evidence, Level, Signed

STATUSES: Final = ("valid", "invalid")


@attrs.frozen(kw_only=True)
class Options:
    """What a client's messages look like."""

    evidence: bool = False
    statuses: frozenset[str] = frozenset({"valid"})


@attrs.frozen(kw_only=True)
class Filter:
    """Which batches a client wants. None stands for all; a batch matches with any one of its topics."""

    topics: frozenset[str] | None = None
    source_ids: frozenset[str] | None = None
    level: Level = Level.BASIC
    options: Options = attrs.Factory(Options)

    def wants(self, sealed: Sealed) -> bool:
        statement = sealed.certificate.statement
        return (
            statement.level >= self.level
            and (self.source_ids is None or statement.source_id in self.source_ids)
            and (self.topics is None or not self.topics.isdisjoint(sealed.topics))
        )


@attrs.frozen(kw_only=True, order=True)
class Place:
    """Where a stream stands: after event ``position`` (1-based) of the batch sealed as ``sequence``."""

    sequence: int
    position: int

    def __str__(self) -> str:
        return f"{self.sequence}.{self.position}"


def read_place(text: str) -> Place:
    """The inverse of ``str``; a sequence alone stands after the whole batch.

    Raises:
        ValueError: No such place.
    """
    sequence, dot, position = text.strip().partition(".")
    if not sequence.isascii() or not sequence.isdigit() or len(sequence) > 18:
        raise ValueError("not of the form <sequence>.<position>")
    if not dot:
        return Place(sequence=int(sequence), position=2**31)
    if not position.isascii() or not position.isdigit() or len(position) > 9:
        raise ValueError("not of the form <sequence>.<position>")
    return Place(sequence=int(sequence), position=int(position))


@attrs.frozen(kw_only=True)
class Message:
    """One event as clients get it: where the feed stands after it, and the JSON object."""

    place: Place
    body: bytes


@attrs.frozen(kw_only=True, slots=False)
class Chunk:
    """The messages of one batch for one set of options, made once for all who want them.

    Attributes:
        last: Where the feed stands after the whole batch, its last event a message or not.
    """

    last: Place
    messages: tuple[Message, ...]

    @functools.cached_property
    def sse(self) -> bytes:
        """As server-sent events."""
        return b"".join(b"id: %b\ndata: %b\n\n" % (str(each.place).encode(), each.body) for each in self.messages)


def render(sealed: Sealed, options: Options, after: int = 0) -> Chunk:
    """Write a batch's events as messages, in batch order.

    Args:
        after: Leave out the first ``after`` events: where a client that comes back stopped.
    """
    statement = sealed.certificate.statement
    shared = _shared(sealed, options)
    lines = sealed.leaves.split(b"\n")
    leaves = orjson.loads(b"[" + b",".join(lines) + b"]")
    messages: list[Message] = []
    level = statement.level.word.encode()
    for position, (leaf, data) in enumerate(zip(leaves, sealed.normalized.split(b"\n"), strict=True), 1):
        if position <= after or leaf["status"] not in options.statuses:
            continue
        body = (
            b'{"type":"event","eventId":"%b","eventType":%b,"certificationLevel":"%b","timestamp":%b,"data":%b%b%b}'
        ) % (
            leaf["eventId"].encode(),
            orjson.dumps(leaf["eventType"]),
            level,
            orjson.dumps(leaf["timestamp"]),
            data,
            _verdict(leaf, options),
            shared,
        )
        messages.append(Message(place=Place(sequence=sealed.sequence, position=position), body=body))
    last = Place(sequence=sealed.sequence, position=len(leaves))
    return Chunk(last=last, messages=tuple(messages))


def _verdict(leaf: dict[str, Any], options: Options) -> bytes:
    """Named only to clients that asked for rejected events too: else every event is valid."""
    if "invalid" not in options.statuses:
        return b""
    return b',"status":%b,"issues":%b' % (orjson.dumps(leaf["status"]), orjson.dumps(leaf["issues"]))


def _shared(sealed: Sealed, options: Options) -> bytes:
    """What all events of a batch say alike: who certified it, and how long that took."""
    statement, signed = sealed.certificate.statement, sealed.certificate.certifications
    asked = rule_for(statement.level, statement.quorum).executors
    certification = {
        "agentId": agent_id(signed[0].signer),
        "signature": signed[0].signature.hex(),
        "consensusNodes": len(signed),
    }
    metadata = {
        "latency": max(0, sealed.certified_ms - sealed.received_ms),
        "reliability": round(min(1.0, len(signed) / asked), 4),
        "sourceId": statement.source_id,
        "batchId": statement.batch_id,
    }
    text = b',"certification":%b,"overlayMetadata":%b' % (
        orjson.dumps(certification),
        orjson.dumps(metadata),
    )
    if options.evidence:
        text += b',"processingEvidence":' + orjson.dumps(batch_evidence(sealed.certificate.evidence))
    return text


def batch_evidence(evidence: Sequence[Signed[Evidence]]) -> list[dict[str, Any]]:
    """The agents' statements about a batch, in the words of the API. Times in milliseconds."""
    return [
        {
            "step": STEPS[signed.message.role],
            "agentId": agent_id(signed.signer),
            "timestamp": rfc3339(signed.message.finished_ms),
            "processingTime": whole_ms(signed.message.processing_us),
            "inputHash": sha256_text(signed.message.input_digest),
            "outputHash": sha256_text(signed.message.output_digest),
            "brc31Signature": signed.signature.hex(),
        }
        for signed in sorted(evidence, key=lambda signed: (signed.message.role, signed.signer))
        if signed.message.role in STEPS
    ]
