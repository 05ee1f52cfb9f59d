"""Certified batches as messages of a stream, made once for all clients that want the same.

Each event is serialised once for each set of options, each expression is evaluated once for each event, and clients
with the same options and selection share the chunk.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Final

import orjson
import trio

from node.coordination.certified_result import CertifiedResult
from node.delivery.batch_content import BatchContent, batch_evidence
from node.delivery.cursor import Cursor
from node.delivery.filters import MessageOptions, Selection
from node.delivery.messages import Chunk, EventMessage
from protocols.certificate import agent_id
from protocols.levels import rule_for

INLINE_BYTES_MAX: Final = 16 * 1024  # smaller batches are rendered on the event loop, in less than a millisecond

Kind = tuple[Selection, MessageOptions]
"""What decides the messages of a batch for a client."""


class RenderCounts:
    """The cost of rendering: events serialised, and expressions evaluated, each for one event."""

    def __init__(self) -> None:
        self.serialised = 0
        self.evaluated = 0


class BatchRenderer:
    """Makes the messages of one batch. Used by one thread at a time."""

    def __init__(self, sealed: CertifiedResult, counts: RenderCounts | None = None) -> None:
        self.sealed = sealed
        self._content = BatchContent(sealed)
        self._counts = counts or RenderCounts()
        self._bodies: dict[MessageOptions, dict[int, bytes]] = {}
        self._shared: dict[MessageOptions, bytes] = {}
        self._matches: dict[tuple[str, int], bool] = {}
        self._chunks: dict[Kind, Chunk] = {}

    def chunk(self, selection: Selection, options: MessageOptions, after: int = 0) -> Chunk:
        """The messages for clients with this selection and these options, in batch order.

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
            EventMessage(cursor=Cursor(sequence=sequence, position=index + 1), body=self._body(index, options))
            for index in self._selected(selection, after)
        )
        return Chunk(last=batch_end(self.sealed), messages=messages)

    def _selected(self, selection: Selection, after: int) -> Iterator[int]:
        leaves = self._content.leaves
        for index in range(after, len(leaves)):
            if selection.matches_leaf(leaves[index]) and self._is_match(index, selection):
                yield index

    def _is_match(self, index: int, selection: Selection) -> bool:
        """The expression's result for an event, computed once for all subscribers."""
        if selection.expression is None:
            return True
        key = (selection.expression.text, index)
        found = self._matches.get(key)
        if found is None:
            self._counts.evaluated += 1
            found = self._matches[key] = selection.holds(self._content.scope(index))
        return found

    def _body(self, index: int, options: MessageOptions) -> bytes:
        bodies = self._bodies.setdefault(options, {})
        found = bodies.get(index)
        if found is None:
            self._counts.serialised += 1
            found = bodies[index] = self._serialised(index, options)
        return found

    def _serialised(self, index: int, options: MessageOptions) -> bytes:
        leaf = self._content.leaves[index]
        if options not in self._shared:
            self._shared[options] = _shared_members(self.sealed, options)
        return (
            b'{"type":"event","eventId":"%b","eventType":%b,"certificationLevel":"%b","timestamp":%b,"data":%b%b%b%b}'
        ) % (
            leaf["eventId"].encode(),
            orjson.dumps(leaf["eventType"]),
            self.sealed.certificate.statement.level.word.encode(),
            orjson.dumps(leaf["timestamp"]),
            self._content.data_lines[index],
            _verdict_members(leaf, options),
            self._shared[options],
            b',"certificate":' + self._content.certificate(index) if options.certificate else b"",
        )


def batch_end(sealed: CertifiedResult) -> Cursor:
    """The cursor after the last event of a batch."""
    return Cursor(sequence=sealed.sequence, position=sealed.certificate.statement.events)


async def rendered(renderer: BatchRenderer, kinds: Iterable[Kind], after: int = 0) -> list[Chunk]:
    """The chunks of a batch for several kinds of clients: on the event loop where that is short, else in a thread."""
    kinds = tuple(kinds)
    render = partial(_chunks, renderer, kinds, after)
    is_long = any(selection.expression is not None or options.certificate for selection, options in kinds)
    if is_long or len(renderer.sealed.leaves) > INLINE_BYTES_MAX:
        return await trio.to_thread.run_sync(render)
    return render()


def _chunks(renderer: BatchRenderer, kinds: Iterable[Kind], after: int) -> list[Chunk]:
    return [renderer.chunk(selection, options, after) for selection, options in kinds]


def _verdict_members(leaf: dict[str, Any], options: MessageOptions) -> bytes:
    """Sent only to clients that asked for rejected events too; otherwise every event is valid."""
    if not options.verdicts:
        return b""
    return b',"status":%b,"issues":%b' % (orjson.dumps(leaf["status"]), orjson.dumps(leaf["issues"]))


def _shared_members(sealed: CertifiedResult, options: MessageOptions) -> bytes:
    """The members that all events of a batch share: who certified it, and how long that took."""
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
    text = b',"certification":%b,"overlayMetadata":%b' % (orjson.dumps(certification), orjson.dumps(metadata))
    if options.evidence:
        text += b',"processingEvidence":' + orjson.dumps(batch_evidence(sealed.certificate.evidence))
    return text
