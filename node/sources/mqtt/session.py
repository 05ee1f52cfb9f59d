"""One connection of a subscriber: messages are acknowledged once the events made of them are on disk, not before.

Three tasks: one reads packets, one submits messages in batches and acknowledges them, one keeps the connection alive.
The broker keeps what is unacknowledged in the session of this node's client id, and sends it again however the
connection ends. A node that is full stops reading: the broker waits.
"""

from functools import partial

import trio

from node.sources.intake import SourceFault, SourceIntake
from node.sources.mqtt import codec, reasons
from node.sources.mqtt.connection import BrokerConnection
from node.sources.mqtt.subscriptions import Subscriptions
from node.sources.mqtt.waiting import MessageQueue
from node.sources.settings.mqtt import MqttSourceSettings
from node.worker.parsing.mqtt_messages import MqttMessage, events_of


class MqttSession:
    """Reads one connection that the broker has accepted."""

    def __init__(
        self, intake: SourceIntake, settings: MqttSourceSettings, client_id: str, connection: BrokerConnection
    ) -> None:
        self._intake = intake
        self._settings = settings
        self._client_id = client_id
        self._connection = connection
        self._queue = MessageQueue(settings.receive_maximum)
        self._subscriptions = Subscriptions(intake, settings, client_id, connection)
        self._heard_s = trio.current_time()
        self._is_reading = True

    async def run(self, accepted: codec.Connected, early: list[codec.Packet]) -> None:
        """Subscribe and read until the connection ends or the source is stopped.

        Args:
            early: Packets that were read together with the broker's answer.

        Raises:
            SourceFault: The connection ended, in a group with the cancellation of the other tasks.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, early)
            nursery.start_soon(self._submit)
            nursery.start_soon(self._keep_alive, accepted.keep_alive_s)
            await self._subscriptions.establish(accepted.session_present, lambda: self._is_reading)
            session = "resumed" if accepted.session_present else "new"
            self._intake.connected(
                f"{self._settings.host}:{self._settings.port_or_default} as {self._client_id}, "
                f"MQTT {self._settings.protocol_version}, {session} session"
            )

    async def _read(self, packets: list[codec.Packet]) -> None:
        while True:
            for packet in packets:
                await self._handle(packet)
            completions = b"".join(
                codec.complete(each.packet_id) for each in packets if isinstance(each, codec.Released)
            )
            if completions:
                await self._connection.send(completions)
            self._is_reading = False
            await self._queue.wait_for_room()
            self._heard_s = trio.current_time()
            self._is_reading = True
            packets = await self._connection.receive()

    async def _handle(self, packet: codec.Packet) -> None:
        match packet:
            case codec.Published():
                self._queue.put(packet)
            case codec.SubscriptionAnswer():
                await self._subscriptions.answered(packet)
            case codec.Disconnected():
                raise SourceFault(f"the broker ended the connection: {reasons.reason(packet.code, packet.text)}")
            case codec.Connected():
                raise SourceFault("the broker violates MQTT: it sent CONNACK twice")
            case codec.Released() | codec.PingAnswer():
                pass  # all that were released are completed at once

    async def _submit(self) -> None:
        """Submit messages and acknowledge them, which no other task does: after ``take`` returned."""
        settings = self._settings
        while True:
            batch = await self._queue.gather()
            messages = [
                MqttMessage(topic=each.topic, payload=each.payload, properties=each.properties) for each in batch
            ]
            call = partial(events_of, messages, shape=settings.shape, topic_field=settings.topic_field)
            size = sum(len(each.payload) for each in messages)
            await self._intake.take(await self._intake.compute(call, size))
            acknowledgements = codec.acknowledge(batch)
            if acknowledgements:
                await self._connection.send(acknowledgements)

    async def _keep_alive(self, server_keep_alive_s: int | None) -> None:
        """Section 3.1.2.10: something is sent in every period; a broker that is silent for longer is gone."""
        period_s = self._settings.keep_alive_seconds if server_keep_alive_s is None else server_keep_alive_s
        if not period_s:
            return
        while True:
            await trio.sleep(period_s / 2)
            silent_s = trio.current_time() - self._heard_s
            if self._is_reading and silent_s > 1.5 * period_s:
                raise SourceFault(f"the broker has been silent for {silent_s:.0f} s")
            await self._connection.send(codec.PING)
