"""Reads a source in a thread of its own, which alone touches the client; a task hands on what it read.

The thread goes round: commit what is on disk, read what there is, wait until it is on disk. While it waits for
longer than a moment the partitions are paused and the client is asked all the same, so that the group sees a member
that lives. The library calls back in this thread, while it is asked: when partitions come, are taken away, are lost.
"""

import math
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import orjson
import structlog
import trio
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from node.runtime.guarded_network import ForbiddenAddressError, OutboundFault, resolve
from node.sources.intake import SourceFault, SourceIntake
from node.sources.kafka import client
from node.sources.kafka.in_flight import InFlightBatch, Offsets, Partition
from node.sources.settings.kafka import KafkaSourceSettings
from node.worker.parsing.kafka_messages import KafkaFormat, KafkaMessage, events_of
from protocols.errors import WorldFault

log = structlog.get_logger(__name__)

POLL_S: Final = 0.2
MOMENT_S: Final = 1.0  # a flight that takes longer has the partitions paused
STEP_S: Final = 0.1
MESSAGES_MAX: Final = 1_000
CHUNK: Final = 100
BYTES_MAX: Final = 4 * 1024 * 1024  # after which no more is read into a batch
PART_BYTES_MAX: Final = 4 * 1024 * 1024  # handed on at once
HAND_OVER_S: Final = 20.0  # what is under way has so long when its partitions are asked back
DOWN_S: Final = 6.0  # without a broker that is connected
JUDGE_S: Final = 60.0
ASK_S: Final = 10.0
FINISH_S: Final = 3.0
CLOSE_S: Final = 5.0
NO_OFFSET: Final = 0  # below it are the library's words for offsets


class _StoppedError(Exception):
    """The source is no longer wanted."""


