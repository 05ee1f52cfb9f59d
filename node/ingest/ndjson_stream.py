"""A body without an end: lines are taken in piece by piece, and each piece is acknowledged once it is durable.

Nothing is read while the node is full, so TCP makes the sender wait. Many clients read nothing of an answer before
they have sent their whole request: acknowledgements that are not read are merged, so that such a client never waits
for a node that waits for it.
"""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final

import attrs
import structlog
import trio

from node.ingest.acknowledgements import COUNTS, Acknowledgements, Progress
from node.ingest.admission_control import ByteBudget
from node.ingest.backlog import OverloadedError
from node.ingest.pipeline import Ingest
from node.ingest.responses import REJECTED, IngestAnswer, render_lines
from node.runtime.fair_share import OWN_ACCOUNT, Account, AllowanceUsedError, WorkersBusyError
from node.worker.parsing.bodies import RequestEncoding
from node.worker.parsing.lines import LineGatherer, Piece
from node.worker.parsing.unpacking import unpacker
from protocols.errors import ClientFault, OverlayError
from storage.errors import DatabaseUnavailableError

log = structlog.get_logger(__name__)

PIECE_EVENTS_MAX: Final = 1_000
PIECE_BYTES_MAX: Final = 1024 * 1024
QUIET_S: Final = 0.2  # without further bytes: the lines that were received are submitted
LINGER_S: Final = 1.0  # the oldest line waits no longer, however steadily others arrive
IDLE_S: Final = 60.0
FULL_S: Final = 0.5
AWAY_MAX_S: Final = 12.0  # a database that restarts is back by then
FULL_MAX_S: Final = 300.0  # after so long a full node ends the stream with an error
LAST_LINE_S: Final = 2.0  # for the client to read why its stream ends, before the connection is closed


REPEATED: Final = (OverloadedError, AllowanceUsedError, WorkersBusyError, DatabaseUnavailableError)
"""What a stream waits out: a repeat is harmless."""


class StreamIdleError(ClientFault):
    """The client sent nothing for too long."""

    code = "stream-idle"


