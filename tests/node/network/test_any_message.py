"""Whatever well-formed message a peer sends, the node that gets it goes on: a real node, over a real database."""

from contextlib import ExitStack
from functools import partial

import pytest

from node.network.discovery import make_tokens
from node.runtime.clock import clock_ms
from node.runtime.config import load
from node.runtime.containment import Quarantine
from node.runtime.keyring import Keyring
from node.runtime.workers import Workers
from protocols.envelope import digest, open_frame, sign, to_frame
from protocols.messages import MESSAGES, Advertisement, Announcement, CertifiedNotice, FraudProof
from scripts.fuzzing.messages import Messages, remember
from scripts.fuzzing.values import Draw
from scripts.fuzzing.world import Live, World, agents_of
from storage.database import Database
from tests.network_of_keys import NETWORK, KeySigner
from tests.node.network.advertising import offer
from tests.node.network.hostile_transport import HostileTransport, Sent
from tests.node.running import until
from tests.node.test_app import ENVIRONMENT, KEY, SOURCE, made, running

GOSSIPED = (Advertisement, Announcement, CertifiedNotice, FraudProof)
POLICIES = (b"{}", b'{"required":["value"]}')


def made_world() -> World:
    return World(
        seed="any message",
        network=NETWORK,
        node=KEY.identity,
        agents=agents_of("any message"),
        policies={digest(each): each for each in POLICIES},
        sources={"farm": ({"value": 1}, {"value": "x", "other": [1, 2]})},
    )


def overheard(live: Live, frame: bytes) -> None:
    remember(live, open_frame(frame, NETWORK)[0].message)


def drawn(messages: Messages, draw: Draw, world: World, number: int, sender: Keyring | None = None) -> Sent:
    """A message of each class in its turn, from ``sender``, else from one of the agents."""
    cls, agent = MESSAGES[number % len(MESSAGES)], sender or draw.pick(world.agents)
    signed, attachment = messages.signed(draw, cls, agent)
    return Sent(agent.identity, to_frame(signed, attachment), issubclass(cls, GOSSIPED), signed.message)


def advertised(agent: KeySigner | Keyring) -> Sent:
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
    world, quarantine = made_world(), Quarantine()
    messages = Messages(world, nul=0.1)
    transport = HostileTransport(KEY.identity, partial(overheard, world.live))
    with Database(postgres_url) as database:
        async with Workers(1) as workers:
            settings_ = load(None, ENVIRONMENT | {"OVERLAY_NETWORK": NETWORK, "OVERLAY_SHUTDOWN_GRACE_S": "0.2"})
            lone = made(settings_, database, workers, transport, quarantine)
            last: list[Sent] = []

            async def send() -> None:
                """What the node said meanwhile is named, too, so what is drawn is no function of the seed alone."""
                for number in range(examples):
                    sent = drawn(messages, Draw(f"any message {number}"), world, number)
                    last[:] = [*last[-20:], sent]
                    await transport.hand_in(sent)

            async def use() -> None:
                for agent in world.agents:
                    await transport.hand_in(advertised(agent))
                assert (await lone.call("POST", "/overlay/sources", SOURCE))[0] == 201
                await lone.post(1, 2)
                await send()
                await until(lambda: lone.node.state.driver.depth == 0, 60)
                await lone.post(3)
                assert (await lone.call("GET", "/readyz"))[0] == 200
                for path in ("agents", "peers", "jobs", "batches", "events", "certificates", "dead-letters"):
                    status, answer = await lone.call("GET", f"/overlay/{path}")
                    assert status < 500, (path, answer)

            with ExitStack() as undo:
                undo.callback(
                    lambda: print(*(each.message for each in last), sep="\n")
                )  # what ended it is among these
                await running(lone, use)
                undo.pop_all()
    assert transport.struck, "some of it is refused"
    assert not any(quarantine.counts.values()), quarantine.counts
