"""Reads a source in a thread of its own, which alone uses the client; a task submits what it read.

The thread makes rounds: commit what is on disk, read the messages there are, wait until they are on disk. While it
waits for longer than a moment the partitions are paused and the client is polled all the same, so that the group sees
a live member. The library calls back in this thread, while it is polled: when partitions are assigned, revoked, lost.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import orjson
import structlog
import trio
from confluent_kafka import Consumer, KafkaError, KafkaException, Message

from node.sources.intake import SourceFault, SourceIntake
from node.sources.kafka import client
from node.sources.kafka.brokers import BrokerWatch, address_of
from node.sources.kafka.in_flight import BatchSubmitter, EventLoop, InFlightBatch, StoppedError
from node.sources.kafka.partitions import AssignedPartitions
from node.sources.settings.kafka import KafkaSourceSettings
from node.worker.parsing.kafka_messages import KafkaFormat, KafkaMessage

log = structlog.get_logger(__name__)

POLL_S: Final = 0.2
MOMENT_S: Final = 1.0  # a batch that takes longer has the partitions paused
STEP_S: Final = 0.1
MESSAGES_MAX: Final = 1_000
CHUNK: Final = 100
BYTES_MAX: Final = 4 * 1024 * 1024  # after which no more is read into a batch
FINISH_S: Final = 3.0
CLOSE_S: Final = 5.0


class KafkaReader:
    """One run of a source, from connecting to its end. Created in the event loop."""

    def __init__(self, intake: SourceIntake, *, network: str) -> None:
        settings = intake.settings
        assert isinstance(settings, KafkaSourceSettings), "settings are read by the source type"
        self._intake = intake
        self._settings = settings
        self._group = settings.group or f"overlay.{network}.{intake.source_id}"
        reading = KafkaFormat(
            shape=settings.shape,
            is_whole=settings.data == "message",
            key_format=settings.key_format,
            skips_tombstones=settings.tombstones == "skip",
            has_timestamps=settings.timestamps,
        )
        self._loop = EventLoop()
        self._ended = trio.Event()
        self._fault: Exception | None = None
        self._submitter = BatchSubmitter(intake, reading)
        self._brokers = BrokerWatch(self._loop, intake.outbound_allowed)
        self._partitions = AssignedPartitions(
            intake, self._loop, self._submitter, group=self._group, begins_at_end=settings.start == "latest"
        )
        self._topic_names: dict[str, str] = {}  # by topic: its name with its id
        self._backlog: list[Message] = []

    async def run(self) -> None:
        """Read until cancelled.

        Raises:
            SourceFault: The source cannot be read now. ForbiddenAddressError: A broker may not be called.
        """
        by_name, allowed = self._settings.tls is not None, self._intake.outbound_allowed
        brokers = [await address_of(broker, by_name=by_name, allowed=allowed) for broker in self._settings.brokers]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._submitter.run)
            try:
                # the thread ends by itself, in its time: a client that cannot close must not keep the node
                read = partial(self._read, brokers)
                await trio.to_thread.run_sync(
                    read,
                    abandon_on_cancel=True,  # type: ignore[call-arg]  # an older trio's stubs are installed
                    limiter=trio.CapacityLimiter(1),
                )
            finally:
                self._loop.stop()
                with trio.move_on_after(CLOSE_S) as closing:
                    closing.shield = True
                    await self._ended.wait()
                if self._partitions.in_flight is not None:
                    self._partitions.in_flight.scope.cancel()
                nursery.cancel_scope.cancel()
        if self._fault is not None:
            raise self._fault

    # --- the thread ------------------------------------------------------------------------------------------

    def _read(self, brokers: Sequence[str]) -> None:
        """The thread: connect, read until stopped, close."""
        consumer: Any = None
        try:
            common = client.configuration(self._settings, brokers)
            self._cluster = client.Cluster(common)
            self._check_topics()
            consumer = client.created(partial(Consumer, self._consumer_settings(common)))
            self._brokers.start()
            pattern = self._settings.topic_pattern
            self._partitions.subscribe(consumer, [f"^({pattern})$"] if pattern else list(self._settings.topics))
            while not self._loop.is_stopping:
                self._round(consumer)
        except StoppedError:
            pass
        except KafkaException as error:
            self._fault = client.fault(error.args[0])
        except Exception as error:  # noqa: BLE001  # raised again by ``run``
            self._fault = error
        finally:
            self._loop.stop()
            if consumer is not None:
                _close(consumer)
            self._loop.call_soon(self._ended.set)

    def _check_topics(self) -> None:
        """Check the brokers that the cluster names, and that the topics exist, before the group is joined."""
        topics = self._cluster.topics(self._brokers.check_named, lambda: self._loop.is_stopping)
        missing = sorted(set(self._settings.topics) - topics)
        if missing:
            raise SourceFault(f"the topic {missing[0]} does not exist, or may not be read with these credentials")

    def _consumer_settings(self, common: dict[str, Any]) -> dict[str, Any]:
        return {
            **client.for_group(self._settings, common, self._group),
            "error_cb": self._brokers.note_error,
            "stats_cb": self._measure,
            "on_commit": self._partitions.on_commit,
        }

    def _measure(self, text: str) -> None:
        """The client's statistics: which brokers are connected, and how far behind the group is."""
        statistics = orjson.loads(text)
        self._brokers.note_statistics(statistics)
        lags = [
            part["consumer_lag"]
            for name, topic in statistics["topics"].items()
            for number, part in topic["partitions"].items()
            if (name, int(number)) in self._partitions.offsets.owned and part["consumer_lag"] >= 0
        ]
        self._loop.call_soon(self._intake.report_lag, sum(lags))

    def _round(self, consumer: Consumer) -> None:
        self._partitions.commit(consumer)
        messages = self._usable(self._gather(consumer))
        while messages:
            batch = InFlightBatch(messages=messages)
            self._submit(consumer, batch)
            if batch.fault is not None:
                raise batch.fault
            self._partitions.offsets.on_disk(batch)
            self._partitions.in_flight = None
            messages = batch.remaining
        self._partitions.resume(consumer)
        self._check()

    def _check(self) -> None:
        """Raise what makes this run end."""
        if self._loop.is_stopping:
            raise StoppedError
        self._brokers.check()

    # --- reading ---------------------------------------------------------------------------------------------

    def _gather(self, consumer: Consumer) -> list[Message]:
        """The messages there are: at most a batch, without waiting for one to be full."""
        found, self._backlog = self._backlog, []
        if not found:
            first = consumer.poll(POLL_S)
            if first is None:
                return []
            found = [first]
        size = sum(map(_size, found))
        while len(found) < MESSAGES_MAX and size < BYTES_MAX:
            more = consumer.consume(min(CHUNK, MESSAGES_MAX - len(found)), 0)
            if not more:
                break
            size += sum(map(_size, more))
            found += more
        return found

    def _usable(self, found: Sequence[Message]) -> list[KafkaMessage]:
        """The messages among what was read, of partitions that are ours by now."""
        offsets = self._partitions.offsets
        kept: list[tuple[Message, str, int, int]] = []
        for each in found:
            error = each.error()
            if error is not None:
                self._handle(error)
                continue
            topic, number, offset = each.topic(), each.partition(), each.offset()
            assert topic is not None, "a message has a topic"
            assert number is not None, "a message has a partition"
            assert offset is not None, "a message has an offset"
            if (topic, number) not in offsets.owned:
                continue  # it was revoked since: the next member reads it
            if offsets.goes_back((topic, number), offset):
                self._topic_names.pop(topic, None)  # it may have been deleted and created again
            kept.append((each, topic, number, offset))
        unknown = {topic for _, topic, _, _ in kept} - set(self._topic_names)
        if unknown:
            self._topic_names.update(self._cluster.unique_names(sorted(unknown)))
        return [
            _message(each, topic, number, offset, self._topic_names[topic]) for each, topic, number, offset in kept
        ]

    def _handle(self, error: KafkaError) -> None:
        """An error in place of a message."""
        if error.code() in (KafkaError._PARTITION_EOF, KafkaError._MAX_POLL_EXCEEDED):
            log.info("kafka.notice", text=error.str())
        elif error.fatal() or (error.code() > 0 and not error.retriable()):
            raise client.fault(error)  # the broker's own; what the library reports of connections may pass
        else:
            self._brokers.note_error(error)

    # --- waiting ---------------------------------------------------------------------------------------------

    def _submit(self, consumer: Consumer, batch: InFlightBatch) -> None:
        """Have a batch submitted; returns once it is, or could not be."""
        self._partitions.in_flight = batch
        self._loop.call_soon(self._submitter.submit, batch)
        is_done = batch.done.wait(MOMENT_S)
        while not is_done:
            if self._loop.is_stopping:
                self._finish(batch)
                raise StoppedError
            self._stand_by(consumer)
            is_done = batch.done.wait(STEP_S)

    def _finish(self, batch: InFlightBatch) -> None:
        """Give the batch under way time to be committed when the source ends, so that it is not read again."""
        deadline_s = time.monotonic() + FINISH_S
        while not batch.done.wait(STEP_S) and time.monotonic() < deadline_s:
            self._loop.call_soon(self._submitter.give_up_if_held_up, batch, batch.partitions)
        self._partitions.offsets.on_disk(batch)
        self._loop.call_soon(batch.scope.cancel)
        self._partitions.in_flight = None

    def _stand_by(self, consumer: Consumer) -> None:
        """Be a live member of the group without reading on."""
        self._partitions.pause(consumer)
        self._partitions.commit(consumer)
        message = consumer.poll(0)
        if message is not None:
            self._backlog.append(message)
        if not self._loop.is_stopping:
            self._check()


def _close(consumer: Consumer) -> None:
    """Leave the group: what is on disk is committed as the partitions are given back."""
    try:
        consumer.close()
    except KafkaException as error:
        log.info("kafka.closed_badly", why=str(client.fault(error.args[0])))


def _message(each: Message, topic: str, number: int, offset: int, unique_name: str) -> KafkaMessage:
    kind, moment_ms = each.timestamp()
    headers: Any = each.headers() or ()
    return KafkaMessage(
        topic=topic,
        log=unique_name,
        partition=number,
        offset=offset,
        key=_bytes(each.key()),
        value=_bytes(each.value()),
        headers=tuple((name, _bytes(value)) for name, value in headers),
        timestamp_ms=moment_ms if kind else None,
    )


def _bytes(value: Any) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _size(each: Message) -> int:
    return len(each.value() or b"") + len(each.key() or b"") + 100
