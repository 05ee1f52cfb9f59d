"""Peers that mean harm, over real libp2p: bounded in what they can take, and no trouble to others."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from libp2p.abc import INetStream
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils import encode_varint_prefixed

from node.network.p2p import TransportConfig, open_transport
from node.network.p2p.connector import LINK_ERRORS
from node.network.p2p.faults import STRIKES_MAX
from node.network.p2p.inbound import BUSY, INBOUND_BYTES_MAX, REQUESTS_PER_PEER_MAX
from node.network.p2p.links import ASK_BYTES_MAX, FRAME_COST, QUEUE_BYTES_MAX, WINDOW
from node.network.p2p.network import PeerNetwork
from node.network.p2p.requests import PendingRequests, answer_frame
from node.network.p2p.streams import Wire
from node.network.transport import PeerUnreachableError
from node.runtime.containment import Quarantine
from protocols.errors import FrameTooLargeError
from protocols.framing import COMPRESSED, Frame, FrameKind, FrameReader, encode_frame
from protocols.keys import PrivateKey
from protocols.limits import GOSSIP_BYTES_MAX
from tests.node.network.p2p_nodes import (
    WORK,
    answer,
    asked,
    attacker,
    connected,
    identity,
    node,
    pair,
    secret,
    there,
    until,
)

# --- peers that mean harm --------------------------------------------------------------------------------------


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


async def test_members_can_be_changed_while_nodes_are_connected() -> None:
    keys = [secret() for _ in range(2)]
    first, second = (PrivateKey.from_bytes(key).identity for key in keys)
    async with node(key=keys[0]) as host, node(host.addresses[0], key=keys[1]) as guest:
        assert await asked(guest, first) == second + b"hello"
        host.follow((), frozenset({first}))
        await until(lambda: host.peers() == ())
        await until(lambda: not any(view.connected for view in guest.peers()))
        host.follow((), frozenset({first, second}))
        assert await asked(guest, first) == second + b"hello"
        host.follow((), None)
        async with node(host.addresses[0]) as anybody:
            assert await asked(anybody, first) == anybody.identity + b"hello"


async def test_another_network_is_refused_and_the_reason_said() -> None:
    async with node() as ours, node() as target:
        config = TransportConfig(
            secret=secret(), network="elsewhere", topics=("jobs",), bootstrap=target.addresses, redial_s_max=1.0
        )
        async with open_transport(config, answer, Quarantine()) as theirs:
            await until(lambda: any("another network" in view.refusal for view in theirs.peers()))
            await until(lambda: any("another network" in view.refusal for view in target.peers()))
            assert not any(view.connected for view in theirs.peers())
            target.learn(ours.identity, ours.addresses)
            assert await asked(target, ours.identity), "its own network is not disturbed"


# --- limits of what one peer may have under way ------------------------------------------------------------------


def frames_of(data: bytes) -> list[Frame]:
    return FrameReader().feed(data)


async def test_requests_past_the_bound_of_one_peer_are_answered_as_busy() -> None:
    async with node() as network, attacker(network) as host:
        answers: list[Frame] = []

        async def listen(stream: INetStream) -> None:
            with suppress(*LINK_ERRORS):
                while True:
                    answers.extend(frames_of(await Wire(stream).read()))

        host.set_stream_handler(WORK, listen)
        wire = Wire(await host.new_stream(there(network).peer_id, [WORK]))
        for number in range(REQUESTS_PER_PEER_MAX + 5):
            await wire.write(encode_frame(FrameKind.REQUEST, b"stall", number + 1))
        await until(lambda: len(answers) >= 5)
        assert {(each.kind, each.body) for each in answers} == {(FrameKind.FAILURE, BUSY)}
        assert {each.request_id for each in answers} == set(
            range(REQUESTS_PER_PEER_MAX + 1, REQUESTS_PER_PEER_MAX + 6)
        )
        assert network.faults.count(identity(host)) == 0
        await serves(network)


async def test_a_request_past_its_size_is_a_fault() -> None:
    async with node() as network, attacker(network) as host:
        wire = Wire(await host.new_stream(there(network).peer_id, [WORK]))
        await wire.write(encode_frame(FrameKind.REQUEST, os.urandom(ASK_BYTES_MAX + 1), 1))
        await until(lambda: network.faults.count(identity(host)) > 0)
        with pytest.raises(FrameTooLargeError):
            await network.request(identity(host), os.urandom(ASK_BYTES_MAX + 1), 1.0)
        await serves(network)


async def test_answers_that_nobody_asked_for_are_left_out() -> None:
    async with node() as network, attacker(network) as host:
        wire = Wire(await host.new_stream(there(network).peer_id, [WORK]))
        for number in range(100):
            await wire.write(encode_frame(FrameKind.ANSWER, b"unasked", number + 1))
        await serves(network)
        assert network.faults.count(identity(host)) == 0


async def test_a_newer_stream_takes_the_place_of_an_older_one() -> None:
    async with node() as network, attacker(network) as host:
        older = Wire(await host.new_stream(there(network).peer_id, [WORK]))
        await older.write(encode_frame(FrameKind.ONEWAY, b"first"))
        with trio.fail_after(5):
            assert (await network.inbound().receive()).frame == b"first"
        newer = Wire(await host.new_stream(there(network).peer_id, [WORK]))
        await newer.write(encode_frame(FrameKind.ONEWAY, b"second"))
        with trio.fail_after(5):
            assert (await network.inbound().receive()).frame == b"second"
            with suppress(*LINK_ERRORS):
                while True:  # the older one ends, whatever it still held
                    await older.read()
        assert network.faults.count(identity(host)) == 0


async def test_no_more_peers_are_kept_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.network.p2p.peer_links.PEERS_MAX", 3)
    async with node() as network:
        for number in range(10):
            other = PrivateKey.from_bytes((10_000 + number).to_bytes(32, "big")).identity
            network.learn(other, [f"/ip4/127.0.0.1/tcp/{number + 1}"])
        assert len(network.peers()) == 3
        known = network.peers()[0].identity
        network.forget(known)
        assert network.peers()[0].addresses == ()
        with pytest.raises(PeerUnreachableError):
            await network.send(known, b"")


async def test_a_peer_whose_addresses_lead_nowhere_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody can advertise addresses of keys that nobody has: they must not keep out peers that can be reached."""
    monkeypatch.setattr("node.network.p2p.peer_links.PEERS_MAX", 3)
    async with node() as network, node() as peer:
        for number in range(3):
            other = PrivateKey.from_bytes((20_000 + number).to_bytes(32, "big")).identity
            network.learn(other, [f"/ip4/127.0.0.1/tcp/{number + 1}"])
        with trio.fail_after(10):
            while peer.identity not in {view.identity for view in network.peers()}:
                network.learn(peer.identity, peer.addresses)
                await trio.sleep(0.05)
        await connected(network, peer.identity)
        assert len(network.peers()) == 3


async def test_an_answer_counts_for_the_peer_that_was_asked() -> None:
    requests = PendingRequests()
    frame = Frame(kind=FrameKind.ANSWER, compressed=False, request_id=1, body=b"a", wire_bytes=1)
    with requests.open(b"peer") as first, requests.open(b"other") as second:
        requests.answer(b"other", attrs.evolve(frame, request_id=first.request_id))
        assert not first.done.is_set(), "it is another peer's"
        requests.answer(b"peer", attrs.evolve(frame, request_id=first.request_id))
        requests.answer(b"peer", attrs.evolve(frame, request_id=first.request_id, body=b"again"))
        assert answer_frame(first, 1.0).body == b"a"
        requests.abandon(b"other")
        with pytest.raises(PeerUnreachableError, match="connection broke"):
            answer_frame(second, 1.0)
        assert len(requests) == 2
    assert len(requests) == 0
    with requests.open(b"peer") as late, pytest.raises(PeerUnreachableError, match="no answer within 2"):
        answer_frame(late, 2.0)
