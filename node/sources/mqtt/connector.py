"""Connects to a broker as a subscriber and reads it until the connection ends; the broker keeps the session."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from node.sources.intake import SourceConnector, SourceFault, SourceIntake
from node.sources.mqtt import codec, reasons
from node.sources.mqtt.connection import BrokerConnection, open_connection
from node.sources.mqtt.session import MqttSession
from node.sources.settings.mqtt import MqttSourceSettings
from protocols.errors import OverlayError
from protocols.messages import IdentityKey

ANSWER_S: Final = 20.0
DISCONNECT_S: Final = 1.0
CLIENT_ID_HEX: Final = 21  # with its prefix 23 characters, which every server takes (MQTT 3.1.1, section 3.1.3.1)


def connector(*, network: str, identity: IdentityKey) -> SourceConnector:
    """How sources of type ``mqtt`` are read by the node with this identity."""

    async def run(intake: SourceIntake) -> None:
        settings = intake.settings
        assert isinstance(settings, MqttSourceSettings), "settings are read by the source type"
        client_id = settings.client_id or default_client_id(network, intake.source_id, identity)
        connection = await open_connection(settings, intake.outbound_allowed)
        try:
            with _first_fault():
                accepted, early = await log_in(connection, settings, client_id)
                await MqttSession(intake, settings, client_id, connection).run(accepted, early)
        finally:
            with trio.CancelScope(shield=True):
                await _disconnect(connection)

    return SourceConnector(run=run)


def default_client_id(network: str, source_id: str, identity: IdentityKey) -> str:
    """Names a session: the same after a restart, another for every network, source and node."""
    parts = (network.encode(), source_id.encode(), identity)
    digest = hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts))
    return f"ov{digest.hexdigest()[:CLIENT_ID_HEX]}"


async def log_in(
    connection: BrokerConnection, settings: MqttSourceSettings, client_id: str
) -> tuple[codec.Connected, list[codec.Packet]]:
    """Send CONNECT. Returns the broker's answer, and packets that came in one read with it.

    Raises:
        SourceFault: The broker does not answer, or refuses.
    """
    login = codec.Login(
        client_id=client_id,
        keep_alive_s=settings.keep_alive_seconds,
        session_expiry_s=settings.session_expiry_seconds,
        receive_maximum=settings.receive_maximum,
        username=settings.username,
        password=None if settings.password is None else settings.password.get_secret_value(),
    )
    packets: list[codec.Packet] = []
    try:
        await connection.send(codec.connect(login, connection.version))
        with trio.fail_after(ANSWER_S):
            while not packets:
                packets += await connection.receive()
    except trio.TooSlowError:
        raise SourceFault("the broker does not answer; is its port one for TLS?") from None
    except SourceFault as fault:
        is_without_certificate = settings.tls is not None and not settings.tls.certificate_pem
        hint = "; it may require a certificate of this node" if is_without_certificate else ""
        raise SourceFault(f"before the broker accepted the connection: {fault}{hint}") from fault
    answer, *early = packets
    if not isinstance(answer, codec.Connected):
        raise SourceFault("the broker violates MQTT: its first packet is not CONNACK")
    if answer.code:
        reason = reasons.connection_refused(answer.code, connection.version, answer.text)
        raise SourceFault(f"the broker refuses the connection: {reason}")
    return answer, early


async def _disconnect(connection: BrokerConnection) -> None:
    """Send DISCONNECT if the connection still stands. The session stays."""
    try:
        with trio.move_on_after(DISCONNECT_S):
            await connection.send(codec.DISCONNECT_PACKET)
    except SourceFault:
        pass  # the connection is broken already
    finally:
        await connection.aclose()


@contextmanager
def _first_fault() -> Iterator[None]:
    """Raises the first fault of tasks that run together: it ended the others. Passes a cancellation on."""
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
