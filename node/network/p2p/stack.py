"""The libp2p host: noise over TCP and yamux, put together by hand, with what py-libp2p 0.8.1 leaves open closed.

``libp2p.new_host`` would also offer plaintext and secio, under which a peer can claim any identity; it has no
bound on what a connection may buffer; and each accepted connection would hold a task and one of its places until
the process ends. The classes here override those methods, through the places the library has for it.
"""

import math
import struct
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import trio
from libp2p.abc import IMuxedConn, IMuxedStream, INetStream, IRawConnection, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.exceptions import MultiselectError
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable
from libp2p.stream_muxer.yamux.yamux import HEADER_SIZE, TYPE_WINDOW_UPDATE, YAMUX_HEADER_FORMAT, Yamux
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.transport.exceptions import MuxerUpgradeFailure
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from node.network.p2p.fence import FencedTasks, PeerFence
from node.network.p2p.identities import identity_of
from node.runtime.containment import Quarantine
from protocols.messages import IdentityKey

CONNECTIONS_MAX: Final = 256
CONNECTIONS_OUTBOUND_MIN: Final = 64  # of them kept free for dialling out
STREAMS_PER_CONNECTION_MAX: Final = 64
CONNECTION_BUFFER_BYTES_MAX: Final = 20 * 1024 * 1024  # above the 16 MiB that yamux lets one stream's window grow to
GIVE_BACK_BYTES_MIN: Final = 64 * 1024  # a quarter of the smallest window
UPGRADE_S: Final = 8.0
READ_BYTES: Final = 128 * 1024


class BufferedConnection(IRawConnection):
    """A raw connection read in large chunks: noise asks for 2 bytes, then for a body, each time a system call."""

    def __init__(self, raw: IRawConnection) -> None:
        self.is_initiator = raw.is_initiator
        self._raw = raw
        self._buffer = b""
        self._taken = 0

    async def read(self, n: int | None = None) -> bytes:
        if self._taken == len(self._buffer):
            self._buffer, self._taken = await self._raw.read(READ_BYTES), 0
        end = len(self._buffer) if n is None else min(self._taken + n, len(self._buffer))
        data = self._buffer[self._taken : end]
        self._taken = end
        return data

    async def write(self, data: bytes) -> None:
        await self._raw.write(data)

    async def close(self) -> None:
        await self._raw.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._raw.get_remote_address()

    def get_transport_addresses(self) -> list[Multiaddr]:
        return self._raw.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        return self._raw.get_connection_type()


class BufferedNoise(NoiseTransport):
    """Noise over a buffered connection. Lets in members with secp256k1 identities: they are what signs here."""

    admits: Callable[[IdentityKey], bool]

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return await self._checked(await super().secure_inbound(BufferedConnection(conn)))

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        return await self._checked(await super().secure_outbound(BufferedConnection(conn), peer_id))

    async def _checked(self, secure: ISecureConn) -> ISecureConn:
        identity = identity_of(secure.get_remote_peer().to_bytes())
        if identity is None or not self.admits(identity):
            await secure.close()
            raise HandshakeFailure(
                "the peer's key must be a secp256k1 key" if identity is None else "the peer is not a member"
            )
        return secure


class BoundedYamux(Yamux):
    """Yamux that cuts a peer off which overruns its windows or opens streams without end.

    The library only logs a warning when a peer sends past its window, and keeps what it sent.
    """

    def __init__(self, conn: ISecureConn, peer_id: ID, is_initiator: bool) -> None:
        super().__init__(conn, peer_id, is_initiator=is_initiator)
        self._owed: dict[int, int] = {}  # by stream: window not yet given back

    async def _read_data_body(self, length: int) -> bytes:
        held = sum(map(len, self.stream_buffers.values()))
        if held + length > CONNECTION_BUFFER_BYTES_MAX:
            raise trio.TooSlowError(f"{held + length} bytes unread")  # the error that closes the connection
        return await super()._read_data_body(length)

    async def _write_frame(self, data: bytes) -> None:
        """Give the window back in large pieces: the library does after every read, and pubsub reads single bytes."""
        if len(data) == HEADER_SIZE:
            version, kind, flags, stream_id, increment = struct.unpack(YAMUX_HEADER_FORMAT, data)
            if kind == TYPE_WINDOW_UPDATE and flags == 0:
                owed = self._owed.pop(stream_id, 0) + increment
                if owed < GIVE_BACK_BYTES_MIN and stream_id in self.streams:
                    self._owed[stream_id] = owed
                    if len(self._owed) > STREAMS_PER_CONNECTION_MAX:
                        self._owed = {stream: held for stream, held in self._owed.items() if stream in self.streams}
                    return
                data = struct.pack(YAMUX_HEADER_FORMAT, version, kind, flags, stream_id, owed)
        await super()._write_frame(data)

    async def accept_stream(self) -> IMuxedStream:
        stream = await super().accept_stream()
        if len(self.streams) > STREAMS_PER_CONNECTION_MAX:
            raise MuxedConnUnavailable(f"{len(self.streams)} streams on one connection")
        return stream


