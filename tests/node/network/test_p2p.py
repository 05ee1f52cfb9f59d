"""The network over real libp2p on loopback; where a peer has to die, it has a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils import encode_varint_prefixed
from multiaddr import Multiaddr

from node.network.p2p import ListenError, TransportConfig, open_transport
from node.network.p2p.connector import LINK_ERRORS, usable_address
from node.network.p2p.faults import STRIKES_MAX
from node.network.p2p.inbound import INBOUND_BYTES_MAX
from node.network.p2p.links import FRAME_COST, QUEUE_BYTES_MAX, WINDOW
from node.network.p2p.network import PeerNetwork
from node.network.p2p.stack import Host, build_host
from node.network.p2p.streams import Wire
from node.network.transport import PeerUnreachableError, Transport
from protocols.errors import ClientFault, FrameTooLargeError
from protocols.framing import COMPRESSED, FrameKind, encode_frame
from protocols.keys import PrivateKey
from protocols.limits import FRAME_BYTES_MAX, GOSSIP_BYTES_MAX

SECRETS = count(1)
ROOT = Path(__file__).parents[3]
WORK = TProtocol("/test/jobs/1")


def secret() -> bytes:
    return next(SECRETS).to_bytes(32, "big")


async def answer(sender: bytes, body: bytes) -> bytes:
    if body == b"refuse":
        raise ClientFault("not for you")
    if body == b"stall":
        await trio.sleep_forever()
    return sender + body


@asynccontextmanager
async def node(*bootstrap: str, key: bytes | None = None, **settings: Any) -> AsyncIterator[PeerNetwork]:
    config = TransportConfig(
        secret=key or secret(), network="test", topics=("jobs",), bootstrap=bootstrap, redial_s_max=1.0, **settings
    )
    async with open_transport(config, answer) as network:
        yield network


async def until(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    with trio.fail_after(within_s):
        while not holds():
            await trio.sleep(0.02)


async def connected(network: Transport, *peers: bytes) -> None:
    await until(lambda: {view.identity for view in network.peers() if view.connected} >= set(peers))


async def asked(network: Transport, peer: bytes, within_s: float = 10.0) -> bytes:
    """Ask until there is an answer: frames may be lost, and are, when a peer dies."""
    with trio.fail_after(within_s):
        while True:
            try:
                return await network.request(peer, b"hello", 1.0)
            except PeerUnreachableError:
                await trio.sleep(0.05)


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[PeerNetwork, PeerNetwork]]:
    async with node() as first, node(first.addresses[0]) as second:
        await connected(first, second.identity)
        await connected(second, first.identity)
        yield first, second


# --- what it is for --------------------------------------------------------------------------------------------


async def test_a_peer_is_its_identity_key() -> None:
    key = secret()
    async with node(key=key) as network:
        transport: Transport = network
        assert transport.identity == PrivateKey.from_bytes(key).identity
        assert all("/p2p/16Uiu2" in address for address in transport.addresses)


async def test_requests_both_ways_and_at_once() -> None:
    async with pair() as (first, second):
        answers: dict[int, bytes] = {}

        async def ask(number: int) -> None:
            asker, asked_one = (first, second) if number % 2 else (second, first)
            body = os.urandom(number * 1_000)
            answers[number] = await asker.request(asked_one.identity, body, 5.0)
            assert answers[number] == asker.identity + body

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(ask, number)
        assert len(answers) == 40


async def test_frames_arrive_in_order_large_ones_too() -> None:
    frames = [os.urandom(size) for size in (1, 100, 6_000_000, 0, 70_000, 65_000, 3)] + [bytes(FRAME_BYTES_MAX)]
    async with pair() as (first, second):
        async with trio.open_nursery() as nursery:

            async def send_all() -> None:
                for frame in frames:
                    await first.send(second.identity, frame)

            nursery.start_soon(send_all)
            for frame in frames:
                delivery = await second.inbound().receive()
                assert delivery.sender == first.identity
                assert delivery.frame == frame
        with pytest.raises(FrameTooLargeError):
            await first.send(second.identity, bytes(FRAME_BYTES_MAX + 1))


async def test_failures_of_a_request_have_one_error() -> None:
    async with pair() as (first, second):
        with pytest.raises(PeerUnreachableError, match="invalid-request"):
            await first.request(second.identity, b"refuse", 5.0)
        with pytest.raises(PeerUnreachableError, match="no answer"):
            await first.request(second.identity, b"stall", 0.1)
        with pytest.raises(PeerUnreachableError, match="not known"):
            await first.request(b"\2" * 33, b"", 0.1)


async def test_gossip_passes_along_a_line() -> None:
    async with node() as first, node(first.addresses[0]) as middle, node(middle.addresses[0]) as last:
        await connected(middle, first.identity, last.identity)
        with trio.fail_after(10):
            while True:  # the mesh takes a heartbeat or two to stand
                await first.publish("jobs", b"news")
                with trio.move_on_after(0.5):
                    heard = await last.gossip().receive()
                    break
        assert (heard.topic, heard.sender, heard.data) == ("jobs", first.identity, b"news")
        assert (await middle.gossip().receive()).sender == first.identity
        with pytest.raises(trio.WouldBlock):
            first.gossip().receive_nowait()
        with pytest.raises(FrameTooLargeError):
            await first.publish("jobs", bytes(GOSSIP_BYTES_MAX + 1))


async def test_peers_learn_of_each_other_from_what_they_are_told() -> None:
    async with node() as first, node() as second:
        second.learn(first.identity, ["/ip4/127.0.0.1/udp/9/quic", "nonsense", *first.addresses])
        await connected(first, second.identity)
        assert await asked(first, second.identity) == first.identity + b"hello"
        second.forget(first.identity)
        second.learn(second.identity, second.addresses)
        assert [view.identity for view in second.peers()] == [first.identity]


def test_addresses_of_others_are_not_dialled_as_theirs() -> None:
    mine, other = (PrivateKey.from_bytes(secret()).identity for _ in range(2))
    named = usable_address("/ip4/10.0.0.1/tcp/9", mine)
    assert named is not None
    assert usable_address(named, mine) == named
    assert usable_address(named, other) is None
    for useless in (
        "",
        "/ip4/10.0.0.1",
        "/ip4/10.0.0.1/udp/9",
        "/ip4/10.0.0.1/tcp/9/ws",
        "/unix/tmp",
        "/ip4/0.0.0.0/tcp/9",
        "x" * 9_000,
    ):
        assert usable_address(useless, mine) is None


async def test_a_port_that_is_taken_is_refused() -> None:
    async with node() as first:
        with pytest.raises(ListenError):
            async with node(listen=(first.addresses[0].split("/p2p/")[0],)):
                pytest.fail("two nodes on one port")


async def test_a_wildcard_is_listened_on_and_not_told() -> None:
    async with node(listen=("/ip4/0.0.0.0/tcp/0",)) as silent:
        assert silent.addresses == ()
    async with node(listen=("/ip4/0.0.0.0/tcp/0",), announce=("/dns4/node.example/tcp/4001",)) as telling:
        (address,) = telling.addresses
        assert address.startswith("/dns4/node.example/tcp/4001/p2p/16Uiu2")


# --- peers that die and come back ------------------------------------------------------------------------------


@asynccontextmanager
async def process(key: bytes, listen: str, *bootstrap: str) -> AsyncIterator[tuple[subprocess.Popen[bytes], str]]:
    command = [sys.executable, str(ROOT / "tests/node/p2p_peer.py"), key.hex(), listen, *bootstrap]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(  # noqa: ASYNC220
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert child.stdout is not None
    try:
        address = await trio.to_thread.run_sync(child.stdout.readline)
        assert address, child.stderr and child.stderr.read()
        yield child, address.decode().strip()
    finally:
        child.kill()
        child.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("who_dials", ["survivor", "restarted", "survivor, without its peer id"])
async def test_a_killed_peer_is_reached_again(who_dials: str) -> None:
    key = secret()
    peer = PrivateKey.from_bytes(key).identity
    async with node() as plain, process(key, "/ip4/127.0.0.1/tcp/0", plain.addresses[0]) as (child, address):
        listen = address.split("/p2p/")[0]
        bootstrap = {"survivor": (address,), "restarted": ()}.get(who_dials, (listen,))
        async with node(*bootstrap) as survivor:
            if who_dials == "restarted":
                plain, survivor = survivor, plain
            assert await asked(survivor, peer) == survivor.identity + b"hello"
            child.send_signal(signal.SIGKILL)
            child.wait()
            await until(lambda: not any(view.connected for view in survivor.peers()))
            await trio.sleep(1.5)
            calls = [survivor.addresses[0]] if who_dials == "restarted" else []
            async with process(key, listen, *calls):
                began_s = time.monotonic()
                assert await asked(survivor, peer) == survivor.identity + b"hello"
                await survivor.send(peer, b"ping")
                with trio.fail_after(5):
                    assert (await survivor.inbound().receive()).frame == b"back:ping"
                assert time.monotonic() - began_s < 5


@pytest.mark.slow
async def test_a_bootstrap_peer_that_comes_late_is_found() -> None:
    async with node() as scout:
        address = scout.addresses[0].split("/p2p/")[0]
    async with node(address, "/ip4/127.0.0.1/tcp/9") as early:
        await trio.sleep(1.0)
        async with node(listen=(address,)) as late:
            await connected(early, late.identity)
            assert await asked(late, early.identity) == late.identity + b"hello"


@pytest.mark.slow
async def test_a_node_leaves_in_silence_and_soon() -> None:
    async with node() as survivor, process(secret(), "/ip4/127.0.0.1/tcp/0", survivor.addresses[0]) as (child, _):
        await until(lambda: any(view.connected for view in survivor.peers()))
        began_s = time.monotonic()
        _, errors = await trio.to_thread.run_sync(child.communicate)
        assert (child.returncode, errors) == (0, b"")
        assert time.monotonic() - began_s < 5


async def test_a_silent_peer_is_hung_up_on() -> None:
    """A host that speaks libp2p but none of our protocols, or whose process has stopped, says nothing."""
    async with node(silence_s=0.6) as network, attacker(network) as host:
        await until(lambda: bool(host.get_connected_peers()))
        await until(lambda: not host.get_connected_peers(), within_s=5)
        assert network.faults.count(identity(host)) == 0


# --- peers that mean harm --------------------------------------------------------------------------------------


def identity(host: Host) -> bytes:
    return host.get_id().to_bytes()[-33:]


@asynccontextmanager
async def attacker(victim: PeerNetwork) -> AsyncIterator[Host]:
    """A libp2p host that does what the test says, connected to the victim."""
    host = build_host(secret(), ())
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        await host.connect(there(victim))
        yield host


def there(victim: PeerNetwork) -> PeerInfo:
    return info_from_p2p_addr(Multiaddr(victim.addresses[0]))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


async def serves(network: PeerNetwork) -> None:
    async with node(network.addresses[0]) as honest:
        assert await asked(honest, network.identity) == honest.identity + b"hello"


async def test_garbage_on_the_port_disturbs_nobody() -> None:
    async with node() as network:
        port = int(network.addresses[0].split("/")[4])
        for size in (0, 1, 100, 300_000):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            with suppress(trio.BrokenResourceError):
                await stream.send_all(os.urandom(size))
            await stream.aclose()
        await serves(network)
        assert not any(view.connected and view.addresses for view in network.peers())


@pytest.mark.parametrize("protocol", ["/plaintext/2.0.0", "/secio/1.0.0", "/tls/1.0.0"])
async def test_nothing_but_noise_is_spoken(protocol: str) -> None:
    """Under plaintext anybody could claim to be anybody."""
    async with node() as network:
        stream = await trio.open_tcp_stream("127.0.0.1", int(network.addresses[0].split("/")[4]))
        for line in ("/multistream/1.0.0", protocol):
            await stream.send_all(bytes((len(line) + 1,)) + line.encode() + b"\n")
        heard = b""
        with trio.fail_after(5):
            while b"na\n" not in heard:
                heard += await stream.receive_some()
                assert protocol.encode() not in heard
        await stream.aclose()


BOMB = bytes.fromhex("28b52ffda0000000c0") + bytes(64)  # a zstd frame that says it holds 3 GiB
HARMFUL = {
    "garbage": os.urandom(10_000) + b"\xff" * 4,
    "a frame of 3 GB": (3 * 2**30).to_bytes(4, "big") + bytes(1_000),
    "an unknown kind": b"\0\0\0\2\x7f!",
    "a zstd bomb": (len(BOMB) + 1).to_bytes(4, "big") + bytes((FrameKind.ONEWAY | COMPRESSED,)) + BOMB,
    "credit that nobody asked for": encode_frame(FrameKind.CREDIT, bytes(8)),
}


@pytest.mark.parametrize("harm", HARMFUL)
async def test_a_peer_that_sends_harm_is_struck(harm: str) -> None:
    async with node() as network, attacker(network) as host:
        before = resident_bytes()
        wire = Wire(await host.new_stream(there(network).peer_id, [WORK]))
        await wire.write(HARMFUL[harm])
        await until(lambda: network.faults.count(identity(host)) > 0)
        assert resident_bytes() - before < 50_000_000
        await serves(network)


async def test_a_peer_that_goes_on_is_ignored() -> None:
    async with node() as network, attacker(network) as host:
        for _ in range(STRIKES_MAX):
            network.strike(identity(host), "test")
        await until(lambda: not host.get_connected_peers())
        with pytest.raises(PeerUnreachableError, match="ignored"):
            await network.send(identity(host), b"")
        await serves(network)


@pytest.mark.slow
async def test_a_peer_that_outruns_its_credit_is_cut_off() -> None:
    frame = encode_frame(FrameKind.ONEWAY, os.urandom(1_000_000))
    async with node() as network, attacker(network) as host:
        wire = Wire(await host.new_stream(there(network).peer_id, [WORK]))
        before = resident_bytes()
        written = 0
        with suppress(*LINK_ERRORS):
            while written < 1_000_000_000:
                await wire.write(frame)
                written += len(frame)
        assert network.faults.count(identity(host)) > 0
        assert written < INBOUND_BYTES_MAX + WINDOW + 30_000_000
        assert resident_bytes() - before < INBOUND_BYTES_MAX + WINDOW + 100_000_000


def rpc(**fields: Any) -> bytes:
    return encode_varint_prefixed(rpc_pb2.RPC(publish=[rpc_pb2.Message(**fields)]).SerializeToString())


async def test_harmful_gossip_does_not_stop_the_service() -> None:
    """In the library an exception over one message ends the whole service."""
    async with node() as network, attacker(network) as host:
        proper: dict[str, Any] = {
            "topicIDs": ["/test/jobs/1"],
            "seqno": bytes(8),
            "from_id": host.get_id().to_bytes(),
        }
        not_a_point = host.get_id().to_bytes()[:7] + b"\xff" * 32
        harmful = [
            encode_varint_prefixed(os.urandom(500)),
            rpc(**proper, data=b"unsigned"),
            rpc(**proper, data=bytes(GOSSIP_BYTES_MAX + 1), signature=b"s"),
            rpc(**{**proper, "from_id": b"\x12\x20" + bytes(32)}, key=b"\xff", signature=b"s"),
            rpc(**{**proper, "from_id": not_a_point}, key=not_a_point[2:], signature=b"s"),
            rpc(**proper, key=b"\xff" * 9, signature=b"s"),
            rpc(**{**proper, "seqno": b""}, signature=b"s"),
            encode_varint_prefixed(
                rpc_pb2.RPC(
                    control=rpc_pb2.ControlMessage(ihave=[rpc_pb2.ControlIHave(messageIDs=[b"x"])])
                ).SerializeToString()
            ),
            b"\xff" * 12,
        ]
        for data in harmful:
            stream = await host.new_stream(there(network).peer_id, [PROTOCOL_ID_V11])
            await stream.write(data)
            await trio.sleep(0.05)
        assert network.faults.count(identity(host)) >= 4
        async with node(network.addresses[0]) as honest:
            await connected(honest, network.identity)
            with trio.fail_after(10):
                while True:
                    await honest.publish("jobs", b"still here")
                    with trio.move_on_after(0.5):
                        heard = await network.gossip().receive()
                        break
            assert (heard.sender, heard.data) == (honest.identity, b"still here")


# --- bounds ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_slow_reader_holds_the_sender_back_and_loses_nothing() -> None:
    size, sent = 1_000_000, 0
    async with pair() as (first, second):
        with trio.move_on_after(20):
            while True:
                with trio.move_on_after(1.0) as stuck:
                    await first.send(second.identity, sent.to_bytes(4, "big") + os.urandom(size))
                if stuck.cancelled_caught:
                    break
                sent += 1
        (view,) = first.peers()
        assert view.connected, "a slow reader is no reason to hang up"
        assert view.queued * size <= QUEUE_BYTES_MAX + 2 * size
        assert sent * size <= INBOUND_BYTES_MAX + WINDOW + QUEUE_BYTES_MAX + 4 * size
        assert await asked(first, second.identity), "requests get through"
        for number in range(sent):
            with trio.fail_after(5):
                delivery = await second.inbound().receive()
            assert int.from_bytes(delivery.frame[:4], "big") == number


@pytest.mark.slow
async def test_a_peer_that_takes_nothing_holds_nobody_else_up() -> None:
    """It says that it lives and gives no credit: whoever sends to many in turn waits for it once, not every time."""
    frame = os.urandom(1_000_000)

    async def swallow(stream: INetStream) -> None:
        with suppress(*LINK_ERRORS):
            while True:
                await Wire(stream).read()

    async with node() as network, attacker(network) as host:
        host.set_stream_handler(WORK, swallow)
        with trio.fail_after(30):
            while True:
                try:
                    await network.send(identity(host), frame)
                except PeerUnreachableError as error:
                    if "takes no more" in str(error):
                        break
                    await trio.sleep(0.05)
        with trio.fail_after(1.0):
            for _ in range(20):
                with pytest.raises(PeerUnreachableError, match="takes no more"):
                    await network.send(identity(host), frame)
        await serves(network)


async def test_an_ended_connection_gives_its_place_back() -> None:
    async with node() as network:
        swarm = network._links._connector._swarm
        for _ in range(4):
            async with node(network.addresses[0]) as guest:
                await connected(network, guest.identity)
                await connected(guest, network.identity)
        await until(lambda: swarm._inbound_limiter.borrowed_tokens == 0)
        await until(lambda: network.peers() == ())


def test_the_window_holds_the_largest_frame() -> None:
    assert len(encode_frame(FrameKind.ONEWAY, os.urandom(8 * 1024 * 1024 - 1))) + FRAME_COST < WINDOW


async def test_only_members_are_let_in() -> None:
    keys = [secret() for _ in range(3)]
    first, second, stranger = (PrivateKey.from_bytes(key).identity for key in keys)
    members = frozenset({first, second})
    async with (
        node(key=keys[0], members=members) as host,
        node(host.addresses[0], key=keys[1], members=members) as member,
        node(host.addresses[0], key=keys[2]) as outsider,
    ):
        assert await asked(member, first) == second + b"hello"
        outsider.learn(first, host.addresses)
        outsider.learn(second, member.addresses)
        await trio.sleep(1.0)
        await outsider.publish("jobs", b"let me in")
        with pytest.raises(PeerUnreachableError):
            await outsider.request(first, b"hello", 1.0)
        assert not any(view.connected for view in (*outsider.peers(),)), "nobody talks to it"
        assert stranger not in {view.identity for view in (*host.peers(), *member.peers())}
        with pytest.raises(trio.WouldBlock):
            host.gossip().receive_nowait()


async def test_another_network_is_refused_and_the_reason_said() -> None:
    async with node() as ours, node() as target:
        config = TransportConfig(
            secret=secret(), network="elsewhere", topics=("jobs",), bootstrap=target.addresses, redial_s_max=1.0
        )
        async with open_transport(config, answer) as theirs:
            await until(lambda: any("another network" in view.refusal for view in theirs.peers()))
            await until(lambda: any("another network" in view.refusal for view in target.peers()))
            assert not any(view.connected for view in theirs.peers())
            target.learn(ours.identity, ours.addresses)
            assert await asked(target, ours.identity), "its own network is not disturbed"
