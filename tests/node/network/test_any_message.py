"""Whatever well-formed message a peer sends, the node that gets it goes on: a real node, over a real database."""

from collections.abc import Iterable

import pytest
import trio
from hypothesis import HealthCheck, given, settings

from node.network.discovery import make_tokens
from node.network.transport import Gossip, InboundFrame
from node.runtime.clock import clock_ms
from node.runtime.config import load
from node.runtime.containment import Quarantine
from node.runtime.workers import Workers
from protocols.envelope import sign, to_frame
from protocols.messages import Advertisement, IdentityKey
from storage.database import Database
from tests.network_of_keys import AGENTS, NETWORK, KeySigner
from tests.node.network.advertising import offer
from tests.node.network.hostile_messages import HostilePeers, Sent
from tests.node.running import until
from tests.node.test_app import ENVIRONMENT, KEY, SOURCE, NoPeers, made, running


class HostileTransport(NoPeers):
    """A transport that hands in what the test sends, and loses what the node sends."""

    def __init__(self, identity: IdentityKey) -> None:
        super().__init__(identity)
        self.struck: list[IdentityKey] = []
        self.frames, self._frames = trio.open_memory_channel[InboundFrame](1)
        self.heard, self._heard = trio.open_memory_channel[Gossip](1)

    def gossip(self) -> trio.MemoryReceiveChannel[Gossip]:
        return self._heard

    def inbound(self) -> trio.MemoryReceiveChannel[InboundFrame]:
        return self._frames

    def learn(self, identity: IdentityKey, addresses: Iterable[str]) -> None:
        """Nobody is dialled."""

    def strike(self, identity: IdentityKey, reason: str) -> None:
        self.struck.append(identity)

    async def hand_in(self, sent: Sent) -> None:
        if sent.by_gossip:
            await self.heard.send(Gossip(topic="jobs", sender=sent.sender, data=sent.frame))
        else:
            await self.frames.send(InboundFrame(sender=sent.sender, frame=sent.frame))


def advertised(agent: KeySigner) -> Sent:
    now_ms, own = clock_ms(), offer()
    message = Advertisement(
        network=NETWORK,
        sequence=1,
        issued_ms=now_ms,
        expires_ms=now_ms + 3_600_000,
        tokens=make_tokens(agent.key, own),
        addresses=(),
        url=own.url,
        capacity=1_000,
        price=0,
        operator=agent.identity.hex(),
        region="",
        build="",
    )
    return Sent(agent.identity, to_frame(sign(agent, message)), True, message)


@pytest.mark.parametrize("examples", [300, pytest.param(3_000, marks=pytest.mark.slow)])
async def test_any_well_formed_message_leaves_the_node_running(postgres_url: str, examples: int) -> None:
    transport, quarantine = HostileTransport(KEY.identity), Quarantine()
    peers = HostilePeers(KEY.identity)
    with Database(postgres_url) as database:
        async with Workers(1) as workers:
            settings_ = load(None, ENVIRONMENT | {"OVERLAY_NETWORK": NETWORK, "OVERLAY_SHUTDOWN_GRACE_S": "0.2"})
            lone = made(settings_, database, workers, transport, quarantine)
            last: list[Sent] = []

            @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck))
            @given(peers.sent())
            def send(sent: Sent) -> None:
                last[:] = [*last[-20:], sent]
                trio.from_thread.run(transport.hand_in, sent)

            async def use() -> None:
                for agent in AGENTS:
                    await transport.hand_in(advertised(agent))
                assert (await lone.call("POST", "/overlay/sources", SOURCE))[0] == 201
                await lone.post(1, 2)
                await trio.to_thread.run_sync(send)
                await until(lambda: lone.node.state.driver.depth == 0, 60)
                await lone.post(3)
                assert (await lone.call("GET", "/readyz"))[0] == 200
                for path in ("agents", "peers", "jobs", "batches", "events", "certificates", "dead-letters"):
                    status, answer = await lone.call("GET", f"/overlay/{path}")
                    assert status < 500, (path, answer)

            try:
                await running(lone, use)
            except BaseException:
                print(*(each.message for each in last), sep="\n")  # what ended it is among these
                raise
    assert transport.struck, "some of it is refused"
    assert not any(quarantine.counts.values()), quarantine.counts
