"""The connection to a broker: to a checked address, under the broker's name, packet by packet."""

import os
import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from typing import Final

import httpx
import trio

from node.runtime.guarded_network import resolve
from node.sources.intake import SourceFault
from node.sources.mqtt import codec
from node.sources.settings.mqtt import MqttSourceSettings, MqttTls
from protocols.errors import PeerFault

CONNECT_S: Final = 10.0  # for the connection, and as much again for TLS
SEND_S: Final = 30.0
CHUNK_BYTES: Final = 16 * 1024  # 2,000 of the smallest messages: 8 ms
CA_BYTES_MAX: Final = 1024 * 1024


class BrokerConnection:
    """Packets to and from a broker. Any task may send, one receives; failures are ``SourceFault``s."""

    def __init__(self, stream: trio.abc.Stream, version: codec.Version) -> None:
        self.version: codec.Version = version
        self._stream = stream
        self._reader = codec.PacketReader(version)
        self._sending = trio.Lock()
        self._is_torn = False  # a packet was sent in part: further bytes would be read as the rest of it

    async def send(self, packets: bytes) -> None:
        async with self._sending:
            if self._is_torn:
                raise SourceFault("the connection to the broker broke")
            self._is_torn = True
            try:
                with trio.fail_after(SEND_S):
                    await self._stream.send_all(packets)
            except trio.TooSlowError:
                raise SourceFault(f"the broker has accepted no data for {SEND_S:.0f} s") from None
            except (trio.BrokenResourceError, OSError) as error:
                raise SourceFault(f"the connection to the broker broke: {_cause(error)}") from error
            self._is_torn = False

    async def receive(self) -> list[codec.Packet]:
        """The packets that came next; none while one is incomplete."""
        try:
            data = bytes(await self._stream.receive_some(CHUNK_BYTES))
        except (trio.BrokenResourceError, OSError) as error:
            raise SourceFault(f"the connection to the broker broke: {_cause(error)}") from error
        if not data:
            raise SourceFault("the broker closed the connection (perhaps for a second client under the same id)")
        try:
            return self._reader.feed(data)
        except PeerFault as error:
            raise SourceFault(f"the broker violates MQTT: {error}") from error

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)


async def open_connection(
    settings: MqttSourceSettings, allowed: Sequence[IPv4Network | IPv6Network]
) -> BrokerConnection:
    """Connect to the broker.

    Raises:
        ForbiddenAddressError: The host resolves to an address that this node may not call.
        SourceFault: The broker cannot be reached, or its certificate is not accepted.
    """
    stream = await _connected(settings, allowed)
    if settings.tls is not None:
        async with AsyncExitStack() as undo:
            undo.push_async_callback(trio.aclose_forcefully, stream)
            stream = await _secured(stream, settings.tls, settings.tls.server_name or settings.host)
            undo.pop_all()
    return BrokerConnection(stream, 5 if settings.protocol_version == "5" else 4)


async def _connected(settings: MqttSourceSettings, allowed: Sequence[IPv4Network | IPv6Network]) -> trio.abc.Stream:
    place = f"{settings.host}:{settings.port_or_default}"
    try:
        addresses = await resolve(settings.host, settings.port_or_default, allowed)
        with trio.fail_after(CONNECT_S):
            for address in addresses[:-1]:
                with suppress(OSError):
                    return await trio.open_tcp_stream(str(address), settings.port_or_default)
            return await trio.open_tcp_stream(str(addresses[-1]), settings.port_or_default)
    except trio.TooSlowError:
        raise SourceFault(f"{place} does not answer") from None
    except OSError as error:
        raise SourceFault(f"{place} cannot be reached: {_cause(error)}") from error


async def _secured(stream: trio.abc.Stream, tls: MqttTls, name: str) -> trio.abc.Stream:
    context = await trio.to_thread.run_sync(partial(tls_context, tls))  # reading the authorities takes 15 ms
    secured = trio.SSLStream(stream, context, server_hostname=name, https_compatible=True)
    try:
        with trio.fail_after(CONNECT_S):
            await secured.do_handshake()
    except trio.TooSlowError:
        raise SourceFault(f"TLS with {name}: the broker does not answer; is its port one for TLS?") from None
    except (trio.BrokenResourceError, OSError) as error:
        raise SourceFault(f"TLS with {name}: {_cause(error)}") from error
    return secured


def tls_context(tls: MqttTls) -> ssl.SSLContext:
    """The TLS context for the settings. Blocks.

    Raises:
        SourceFault: The certificates or the key cannot be used.
    """
    if not tls.ca_pem:
        context = httpx.create_ssl_context(trust_env=False)
    else:
        try:
            context = ssl.create_default_context(cadata=tls.ca_pem)
        except ssl.SSLError:
            raise SourceFault("tls: caPem must hold certificates in PEM") from None
    if tls.certificate_pem and tls.key_pem is not None:
        _load_client_certificate(context, tls.certificate_pem, tls.key_pem.get_secret_value())
    return context


def _load_client_certificate(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Python reads keys from files only: this file has no name and never reaches a disk."""
    descriptor = os.memfd_create("mqtt-client")
    with os.fdopen(descriptor, "wb") as held:
        held.write(f"{certificate}\n{key}\n".encode())
        held.flush()
        try:
            context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=b"")  # never prompts at the terminal
        except (ssl.SSLError, ValueError):
            raise SourceFault(
                "tls: certificatePem and keyPem must belong together, and the key must not be encrypted"
            ) from None


def _cause(error: BaseException) -> str:
    """The innermost reason: trio states only that something broke, or that no attempt succeeded."""
    while True:
        inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
        if inner is None:
            break
        error = inner
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate is not accepted: {error.verify_message}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno) if error.errno > 0 else error.strerror or type(error).__name__
    return str(error) or type(error).__name__
