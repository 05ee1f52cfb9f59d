"""What a session is subscribed to: the topic filters of the settings, and no others."""

from collections.abc import Callable, Iterable
from typing import Final

import trio

from node.sources.intake import SourceFault, SourceIntake
from node.sources.mqtt import codec, reasons
from node.sources.mqtt.connection import BrokerConnection
from node.sources.settings.mqtt import MqttSourceSettings

ANSWER_S: Final = 20.0


class Subscriptions:
    """The subscriptions of one session, which outlives its connections.

    The saved position names the filters that the session may be subscribed to, so that one which is taken out of the
    settings is unsubscribed.
    """

    def __init__(
        self, intake: SourceIntake, settings: MqttSourceSettings, client_id: str, connection: BrokerConnection
    ) -> None:
        self._intake = intake
        self._settings = settings
        self._client_id = client_id
        self._connection = connection
        self._send_answer, self._answers = trio.open_memory_channel[codec.SubscriptionAnswer](4)
        self._packet_id = 0

    async def establish(self, session_present: bool, is_reading: Callable[[], bool]) -> None:
        """Subscribe to the filters of the settings, and unsubscribe from all others.

        Args:
            session_present: Whether the broker resumed a session.
            is_reading: Whether packets are being read: where they are not, answers cannot arrive.

        Raises:
            SourceFault: The broker refuses a subscription, or does not answer.
        """
        wanted = self._settings.topics
        held = self._held() if session_present else frozenset()
        if not held.issuperset(wanted):
            await self._save(held.union(wanted))
        options = self._settings.qos, self._connection.version
        _check(wanted, await self._request(codec.subscribe(self._next_id(), wanted, *options), is_reading))
        gone = sorted(held.difference(wanted))
        if gone:
            await self._request(codec.unsubscribe(self._next_id(), gone, self._connection.version), is_reading)
        if self._held() != frozenset(wanted):
            await self._save(wanted)

    async def answered(self, packet: codec.SubscriptionAnswer) -> None:
        """An answer came."""
        await self._send_answer.send(packet)

    def _held(self) -> frozenset[str]:
        position = self._intake.position or {}
        is_same_session = position.get("clientId") == self._client_id
        return frozenset(position.get("filters", ())) if is_same_session else frozenset()

    async def _save(self, filters: Iterable[str]) -> None:
        await self._intake.take([], position={"clientId": self._client_id, "filters": sorted(filters)})

    async def _request(self, packet: bytes, is_reading: Callable[[], bool]) -> tuple[int, ...]:
        """Send a packet of the latest id. Returns the codes of its answer."""
        await self._connection.send(packet)
        while True:
            with trio.move_on_after(ANSWER_S):
                while (answer := await self._answers.receive()).packet_id != self._packet_id:
                    pass
                return answer.codes
            if is_reading():  # otherwise the answer may be behind messages that wait for the node
                raise SourceFault("the broker does not answer a subscription")

    def _next_id(self) -> int:
        self._packet_id += 1
        return self._packet_id


def _check(filters: tuple[str, ...], codes: tuple[int, ...]) -> None:
    for topic_filter, code in zip(filters, codes, strict=False):
        if code >= reasons.REFUSED_FROM:
            raise SourceFault(f"the broker refuses the subscription to {topic_filter}: {reasons.reason(code)}")
    if len(codes) != len(filters):
        raise SourceFault(
            f"the broker violates MQTT: it answered {len(filters)} topic filters with {len(codes)} codes"
        )
