"""What is under way between the thread that reads and the task that hands on."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import attrs
import trio

from node.worker.parsing.kafka_messages import KafkaMessage

Partition: TypeAlias = tuple[str, int]  # topic, number


@attrs.define(kw_only=True, eq=False)
class InFlightBatch:
    """Messages on their way to disk.

    Attributes:
        messages: In the order of their partitions.
        given_up: Partitions that are no longer ours: what is not handed on yet is not, and no offset counts.
        scope: Of handing on. A source that ends is no reason to drop it in its midst: the thread says when.
        is_taken: All of it is on disk. Set, like ``fault``, before ``done``.
    """

    messages: Sequence[KafkaMessage]
    given_up: set[Partition] = attrs.field(factory=set)
    is_taken: bool = False
    fault: Exception | None = None
    done: threading.Event = attrs.field(factory=threading.Event)
    scope: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True))

    @property
    def partitions(self) -> frozenset[Partition]:
        return frozenset((message.topic, message.partition) for message in self.messages)

    def give_up(self, partitions: Iterable[Partition]) -> None:
        """Let go of partitions, in the event loop; the rest of the flight has to start again."""
        self.given_up |= set(partitions)
        self.scope.cancel()


@attrs.define(eq=False)
class Offsets:
    """Where the partitions that are ours stand: what is on disk, and what the broker knows of it.

    Used by the thread that reads alone. Offsets are those of the next message, as the protocol has them.
    """

    owned: set[Partition] = attrs.field(factory=set)
    seen: dict[Partition, int] = attrs.field(factory=dict)
    waiting: dict[Partition, int] = attrs.field(factory=dict)
    sent: dict[Partition, int] = attrs.field(factory=dict)

    def own(self, partitions: Iterable[Partition]) -> None:
        self.owned |= set(partitions)

    def lose(self, partitions: Iterable[Partition]) -> None:
        """Forget partitions: nothing of them is committed from here on."""
        for partition in partitions:
            self.owned.discard(partition)
            for known in (self.seen, self.waiting, self.sent):
                known.pop(partition, None)

    def goes_back(self, partition: Partition, offset: int) -> bool:
        """Note a message that was read; True when its offset was passed before."""
        before = self.seen.get(partition, -1)
        self.seen[partition] = offset + 1
        return offset < before

    def landed(self, flight: InFlightBatch) -> None:
        """What of a flight is on disk, and still ours, may be committed."""
        if not flight.is_taken:
            return
        for message in flight.messages:
            partition = (message.topic, message.partition)
            if partition in self.owned and partition not in flight.given_up:
                self.waiting[partition] = message.offset + 1

    def send(self) -> Mapping[Partition, int]:
        """The offsets to commit now, one commit at a time; empty while there is none, or one under way."""
        if self.sent or not self.waiting:
            return {}
        self.sent, self.waiting = self.waiting, {}
        return self.sent

    def answered(self, refused: Iterable[Partition]) -> None:
        """The commit under way has ended; what was refused is tried again, unless there is a later offset."""
        for partition in refused:
            if partition in self.sent:
                self.waiting.setdefault(partition, self.sent[partition])
        self.sent = {}

    def unsaid(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """What is on disk of partitions and not known to be committed."""
        known = {**self.sent, **self.waiting}
        return {partition: known[partition] for partition in partitions if partition in known}
