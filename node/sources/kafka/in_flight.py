"""From the thread that reads to the event loop: batches on their way to disk, and the task that submits them."""

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import attrs
import trio

from node.sources.intake import SourceIntake
from node.worker.parsing.kafka_messages import KafkaFormat, KafkaMessage, events_of
from protocols.errors import WorldFault

Partition: TypeAlias = tuple[str, int]  # topic, number

PART_BYTES_MAX: Final = 4 * 1024 * 1024  # of messages in one submission


class StoppedError(Exception):
    """The source was changed, disabled or deleted: the thread is to end."""


class EventLoop:
    """The event loop as the thread sees it: how to call into it, and whether to stop. Created in the event loop."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = threading.Event()

    @property
    def is_stopping(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        """Have the thread end; from either side."""
        self._stop.set()

    def call_soon(self, call: Callable[..., object], *arguments: object) -> None:
        """Call in the event loop, without waiting for it."""
        try:
            self._token.run_sync_soon(call, *arguments)
        except trio.RunFinishedError:
            self._stop.set()

    def run(self, call: Callable[..., Any], *arguments: object) -> Any:
        """Run an async call in the event loop and wait for its result.

        Raises:
            StoppedError: The event loop has ended, or the source is stopped.
        """
        try:
            return trio.from_thread.run(call, *arguments)
        except (trio.RunFinishedError, trio.Cancelled):
            raise StoppedError from None


@attrs.define(kw_only=True, eq=False)
class InFlightBatch:
    """Messages on their way to disk.

    Attributes:
        messages: In the order of their partitions.
        given_up: Partitions that are not ours any more: their messages are not submitted unless that has happened
            already, and their offsets are not committed.
        is_on_disk: All of it is. Set, like ``fault``, before ``done``.
        scope: Of the submission. A source that ends does not cancel it at once: the thread decides when.
    """

    messages: Sequence[KafkaMessage]
    given_up: set[Partition] = attrs.field(factory=set)
    is_on_disk: bool = False
    fault: Exception | None = None
    done: threading.Event = attrs.field(factory=threading.Event)
    scope: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True))

    @property
    def partitions(self) -> frozenset[Partition]:
        return frozenset((message.topic, message.partition) for message in self.messages)

    @property
    def remaining(self) -> list[KafkaMessage]:
        """The messages of partitions that are still ours, where the submission did not come to its end."""
        if self.is_on_disk:
            return []
        return [each for each in self.messages if (each.topic, each.partition) not in self.given_up]

    def give_up(self, partitions: Iterable[Partition]) -> None:
        """Give partitions up, in the event loop; the rest of the batch has to be submitted again."""
        self.given_up |= set(partitions)
        self.scope.cancel()


class BatchSubmitter:
    """Submits one batch after the other, in the event loop."""

    def __init__(self, intake: SourceIntake, reading: KafkaFormat) -> None:
        self._intake = intake
        self._reading = reading
        self._send, self._receive = trio.open_memory_channel[InFlightBatch](1)

    def submit(self, batch: InFlightBatch) -> None:
        """Start the submission of a batch; ``done`` is set at its end. One at a time."""
        self._send.send_nowait(batch)

    def give_up_if_held_up(self, batch: InFlightBatch, partitions: Iterable[Partition]) -> None:
        """Give partitions up if the node is full: then none of what it waits with has been submitted."""
        if self._intake.held_up:
            batch.give_up(partitions)

    async def run(self) -> None:
        async for batch in self._receive:
            try:
                with batch.scope:
                    await self._submit(batch)
                    batch.is_on_disk = True
            except WorldFault as fault:
                batch.fault = fault
            except Exception as error:  # noqa: BLE001  # raised again where the source ends, by the thread that waits
                batch.fault = error
            finally:
                batch.done.set()

    async def _submit(self, batch: InFlightBatch) -> None:
        for part in parts_by_size(batch.messages):
            call = partial(events_of, tuple(part), self._reading)
            size = sum(message.size for message in part)
            events = await self._intake.compute(call, size) if self._reading.parses else call()
            await self._intake.take(events)


def parts_by_size(messages: Sequence[KafkaMessage]) -> list[list[KafkaMessage]]:
    """Messages in their order, in parts of at most ``PART_BYTES_MAX``, or of one message."""
    parts: list[list[KafkaMessage]] = []
    size = PART_BYTES_MAX
    for message in messages:
        if size + message.size > PART_BYTES_MAX:
            parts.append([])
            size = 0
        parts[-1].append(message)
        size += message.size
    return parts