class Upgrader(TransportUpgrader):
    """Takes ``BoundedYamux``: the library's own multistream has its yamux class built in."""

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        try:
            await self.muxer_multistream.select_transport(conn)
        except MultiselectError as error:
            raise MuxerUpgradeFailure("no muxer in common") from error
        return BoundedYamux(conn, peer_id, is_initiator=conn.is_initiator)


class QuietConnector(AutoConnector):
    """Never dials: the library's own would dial every address it ever learned."""

    async def maybe_connect(self) -> None:
        await trio.lowlevel.checkpoint()


class ReleasingSwarm(Swarm):
    """A swarm whose accepted connections give their place and their task back when they end, all of them fenced."""

    def __init__(
        self, peer_id: ID, peers: PeerStore, upgrader: TransportUpgrader, config: ConnectionConfig, fence: PeerFence
    ) -> None:
        self.fence = fence
        retries = RetryConfig(max_retries=0)  # the pauses between attempts are this package's
        super().__init__(peer_id, peers, upgrader, transports=[TCP()], retry_config=retries, connection_config=config)
        self.auto_connector = QuietConnector(self)

    @property
    def manager(self) -> Any:
        """What runs the tasks of this service: the reading of connections and of their streams."""
        return FencedTasks(super().manager, self.fence)

    def set_stream_handler(self, stream_handler: StreamHandlerFn) -> None:
        """Set what serves each stream that a peer opens: the choice of its protocol, then that protocol's handler."""

        async def serve(stream: INetStream) -> None:
            sender = identity_of(stream.muxed_conn.peer_id.to_bytes())
            ended = False
            with self.fence.contain("connection", sender):
                await stream_handler(stream)
                ended = True
            if not ended:
                with self.fence.contain("connection", sender):
                    await stream.reset()

        super().set_stream_handler(serve)

    async def _handle_inbound_connection(self, read_write_closer: ReadWriteCloser, maddr: Multiaddr) -> None:
        with self.fence.contain("connection", None, origin=str(read_write_closer.get_remote_address())):
            await super()._handle_inbound_connection(read_write_closer, maddr)

    async def upgrade_inbound_raw_conn(self, raw_conn: IRawConnection, maddr: Multiaddr) -> IMuxedConn:
        connection = await super().upgrade_inbound_raw_conn(raw_conn, maddr)
        assert isinstance(connection, Yamux), "no other muxer is on offer"
        await connection.event_closed.wait()
        raise SwarmException("the connection has ended")  # makes the caller release it


class Host(BasicHost):
    """A host that can also connect to an address without knowing who is there."""

    def __init__(self, swarm: ReleasingSwarm, announce: Sequence[Multiaddr]) -> None:
        super().__init__(
            swarm,
            announce_addrs=list(announce) or None,
            disable_identify_address_discovery=True,
            negotiate_timeout=math.ceil(UPGRADE_S),
        )
        self.swarm = swarm

    async def connect_unknown(self, address: Multiaddr) -> ID:
        """Connect and shake hands, which proves who is there; raises what libp2p raises."""
        raw = await TCP().dial(address)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(_close_shielded, raw)
            # the annotation says ID, the code takes None, and noise then accepts any proven identity
            secure = await self.swarm.upgrader.security_multistream.secure_outbound(raw, None)  # type: ignore[arg-type]
            peer_id = secure.get_remote_peer()
            if peer_id != self.get_id():
                await self.swarm.add_conn(await self.swarm.upgrader.upgrade_connection(secure, peer_id), "outbound")
                undo.pop_all()
        return peer_id


async def _close_shielded(raw: IRawConnection) -> None:
    """Close a connection also where its task is being cancelled."""
    with trio.CancelScope(shield=True):
        await raw.close()


def build_host(
    secret: bytes,
    announce: Sequence[Multiaddr],
    admits: Callable[[IdentityKey], bool] = lambda identity: True,
    fence: PeerFence | None = None,
) -> Host:
    """A host that does not listen yet, and lets in identities that ``admits`` accepts.

    Nothing in it dials on its own: this package decides which peers are dialled.
    """
    keys: KeyPair = create_new_key_pair(secret)
    peer_id = ID.from_pubkey(keys.public_key)
    peers = PeerStore()
    peers.add_key_pair(peer_id, keys)
    noise = BufferedNoise(keys, noise_privkey=create_noise_key_pair().private_key)
    noise.admits = admits
    upgrader = Upgrader({NOISE: noise}, {TProtocol(YAMUX): BoundedYamux}, negotiate_timeout=math.ceil(UPGRADE_S))
    config = ConnectionConfig(
        max_connections=CONNECTIONS_MAX,
        high_watermark=CONNECTIONS_MAX,
        low_watermark=CONNECTIONS_OUTBOUND_MIN,
        min_connections=CONNECTIONS_OUTBOUND_MIN,
        inbound_upgrade_timeout=UPGRADE_S,
        outbound_upgrade_timeout=UPGRADE_S,
        inbound_stream_protocol_negotiation_timeout=UPGRADE_S,
        outbound_stream_protocol_negotiation_timeout=UPGRADE_S,
    )
    return Host(ReleasingSwarm(peer_id, peers, upgrader, config, fence or PeerFence(Quarantine())), announce)
