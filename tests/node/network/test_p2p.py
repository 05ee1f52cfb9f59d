"""The network over real libp2p on loopback; where a peer has to die, it has a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from node.network.p2p import AddressError, ListenError, identity_in
from node.network.p2p.connector import usable_address
from node.network.transport import PeerUnreachableError, Transport
from protocols.errors import FrameTooLargeError
from protocols.keys import PrivateKey
from protocols.limits import FRAME_BYTES_MAX, GOSSIP_BYTES_MAX
from tests.node.network.p2p_nodes import ROOT, asked, attacker, connected, identity, node, pair, secret, until

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
async def test_bootstrap_addresses_can_be_changed_while_the_node_runs() -> None:
    async with node() as first, node() as second, node(first.addresses[0]) as joining:
        await connected(joining, first.identity)
        joining.follow([second.addresses[0]], None)
        await connected(joining, first.identity, second.identity)
        joining.forget(first.identity)
        kept = {view.identity for view in joining.peers() if view.addresses}
        assert kept == {second.identity}, "the first one is no bootstrap peer any more"
        joining.follow(["/ip4/127.0.0.1/tcp/1"], None)
        joining.follow([], None)
        with pytest.raises(AddressError):
            identity_in("/ip4/127.0.0.1/tcp/4001/p2p/nobody")


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
