"""The partitions that the group assigns to this node: which there are, and which offsets are committed when.

Everything here runs in the thread that reads; the library calls back while it is polled.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Final

import attrs
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from node.sources.intake import SourceIntake
from node.sources.kafka import client
from node.sources.kafka.in_flight import BatchSubmitter, EventLoop, InFlightBatch, Partition

log = structlog.get_logger(__name__)

STEP_S: Final = 0.1
HAND_OVER_S: Final = 20.0  # for the batch under way, when its partitions are revoked
ANSWER_S: Final = 10.0
FIRST_OFFSET: Final = 0  # smaller ones are the library's symbols: no offset, the beginning, the end


@attrs.define(eq=False)
class Offsets:
    """The offsets of the partitions that are ours: on disk, being committed, committed.

    An offset is that of the next message, as the protocol has it.
    """

    owned: set[Partition] = attrs.field(factory=set)
    _read: dict[Partition, int] = attrs.field(factory=dict)
    _waiting: dict[Partition, int] = attrs.field(factory=dict)
    _sent: dict[Partition, int] = attrs.field(factory=dict)

    def own(self, partitions: Iterable[Partition]) -> None:
        self.owned |= set(partitions)

    def lose(self, partitions: Iterable[Partition]) -> None:
        """Forget partitions: none of their offsets is committed from here on."""
        for partition in partitions:
            self.owned.discard(partition)
            for known in (self._read, self._waiting, self._sent):
                known.pop(partition, None)

    def begin_at(self, partition: Partition, offset: int) -> None:
        """Have an offset committed as if all messages before it were on disk."""
        self._waiting[partition] = offset

    def goes_back(self, partition: Partition, offset: int) -> bool:
        """Note a message that was read. Returns whether an earlier one had a greater offset."""
        before = self._read.get(partition, -1)
        self._read[partition] = offset + 1
        return offset < before

    def on_disk(self, batch: InFlightBatch) -> None:
        """Have the offsets of a batch committed, of partitions that are still ours, if it is on disk."""
        if not batch.is_on_disk:
            return
        for message in batch.messages:
            partition = (message.topic, message.partition)
            if partition in self.owned and partition not in batch.given_up:
                self._waiting[partition] = message.offset + 1

    def next_commit(self) -> Mapping[Partition, int]:
        """The offsets to commit now; empty while there are none, or a commit is under way."""
        if self._sent or not self._waiting:
            return {}
        self._sent, self._waiting = self._waiting, {}
        return self._sent

    def committed(self, refused: Iterable[Partition]) -> None:
        """The commit under way has ended; what was refused is tried again, unless there is a later offset."""
        for partition in refused:
            if partition in self._sent:
                self._waiting.setdefault(partition, self._sent[partition])
        self._sent = {}

    def uncommitted(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The offsets of partitions that are on disk and not known to be committed."""
        known = {**self._sent, **self._waiting}
        return {partition: known[partition] for partition in partitions if partition in known}


class AssignedPartitions:
    """Follows what the group assigns, revokes and takes away, and commits offsets.

    Attributes:
        in_flight: The batch under way, set by the thread that waits for it.
        is_paused: Nothing is read from the partitions, while a batch takes long.
    """

    def __init__(
        self, intake: SourceIntake, loop: EventLoop, submitter: BatchSubmitter, *, group: str, begins_at_end: bool
    ) -> None:
        """``begins_at_end``: where the group has no offset yet, only messages that come from now on are read."""
        self.offsets = Offsets()
        self.in_flight: InFlightBatch | None = None
        self.is_paused = False
        self._intake = intake
        self._loop = loop
        self._submitter = submitter
        self._group = group
        self._begins_at_end = begins_at_end

    def subscribe(self, consumer: Consumer, topics: list[str]) -> None:
        consumer.subscribe(topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def commit(self, consumer: Consumer) -> None:
        """Start to commit what is on disk, unless a commit is under way."""
        offsets = self.offsets.next_commit()
        if offsets:
            consumer.commit(offsets=_topic_partitions(offsets), asynchronous=True)

    def pause(self, consumer: Consumer) -> None:
        if not self.is_paused:
            self.is_paused = True
            consumer.pause(consumer.assignment())

    def resume(self, consumer: Consumer) -> None:
        if self.is_paused:
            self.is_paused = False
            consumer.resume(consumer.assignment())

    def on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """A commit has ended."""
        if error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            raise KafkaException(error)
        refused = [_partition(each) for each in partitions if error is not None or each.error is not None]
        self.offsets.committed(refused)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._begins_at_end and partitions:
            self._begin_at_end(consumer, partitions)
        consumer.incremental_assign(partitions)
        if self.is_paused and partitions:
            consumer.pause(partitions)
        self.offsets.own(_partition(each) for each in partitions)
        self._report()

    def _begin_at_end(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Begin with new messages where the group has no offset yet. The offset is committed as if it was read."""
        for known, each in zip(consumer.committed(partitions, timeout=ANSWER_S), partitions, strict=True):
            if known.error is not None:
                raise KafkaException(known.error)
            if known.offset < FIRST_OFFSET:
                _, end = consumer.get_watermark_offsets(each, timeout=ANSWER_S)
                each.offset = end
                self.offsets.begin_at(_partition(each), end)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Give partitions back: after the batch under way, with the offsets of all that is on disk."""
        going = {_partition(each) for each in partitions}
        batch = self.in_flight
        if batch is not None and going & batch.partitions:
            self._await(batch, going)
            self.offsets.on_disk(batch)
        offsets = self.offsets.uncommitted(going)
        self.offsets.lose(going)
        if offsets:
            try:
                consumer.commit(offsets=_topic_partitions(offsets), asynchronous=False)
            except KafkaException as error:  # the next member reads them again; their events are repeats
                log.info("kafka.not_committed", why=str(client.fault(error.args[0])))
        self._report()

    def _await(self, batch: InFlightBatch, going: set[Partition]) -> None:
        """Wait for a batch; give it up where the node is full, or too slow."""
        deadline_s = time.monotonic() + HAND_OVER_S
        while not batch.done.wait(STEP_S):
            if self._loop.is_stopping or time.monotonic() > deadline_s:
                self._loop.call_soon(batch.give_up, going)
                batch.done.wait(HAND_OVER_S)
                return
            self._loop.call_soon(self._submitter.give_up_if_held_up, batch, going)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Others read these partitions already: none of their offsets is committed."""
        lost = {_partition(each) for each in partitions}
        log.info("kafka.partitions_lost", partitions=len(lost))
        if self.in_flight is not None and lost & self.in_flight.partitions:
            self._loop.call_soon(self.in_flight.give_up, lost)
        self.offsets.lose(lost)
        self._report()

    def _report(self) -> None:
        if self._loop.is_stopping:
            return  # partitions that are given back at the end do not show that the source is read
        owned = self.offsets.owned
        topics = len({topic for topic, _ in owned})
        detail = f"{len(owned)} partitions of {topics} topics in group {self._group}"
        self._loop.call_soon(self._intake.connected, detail)


def _partition(each: TopicPartition) -> Partition:
    return each.topic, each.partition


def _topic_partitions(offsets: Mapping[Partition, int]) -> list[TopicPartition]:
    return [TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()]