class KafkaReader:
    """One run of a source, from connecting to its end."""

    def __init__(self, intake: SourceIntake, *, network: str) -> None:
        settings = intake.settings
        assert isinstance(settings, KafkaSourceSettings), "the manager pairs connectors with their settings"
        self._intake = intake
        self._settings = settings
        self._group = settings.group or f"overlay.{network}.{intake.source_id}"
        self._reading = KafkaFormat(
            shape=settings.shape,
            is_whole=settings.data == "message",
            key_format=settings.key_format,
            skips_tombstones=settings.tombstones == "skip",
            has_timestamps=settings.timestamps,
        )
        self._offsets = Offsets()
        self._stop = threading.Event()
        self._ended = trio.Event()
        self._fault: Exception | None = None
        self._flight: InFlightBatch | None = None
        self._send, self._receive = trio.open_memory_channel[InFlightBatch](1)
        self._logs: dict[str, str] = {}
        self._backlog: list[Message] = []
        self._is_paused = False
        self._errors: list[KafkaError] = []
        self._brokers: frozenset[client.Broker] = frozenset()
        self._judged: frozenset[client.Broker] = frozenset()
        self._judged_s = -math.inf
        self._up_s = math.inf

    async def run(self) -> None:
        """Read until cancelled.

        Raises:
            SourceFault: The source cannot be read now. ForbiddenAddressError: A broker may not be called.
        """
        self._token = trio.lowlevel.current_trio_token()
        brokers = [await self._address(broker) for broker in self._settings.brokers]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hand_on)
            try:
                # the thread ends by itself, in its time; a client that cannot say goodbye must not keep the node
                read = partial(self._read, brokers)
                await trio.to_thread.run_sync(
                    read,
                    abandon_on_cancel=True,  # type: ignore[call-arg]  # an older trio's stubs are installed
                    limiter=trio.CapacityLimiter(1),
                )
            finally:
                self._stop.set()
                with trio.move_on_after(CLOSE_S) as closing:
                    closing.shield = True
                    await self._ended.wait()
                if self._flight is not None:
                    self._flight.scope.cancel()
                nursery.cancel_scope.cancel()
        if self._fault is not None:
            raise self._fault

    # --- in the event loop -----------------------------------------------------------------------------------

    async def _address(self, broker: str) -> str:
        """Where to call a broker: the judged address, or its name where a certificate has to bear it."""
        host, _, port = broker.rpartition(":")
        try:
            address, *_ = await resolve(host.strip("[]"), int(port), self._intake.outbound_allowed)
        except ForbiddenAddressError:
            raise
        except (OSError, OutboundFault):
            raise SourceFault(f"a broker's name leads nowhere: {host}") from None
        if self._settings.tls is not None:
            return broker
        return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"

    async def _judge(self, brokers: frozenset[client.Broker]) -> None:
        """Raises ForbiddenAddressError when one of the brokers that the cluster names may not be called."""
        for host, port in sorted(brokers):
            try:
                await resolve(host.strip("[]"), port, self._intake.outbound_allowed)
            except ForbiddenAddressError:
                raise
            except (OSError, OutboundFault):
                continue  # it cannot be called either

    async def _hand_on(self) -> None:
        async for flight in self._receive:
            try:
                with flight.scope:
                    await self._take(flight)
                    flight.is_taken = True
            except WorldFault as fault:
                flight.fault = fault
            except Exception as error:  # noqa: BLE001  # raised again where the source ends, by the thread that waits
                flight.fault = error
            finally:
                flight.done.set()

    async def _take(self, flight: InFlightBatch) -> None:
        for part in _parts(flight.messages):
            call = partial(events_of, tuple(part), self._reading)
            events = await self._intake.compute(call) if self._reading.parses else call()
            await self._intake.take(events)

    # --- in the thread ---------------------------------------------------------------------------------------

    def _read(self, brokers: Sequence[str]) -> None:
        """The thread: connect, read until stopped, close."""
        consumer: Any = None
        try:
            common = client.configuration(self._settings, brokers)
            self._cluster = client.Cluster(common)
            self._look()
            consumer = client.made(partial(Consumer, self._member(common)))
            self._up_s = time.monotonic()
            self._subscribe(consumer)
            while not self._stop.is_set():
                self._round(consumer)
        except _StoppedError:
            pass
        except KafkaException as error:
            self._fault = client.fault(error.args[0])
        except Exception as error:  # noqa: BLE001  # raised again by ``run``
            self._fault = error
        finally:
            self._stop.set()
            if consumer is not None:
                self._close(consumer)
            self._soon(self._ended.set)

    def _look(self) -> None:
        """Judge what the cluster names, and see that there is what is to be read, before anything is joined."""
        topics = self._cluster.look(self._judge_now, self._stop.is_set)
        missing = sorted(set(self._settings.topics) - topics)
        if missing:
            raise SourceFault(f"no topic {missing[0]}, or it may not be read with these credentials")

    def _member(self, common: dict[str, Any]) -> dict[str, Any]:
        return {
            **client.for_group(self._settings, common, self._group),
            "error_cb": self._note,
            "stats_cb": self._measure,
            "on_commit": self._committed,
        }

    def _subscribe(self, consumer: Consumer) -> None:
        pattern = self._settings.topic_pattern
        topics = [f"^({pattern})$"] if pattern else list(self._settings.topics)
        consumer.subscribe(topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def _round(self, consumer: Consumer) -> None:
        self._commit(consumer)
        messages = self._sorted(self._gather(consumer))
        while messages:
            flight = InFlightBatch(messages=messages)
            self._fly(consumer, flight)
            if flight.fault is not None:
                raise flight.fault
            self._offsets.landed(flight)
            self._flight = None
            messages = [] if flight.is_taken else [each for each in messages if self._is_left(each, flight)]
        self._resume(consumer)
        self._check()

    def _is_left(self, message: KafkaMessage, flight: InFlightBatch) -> bool:
        return (message.topic, message.partition) not in flight.given_up

    def _gather(self, consumer: Consumer) -> list[Message]:
        """What there is: at most a batch, without waiting for one to be full."""
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

    def _sorted(self, found: Sequence[Message]) -> list[KafkaMessage]:
        """The messages among what was read, of partitions that are ours by now."""
        left: list[tuple[Message, str, int, int]] = []
        for each in found:
            error = each.error()
            if error is not None:
                self._heed(error)
                continue
            topic, number, offset = each.topic(), each.partition(), each.offset()
            assert topic is not None, "a message has its place"
            assert number is not None, "a message has its place"
            assert offset is not None, "a message has its place"
            if (topic, number) not in self._offsets.owned:
                continue  # it was asked back since: the next one reads it
            if self._offsets.goes_back((topic, number), offset):
                self._logs.pop(topic, None)  # it may have been made anew
            left.append((each, topic, number, offset))
        unknown = {topic for _, topic, _, _ in left} - set(self._logs)
        if unknown:
            self._logs.update(self._cluster.logs(sorted(unknown)))
        return [_message(each, topic, number, offset, self._logs[topic]) for each, topic, number, offset in left]

    def _fly(self, consumer: Consumer, flight: InFlightBatch) -> None:
        """Have messages handed on; returns once they are, or could not be."""
        self._flight = flight
        self._soon(self._send.send_nowait, flight)
        waited = flight.done.wait(MOMENT_S)
        while not waited:
            if self._stop.is_set():
                self._finish(flight)
                raise _StoppedError
            self._stand_by(consumer)
            waited = flight.done.wait(STEP_S)

    def _finish(self, flight: InFlightBatch) -> None:
        """A source that ends lets what is under way land, so that the next one does not read it again."""
        deadline_s = time.monotonic() + FINISH_S
        while not flight.done.wait(STEP_S) and time.monotonic() < deadline_s:
            self._soon(self._let_go, flight, flight.partitions)
        self._offsets.landed(flight)
        self._soon(flight.scope.cancel)
        self._flight = None

    def _stand_by(self, consumer: Consumer) -> None:
        """Be a living member of the group without reading on."""
        if not self._is_paused:
            self._is_paused = True
            consumer.pause(consumer.assignment())
        self._commit(consumer)
        message = consumer.poll(0)
        if message is not None:
            self._backlog.append(message)
        if not self._stop.is_set():
            self._check()

    def _resume(self, consumer: Consumer) -> None:
        if self._is_paused:
            self._is_paused = False
            consumer.resume(consumer.assignment())

    def _commit(self, consumer: Consumer) -> None:
        """Begin to tell the broker what is on disk, if it is not being told already."""
        offsets = self._offsets.send()
        if offsets:
            consumer.commit(offsets=_places(offsets), asynchronous=True)

    def _check(self) -> None:
        """Raise what the library said aside."""
        if self._stop.is_set():
            raise _StoppedError
        if not self._brokers <= self._judged or time.monotonic() - self._judged_s > JUDGE_S:
            self._judge_now(self._brokers)
        said = client.worst(self._errors)
        if said is not None and (said.fatal() or said.code() in client.TELLING):
            raise client.fault(said)
        if time.monotonic() - self._up_s > DOWN_S:
            raise client.fault(said) if said is not None else SourceFault("no broker can be reached")

    def _judge_now(self, brokers: frozenset[client.Broker]) -> None:
        try:
            trio.from_thread.run(self._judge, brokers)
        except (trio.RunFinishedError, trio.Cancelled):
            raise _StoppedError from None
        except ForbiddenAddressError as error:
            raise ForbiddenAddressError(f"the cluster names a broker that may not be called: {error}") from None
        self._judged, self._judged_s = brokers, time.monotonic()

    def _heed(self, error: KafkaError) -> None:
        """What stands in place of a message."""
        if error.code() in (KafkaError._PARTITION_EOF, KafkaError._MAX_POLL_EXCEEDED):
            log.info("kafka.notice", said=error.str())
        elif error.fatal() or (error.code() > 0 and not error.retriable()):
            raise client.fault(error)  # the broker's word; what the library says of connections may pass
        else:
            self._note(error)

    def _close(self, consumer: Consumer) -> None:
        """Say goodbye: what is on disk is committed as the partitions are given back."""
        try:
            consumer.close()
        except KafkaException as error:
            log.info("kafka.closed_badly", why=str(client.fault(error.args[0])))

    def _soon(self, call: Any, *arguments: Any) -> None:
        try:
            self._token.run_sync_soon(call, *arguments)
        except trio.RunFinishedError:
            self._stop.set()

    # --- called back by the library, in the thread, while it is asked ----------------------------------------

    def _note(self, error: KafkaError) -> None:
        self._errors = [*self._errors[-15:], error]

    def _measure(self, text: str) -> None:
        """Its statistics: who is connected, which brokers it knows, how far behind it is."""
        said = orjson.loads(text)
        if any(broker["state"] == "UP" for broker in said["brokers"].values()):
            self._up_s = time.monotonic()
            self._errors = []
        self._brokers = frozenset(client.named_brokers(said))
        lags = [
            part["consumer_lag"]
            for name, topic in said["topics"].items()
            for number, part in topic["partitions"].items()
            if (name, int(number)) in self._offsets.owned and part["consumer_lag"] >= 0
        ]
        self._soon(self._intake.report_lag, sum(lags))

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._settings.start == "latest":
            self._begin_at_the_end(consumer, partitions)
        consumer.incremental_assign(partitions)
        if self._is_paused and partitions:
            consumer.pause(partitions)
        self._offsets.own(_pair(each) for each in partitions)
        self._show()

    def _begin_at_the_end(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Where the group has no offset yet, begin with what comes. That place is committed as if it was read."""
        if not partitions:
            return
        for known, each in zip(consumer.committed(partitions, timeout=ASK_S), partitions, strict=True):
            if known.error is not None:
                raise KafkaException(known.error)
            if known.offset < NO_OFFSET:
                _, end = consumer.get_watermark_offsets(each, timeout=ASK_S)
                each.offset = end
                self._offsets.waiting[_pair(each)] = end

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Give partitions back: after what is under way, with the offsets of all that is on disk."""
        going = {_pair(each) for each in partitions}
        flight = self._flight
        if flight is not None and going & flight.partitions:
            self._await(flight, going)
            self._offsets.landed(flight)
        offsets = self._offsets.unsaid(going)
        self._offsets.lose(going)
        if offsets:
            try:
                consumer.commit(offsets=_places(offsets), asynchronous=False)
            except KafkaException as error:  # the next one reads them again, and knows them again
                log.info("kafka.not_committed", why=str(client.fault(error.args[0])))
        self._show()

    def _await(self, flight: InFlightBatch, going: set[Partition]) -> None:
        """Wait for what is under way, unless the node is full, or too slow: then it is given up."""
        deadline_s = time.monotonic() + HAND_OVER_S
        while not flight.done.wait(STEP_S):
            if self._stop.is_set() or time.monotonic() > deadline_s:
                self._soon(flight.give_up, going)
                flight.done.wait(HAND_OVER_S)
                return
            self._soon(self._let_go, flight, going)

    def _let_go(self, flight: InFlightBatch, going: set[Partition]) -> None:
        """In the event loop, where a node that is full is known to have been handed nothing."""
        if self._intake.held_up:
            flight.give_up(going)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Others read these partitions already: nothing of them is committed."""
        gone = {_pair(each) for each in partitions}
        log.info("kafka.partitions_lost", partitions=len(gone))
        if self._flight is not None and gone & self._flight.partitions:
            self._soon(self._flight.give_up, gone)
        self._offsets.lose(gone)
        self._show()

    def _committed(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        if error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            raise KafkaException(error)
        refused = [_pair(each) for each in partitions if error is not None or each.error is not None]
        self._offsets.answered(refused)

    def _show(self) -> None:
        if self._stop.is_set():
            return  # partitions that are given back at the end are no sign of life
        owned = self._offsets.owned
        topics = len({topic for topic, _ in owned})
        self._soon(self._intake.connected, f"{len(owned)} partitions of {topics} topics in group {self._group}")


def _parts(messages: Sequence[KafkaMessage]) -> list[list[KafkaMessage]]:
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


def _message(each: Message, topic: str, number: int, offset: int, named: str) -> KafkaMessage:
    kind, moment_ms = each.timestamp()
    headers: Any = each.headers() or ()
    return KafkaMessage(
        topic=topic,
        log=named,
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


def _pair(each: TopicPartition) -> Partition:
    return each.topic, each.partition


def _places(offsets: Any) -> list[TopicPartition]:
    return [TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()]
