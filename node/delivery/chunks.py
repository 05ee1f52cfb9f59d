"""Certified batches as messages of a stream, made once for all clients that want the same.

A `Rendering` is one batch while it is written: each event is serialised once for each set of options, each
expression evaluated once for each event, and clients with the same options and selection share the chunk.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import attrs
import orjson

from node.coordination.certified_result import CertifiedResult
from node.delivery.filters import MessageOptions, Selection
from node.runtime.formats import sha256_text, whole_ms
from protocols.certificate import STEPS, agent_id, certificate_document, proof_document, rfc3339
from protocols.levels import rule_for
from protocols.merkle import inclusion_paths, leaf_hash
from protocols.messages import Evidence, Signed

WHOLE_BATCH: Final = 999_999_999  # a position past any batch's last


class Place(NamedTuple):
    """Where a stream stands: after event ``position`` (1-based) of the batch sealed as ``sequence``.

    A tuple, because places are compared for every client and chunk.
    """

    sequence: int
    position: int

    def __str__(self) -> str:
        return str(self.sequence) if self.position >= WHOLE_BATCH else f"{self.sequence}.{self.position}"


START: Final = Place(sequence=0, position=0)


def read_place(text: str) -> Place:
    """The inverse of ``str``: a sequence alone stands after the whole batch.

    Raises:
        ValueError: No such place.
    """
    sequence, dot, position = text.strip().partition(".")
    if not sequence.isascii() or not sequence.isdigit() or len(sequence) > 18:
        raise ValueError("not of the form <sequence>.<position>")
    if not dot:
        return Place(sequence=int(sequence), position=WHOLE_BATCH)
    if not position.isascii() or not position.isdigit() or len(position) > 9:
        raise ValueError("not of the form <sequence>.<position>")
    return Place(sequence=int(sequence), position=int(position))


@attrs.frozen(kw_only=True)
class Message:
    """One event as clients get it: where the feed stands after it, and the JSON object."""

    place: Place
    body: bytes


@attrs.frozen(kw_only=True, slots=False, eq=False)
class Chunk:
    """Messages made once for all who want them, of one batch or of several in their order.

    Attributes:
        last: Where the feed stands after all of it, its last event a message or not.
    """

    last: Place
    messages: tuple[Message, ...]
    _written: dict["Form", bytes] = attrs.field(init=False, factory=dict, repr=False)

    @functools.cached_property
    def size(self) -> int:
        """Bytes of its messages."""
        return sum(len(message.body) for message in self.messages)

    def after(self, place: Place) -> "Chunk":
        """What of it comes after a place: itself where that is all."""
        if not self.messages or place < self.messages[0].place:
            return self
        return Chunk(last=self.last, messages=tuple(each for each in self.messages if place < each.place))

    def is_written(self, form: "Form") -> bool:
        return form in self._written

    def written(self, form: "Form") -> bytes:
        """The chunk in a form, written by the first who asks for it."""
        found = self._written.get(form)
        if found is None:
            found = self._written[form] = form(self)
        return found


Form: TypeAlias = Callable[[Chunk], bytes]


def merged(chunks: Sequence[Chunk]) -> Chunk:
    """Several chunks, in their order, as one. ``chunks`` is not empty."""
    if len(chunks) == 1:
        return chunks[0]
    return Chunk(last=chunks[-1].last, messages=tuple(message for chunk in chunks for message in chunk.messages))


class Tally:
    """What rendering cost, in numbers."""

    def __init__(self) -> None:
        self.serialised = 0
        self.evaluated = 0


class Rendering:
    """One batch while it is written. Used by one thread at a time."""

    def __init__(self, sealed: CertifiedResult, tally: Tally | None = None) -> None:
        self.sealed = sealed
        self._tally = tally or Tally()
        self._bodies: dict[MessageOptions, dict[int, bytes]] = {}
        self._shared: dict[MessageOptions, bytes] = {}
        self._verdicts: dict[tuple[str, int], bool] = {}
        self._chunks: dict[tuple[Selection, MessageOptions], Chunk] = {}

    @property
    def last(self) -> Place:
        return Place(sequence=self.sealed.sequence, position=self.sealed.certificate.statement.events)

    def chunk(self, selection: Selection, options: MessageOptions, after: int = 0) -> Chunk:
        """The messages of those who select and want alike, in batch order.

        Args:
            after: Leave out the first ``after`` events: where a client that comes back stopped.
        """
        if after:
            return self._chunk(selection, options, after)
        found = self._chunks.get((selection, options))
        if found is None:
            found = self._chunks[selection, options] = self._chunk(selection, options, 0)
        return found

    def has(self, selection: Selection) -> bool:
        """Whether an event of the batch is selected; those after the first are not looked at."""
        return next(self._selected(selection, 0), None) is not None

    def _chunk(self, selection: Selection, options: MessageOptions, after: int) -> Chunk:
        sequence = self.sealed.sequence
        messages = tuple(
            Message(place=Place(sequence=sequence, position=index + 1), body=self._body(index, options))
            for index in self._selected(selection, after)
        )
        return Chunk(last=self.last, messages=messages)

    def _selected(self, selection: Selection, after: int) -> Iterator[int]:
        for index in range(after, len(self._leaves)):
            if selection.wants_leaf(self._leaves[index]) and self._holds(index, selection):
                yield index

    @functools.cached_property
    def _leaf_lines(self) -> list[bytes]:
        return self.sealed.leaves.split(b"\n")

    @functools.cached_property
    def _leaves(self) -> list[dict[str, Any]]:
        leaves: list[dict[str, Any]] = orjson.loads(b"[" + b",".join(self._leaf_lines) + b"]")
        return leaves

    @functools.cached_property
    def _lines(self) -> list[bytes]:
        return self.sealed.normalized.split(b"\n")

    @functools.cached_property
    def _data(self) -> list[Any]:
        found: list[Any] = orjson.loads(b"[" + b",".join(self._lines) + b"]")
        return found

    def _holds(self, index: int, selection: Selection) -> bool:
        """The expression's verdict on an event, found once whoever asks."""
        if selection.expression is None:
            return True
        key = (selection.expression.text, index)
        found = self._verdicts.get(key)
        if found is None:
            self._tally.evaluated += 1
            found = self._verdicts[key] = selection.holds(self._scope(index))
        return found

    def _scope(self, index: int) -> dict[str, Any]:
        leaf, statement = self._leaves[index], self.sealed.certificate.statement
        return {
            "data": self._data[index],
            "eventType": leaf["eventType"],
            "eventId": leaf["eventId"],
            "sourceId": statement.source_id,
            "timestamp": leaf["timestamp"],
            "level": statement.level.word,
            "issues": leaf["issues"],
        }

    def _body(self, index: int, options: MessageOptions) -> bytes:
        bodies = self._bodies.setdefault(options, {})
        found = bodies.get(index)
        if found is None:
            self._tally.serialised += 1
            found = bodies[index] = self._serialised(index, options)
        return found

    def _serialised(self, index: int, options: MessageOptions) -> bytes:
        leaf = self._leaves[index]
        if options not in self._shared:
            self._shared[options] = _shared(self.sealed, options)
        return (
            b'{"type":"event","eventId":"%b","eventType":%b,"certificationLevel":"%b","timestamp":%b,"data":%b%b%b%b}'
        ) % (
            leaf["eventId"].encode(),
            orjson.dumps(leaf["eventType"]),
            self.sealed.certificate.statement.level.word.encode(),
            orjson.dumps(leaf["timestamp"]),
            self._lines[index],
            _verdict(leaf, options),
            self._shared[options],
            self._certificate(index) if options.certificate else b"",
        )

    @functools.cached_property
    def _proven(self) -> tuple[dict[str, Any], list[tuple[bytes, ...]]]:
        """What the certificates of the batch's events share, and each event's path in the tree."""
        hashes = [leaf_hash(line) for line in self._leaf_lines]
        paths = inclusion_paths(hashes)
        leaf, data = self._leaves[0], orjson.loads(self._lines[0])
        first = certificate_document(
            self.sealed.certificate, leaf=leaf, data=data, record=None, index=0, path=paths[0]
        )
        return first, paths

    def _certificate(self, index: int) -> bytes:
        """What proves the event offline: the document of GET /overlay/events/{eventId}/certificate without record."""
        first, paths = self._proven
        leaf = self._leaves[index]
        document = first | {
            "status": "certified" if leaf["status"] == "valid" else "rejected",
            "event": leaf,
            "data": orjson.Fragment(self._lines[index]),
            "proof": proof_document(leaf_hash(self._leaf_lines[index]), index, len(paths), paths[index]),
        }
        return b',"certificate":' + orjson.dumps(document)


def chunks_of(
    rendering: Rendering, wanted: Iterable[tuple[Selection, MessageOptions]], after: int = 0
) -> list[Chunk]:
    """The chunks of a batch for several selections and options at once."""
    return [rendering.chunk(selection, options, after) for selection, options in wanted]


def _verdict(leaf: dict[str, Any], options: MessageOptions) -> bytes:
    """Named only to clients that asked for rejected events too: else every event is valid."""
    if not options.verdicts:
        return b""
    return b',"status":%b,"issues":%b' % (orjson.dumps(leaf["status"]), orjson.dumps(leaf["issues"]))


def _shared(sealed: CertifiedResult, options: MessageOptions) -> bytes:
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