class LineStream:
    """One request. ``begin``, then ``run`` beside ``answer``."""

    def __init__(
        self,
        *,
        ingest: Ingest,
        body: AsyncIterator[bytes],
        form: RequestEncoding,
        budget: ByteBudget,
        describe: Callable[[OverlayError], dict[str, Any]],
        account: Account = OWN_ACCOUNT,
        idle_s: float = IDLE_S,
    ) -> None:
        """Args:
        body: Its parts as they come, each of bounded size; they are requested one at a time.
        form: Of each piece; ``coding`` is that of the whole.
        budget: Where the bytes that are held are counted.
        describe: The problem document of an error, JSON values.
        account: Whom the lines are parsed for.
        idle_s: How long the client may send nothing.
        """
        limits = ingest.admission.limits
        self._ingest = ingest
        self._body = body
        self._form = attrs.evolve(form, coding="identity")
        self._budget = budget
        self._describe = describe
        self._account = account
        self._idle_s = idle_s
        self._line_bytes_max = min(limits.event_bytes_max, limits.body_bytes_max)
        self._gatherer = LineGatherer(
            line_bytes_max=self._line_bytes_max,
            piece_bytes_max=min(PIECE_BYTES_MAX, limits.body_bytes_max),
            piece_lines_max=PIECE_EVENTS_MAX,
        )
        self._unpacker = unpacker(form.coding)
        self._texts: Iterator[bytes] = iter(())
        self._ready: deque[Piece] = deque()
        self._oldest_s = 0.0
        self._has_ended = False
        self._has_begun = False
        self._progress = Progress()
        self._acknowledgements = Acknowledgements()

    async def begin(self) -> None:
        """Take the first piece in: errors that concern the whole stream are raised here, before it is answered.

        Raises:
            StreamIdleError: No line came. OverloadedError: The node is full. And what ``Ingest.submit`` raises.
        """
        await self._take_next()
        self._has_begun = True

    async def run(self) -> None:
        """Take the rest in, until the body ends or an error ends the stream; ``answer`` then ends too."""
        try:
            while await self._take_next():
                pass
            self._acknowledgements.finish(
                {"done": True, "lines": self._gatherer.number, **attrs.asdict(self._progress)}
            )
        except OverlayError as fault:
            log.info("ingest.stream_ended", why=str(fault), code=fault.code, acknowledged=self._progress.acknowledged)
            self._acknowledgements.finish(
                {"done": False, **attrs.asdict(self._progress), "problem": self._describe(fault)}
            )
            self.close()
            await self._drain_body()
        finally:
            self.close()
            self._acknowledgements.close()

    def answer(self) -> AsyncGenerator[bytes, None]:
        """The answer's bytes: one line of JSON for each acknowledgement, and one at the end."""
        return self._acknowledgements.lines()

    def close(self) -> None:
        """Release the bytes that are counted."""
        self._budget.resize(0)

    async def _drain_body(self) -> None:
        """Read on for a moment: closing a connection on unread bytes would lose the last line of the answer."""
        with trio.move_on_after(LAST_LINE_S):
            async for _ in self._body:
                pass

    async def _take_next(self) -> bool:
        """Take the next piece in. False at the end of the body."""
        while not self._ready and not self._has_ended:
            await self._gather()
        if not self._ready:
            return False
        piece = self._ready.popleft()
        document = await self._submitted(piece)
        self._progress.add(piece.last, document["counts"])
        self._acknowledgements.add({"lines": [piece.first, piece.last], **document})
        with suppress(OverloadedError):  # what is left had found no room: it is here, and goes on to be submitted
            self._budget.resize(self._held)
        return True

    async def _submitted(self, piece: Piece) -> dict[str, Any]:
        """Submit a piece's events; the acknowledgement of the piece."""
        document: dict[str, Any] = {"counts": dict.fromkeys(COUNTS, 0), "rejections": [], "batches": []}
        if piece.lines:
            answer = await self._submit_when_possible(
                partial(self._ingest.submit, piece.body, form=self._form, account=self._account)
            )
            document = render_lines(answer, piece.numbers)
        for number in piece.too_long:
            document["rejections"].append(self._too_long(number))
        document["counts"]["rejected"] += len(piece.too_long)
        document["rejections"].sort(key=lambda rejection: rejection["line"])
        return document

    def _too_long(self, number: int) -> dict[str, Any]:
        reason = f"the line has more than {self._line_bytes_max} bytes"
        return {"line": number, "code": REJECTED, "field": "", "reason": reason, "remedy": "send smaller events"}

    async def _submit_when_possible(self, submit: Callable[[], Awaitable[IngestAnswer]]) -> IngestAnswer:
        """The answer, once the node has capacity. At the first piece a full node raises; later the stream waits."""
        began_s = trio.current_time()
        while True:
            try:
                answer = await submit()
            except REPEATED as fault:
                most_s = AWAY_MAX_S if isinstance(fault, DatabaseUnavailableError) else FULL_MAX_S
                if not self._has_begun or trio.current_time() - began_s >= most_s:
                    raise
                await trio.sleep(_pause_s(fault))
            else:
                return answer

    async def _gather(self) -> None:
        """One step: read a part of the body, or wait for one, and make pieces of what is complete."""
        text = next(self._texts, None)
        if text is not None:
            self._ready.extend(self._gatherer.feed(text))
            await trio.lowlevel.checkpoint()  # a small compressed part may hold many lines
        else:
            await self._read()
        if not self._gatherer.has_lines:
            self._oldest_s = trio.current_time()
        elif not self._ready and trio.current_time() - self._oldest_s >= LINGER_S:
            self._flush()
        await self._count_held()

    async def _read(self) -> None:
        waits_s = self._idle_s
        if self._gatherer.has_lines:
            waits_s = max(0.0, min(QUIET_S, self._oldest_s + LINGER_S - trio.current_time()))
        with trio.move_on_after(waits_s) as patience:
            try:
                part = await anext(self._body)
            except StopAsyncIteration:
                self._unpacker.close()
                self._ready.extend(self._gatherer.finish())
                self._has_ended = True
            else:
                self._texts = self._unpacker.feed(part)
        if patience.cancelled_caught and not self._flush():
            raise StreamIdleError(
                f"no bytes were received for {self._idle_s:g} s", remedy="continue after the line `acknowledged`"
            )

    def _flush(self) -> bool:
        piece = self._gatherer.flush()
        if piece is not None:
            self._ready.append(piece)
        return piece is not None

    @property
    def _held(self) -> int:
        return self._gatherer.held + sum(len(line) for piece in self._ready for line in piece.lines)

    async def _count_held(self) -> None:
        """Count the bytes that are held; where they do not fit, submit what is complete, or wait."""
        deadline_s = trio.current_time() + FULL_MAX_S
        while True:
            try:
                self._budget.resize(self._held)
                return
            except OverloadedError:
                if not self._has_begun or trio.current_time() >= deadline_s:
                    raise
                if self._ready or self._flush():
                    return  # they are in memory already; submitting them frees it
                await trio.sleep(FULL_S)


def _pause_s(fault: OverlayError) -> float:
    """How long to wait before a piece is submitted again."""
    seconds = fault.fields["retryAfter"] if isinstance(fault, AllowanceUsedError) else FULL_S
    assert isinstance(seconds, int | float), "see AllowanceUsedError"
    return seconds
