"""Reads an MQTT broker: messages are acknowledged once the events made of them are on disk, not before.

Three tasks: one reads packets, one hands messages on in batches and acknowledges them, one keeps the connection
alive. What is unacknowledged stays with the broker, in the session that bears this node's client id; whatever way
the connection ends, it comes again. A node that is full stops reading: the broker waits.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import trio

from node.sources.intake import SourceConnector, SourceFault, SourceIntake
from node.sources.mqtt import codec, reasons
from node.sources.mqtt.connection import BrokerConnection, open_connection
from node.sources.mqtt.waiting import Waiting
from node.sources.settings.mqtt import MqttSourceSettings
from node.worker.parsing.mqtt_messages import MqttMessage, events_of
from protocols.errors import OverlayError
from protocols.messages import IdentityKey

ANSWER_S: Final = 20.0
GOODBYE_S: Final = 1.0
CLIENT_ID_HEX: Final = 21  # with its prefix 23 characters, which every server takes (MQTT 3.1.1, section 3.1.3.1)


def connector(*, network: str, identity: IdentityKey) -> SourceConnector:
    """How sources of type ``mqtt`` are read by the node with this identity."""

    async def run(intake: SourceIntake) -> None:
        settings = intake.settings
        assert isinstance(settings, MqttSourceSettings), "the manager reads settings by the source's type"
        client_id = settings.client_id or default_client_id(network, intake.source_id, identity)
        link = await open_connection(settings, intake.outbound_allowed)
        try:
            with _one_fault():
                await _Subscription(intake, settings, client_id, link).run()
        finally:
            with trio.CancelScope(shield=True):
                await _leave(link)

    return SourceConnector(run=run)


def default_client_id(network: str, source_id: str, identity: IdentityKey) -> str:
    """Names a session: the same after a restart, another for every network, source and node."""
    parts = (network.encode(), source_id.encode(), identity)
    digest = hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts))
    return f"ov{digest.hexdigest()[:CLIENT_ID_HEX]}"


async def _leave(link: BrokerConnection) -> None:
    """Say goodbye where that can be said. The session stays."""
    try:
        with trio.move_on_after(GOODBYE_S):
            await link.send(codec.GOODBYE)
    except SourceFault:
        pass  # it is gone already
    finally:
        await link.aclose()


@contextmanager
def _one_fault() -> Iterator[None]:
    """The first fault of tasks that run together: it ended the others. None when they were to end anyway."""
    try:
        yield
    except BaseExceptionGroup as group:
        faults, others = group.split(OverlayError)
        if others is not None:
            raise others from None
        assert faults is not None, "a group has members"
        raise next(_leaves(faults)) from None


def _leaves(group: BaseExceptionGroup[OverlayError]) -> Iterator[OverlayError]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each


class _Subscription:
    """One connection, from CONNECT to its end."""

    def __init__(
        self, intake: SourceIntake, settings: MqttSourceSettings, client_id: str, link: BrokerConnection
    ) -> None:
        self._intake = intake
        self._settings = settings
        self._client_id = client_id
        self._link = link
        self._version: codec.Version = 5 if settings.protocol_version == "5" else 4
        self._waiting = Waiting(settings.receive_maximum)
        self._send_answer, self._answers = trio.open_memory_channel[codec.Answered](4)
        self._heard_s = trio.current_time()
        self._is_reading = True
        self._packet_id = 0

    async def run(self) -> None:
        early: list[codec.Packet] = []
        accepted = await self._connect(early)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, early)
            nursery.start_soon(self._hand_on)
            nursery.start_soon(self._keep_alive, accepted.keep_alive_s)
            await self._subscribe(accepted)
            session = "resumed" if accepted.session_present else "new"
            self._intake.connected(
                f"{self._settings.host}:{self._settings.port_or_default} as {self._client_id}, "
                f"MQTT {self._settings.protocol_version}, {session} session"
            )

    # --- connecting ----------------------------------------------------------------------------------------------

    async def _connect(self, early: list[codec.Packet]) -> codec.Connected:
        """``early``: gets what comes in one read with the answer."""
        settings = self._settings
        login = codec.Login(
            client_id=self._client_id,
            keep_alive_s=settings.keep_alive_seconds,
            session_expiry_s=settings.session_expiry_seconds,
            receive_maximum=settings.receive_maximum,
            username=settings.username,
            password=None if settings.password is None else settings.password.get_secret_value(),
        )
        try:
            await self._link.send(codec.connect(login, self._version))
            with trio.fail_after(ANSWER_S):
                while not early:
                    early += await self._link.receive()
        except trio.TooSlowError:
            raise SourceFault("the broker does not answer; is its port one for TLS?") from None
        except SourceFault as fault:
            is_bare = settings.tls is not None and not settings.tls.certificate_pem
            hint = "; it may want a certificate of this node" if is_bare else ""
            raise SourceFault(f"before the broker took the connection: {fault}{hint}") from fault
        answer = early.pop(0)
        if not isinstance(answer, codec.Connected):
            raise SourceFault("the broker does not keep to MQTT: its first packet is no answer")
        if answer.code:
            why = reasons.connection_refused(answer.code, self._version, answer.text)
            raise SourceFault(f"the broker refuses the connection: {why}")
        return answer

    async def _subscribe(self, accepted: codec.Connected) -> None:
        """Have the session subscribe to what the settings say, and to nothing else.

        The mark names what it may be subscribed to: a filter that was taken out of the settings goes.
        """
        wanted = self._settings.topics
        held = self._held() if accepted.session_present else frozenset()
        if not held.issuperset(wanted):
            await self._remember(held.union(wanted))
        packet = codec.subscribe(self._next_id(), wanted, self._settings.qos, self._version)
        self._judge(wanted, await self._answer(packet))
        gone = sorted(held.difference(wanted))
        if gone:
            await self._answer(codec.unsubscribe(self._next_id(), gone, self._version))
        if self._held() != frozenset(wanted):
            await self._remember(wanted)

    def _held(self) -> frozenset[str]:
        mark = self._intake.position or {}
        return frozenset(mark.get("filters", ())) if mark.get("clientId") == self._client_id else frozenset()

    async def _remember(self, filters: Iterable[str]) -> None:
        await self._intake.take([], position={"clientId": self._client_id, "filters": sorted(filters)})

    async def _answer(self, packet: bytes) -> tuple[int, ...]:
        await self._link.send(packet)
        while True:
            with trio.move_on_after(ANSWER_S):
                while (answer := await self._answers.receive()).packet_id != self._packet_id:
                    pass
                return answer.codes
            if self._is_reading:  # otherwise the answer may be behind messages that wait for the node
                raise SourceFault("the broker does not answer a subscription")

    def _judge(self, filters: tuple[str, ...], codes: tuple[int, ...]) -> None:
        for topic_filter, code in zip(filters, codes, strict=False):
            if code >= reasons.REFUSED_FROM:
                raise SourceFault(f"the broker refuses the subscription to {topic_filter}: {reasons.reason(code)}")
        if len(codes) != len(filters):
            raise SourceFault("the broker does not keep to MQTT: its answer fits no subscription")

    def _next_id(self) -> int:
        self._packet_id += 1
        return self._packet_id

    # --- reading -------------------------------------------------------------------------------------------------

    async def _read(self, packets: list[codec.Packet]) -> None:
        while True:
            for packet in packets:
                await self._receive(packet)
            released = b"".join(
                codec.complete(each.packet_id) for each in packets if isinstance(each, codec.Released)
            )
            if released:
                await self._link.send(released)
            self._is_reading = False
            await self._waiting.room()
            self._heard_s = trio.current_time()
            self._is_reading = True
            packets = await self._link.receive()

    async def _receive(self, packet: codec.Packet) -> None:
        match packet:
            case codec.Published():
                self._waiting.put(packet)
            case codec.Answered():
                await self._send_answer.send(packet)
            case codec.Left():
                raise SourceFault(f"the broker ended the connection: {reasons.reason(packet.code, packet.text)}")
            case codec.Connected():
                raise SourceFault("the broker does not keep to MQTT: it answers the connection twice")
            case codec.Released() | codec.Pong():
                pass  # all that were released are answered at once

    async def _hand_on(self) -> None:
        """The one place that acknowledges: after ``take`` returned."""
        settings = self._settings
        while True:
            batch = await self._waiting.gather()
            messages = [
                MqttMessage(topic=each.topic, payload=each.payload, properties=each.properties) for each in batch
            ]
            call = partial(events_of, messages, shape=settings.shape, topic_field=settings.topic_field)
            await self._intake.take(await self._intake.compute(call))
            acknowledgements = codec.acknowledge(batch)
            if acknowledgements:
                await self._link.send(acknowledgements)

    async def _keep_alive(self, asked_for_s: int | None) -> None:
        """Section 3.1.2.10: something is sent in every period; a broker that stays silent for longer is gone."""
        period_s = self._settings.keep_alive_seconds if asked_for_s is None else asked_for_s
        if not period_s:
            return
        while True:
            await trio.sleep(period_s / 2)
            silent_s = trio.current_time() - self._heard_s
            if self._is_reading and silent_s > 1.5 * period_s:
                raise SourceFault(f"the broker has said nothing for {silent_s:.0f} s")
            await self._link.send(codec.PING)
