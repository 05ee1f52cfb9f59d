"""The directory of nodes: advertised, renewed, expired, withdrawn, remembered; and who of them could take part."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from node.coordination.driver import Driver
from node.coordination.reputations import Reputations
from node.network.candidates import Candidates
from node.network.discovery import Discovery, Offer, make_tokens
from node.network.known_peers import KnownPeers
from node.network.membership import Membership
from node.network.transport import PeerUnreachableError, PeerView
from node.runtime.clock import clock_ms
from node.runtime.containment import Quarantine
from protocols.envelope import open_frame, sign
from protocols.errors import PeerFault
from protocols.membership import NotAMemberError
from protocols.messages import Advertisement, IdentityKey, Level, Role, Signed
from protocols.roles import WORK_ROLES
from protocols.rules import Rules
from protocols.templates import JobTemplate
from storage.database import Database
from tests.network_of_keys import AGENTS, NETWORK, KeySigner
from tests.node.running import Forgetful, until

SELF, PEER, OTHER, THIRD, FOURTH = AGENTS
MINUTE_MS = 60_000


class Air:
    """A transport whose gossip can be read, and whose peers a test names."""

    def __init__(self) -> None:
        self.identity = SELF.identity
        self.addresses = ("/ip4/127.0.0.1/tcp/1",)
        self.published: list[bytes] = []
        self.learned: dict[IdentityKey, tuple[str, ...]] = {}
        self.connected: list[IdentityKey] = []
        self.is_away = False

    async def publish(self, topic: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_away:
            raise PeerUnreachableError("nobody is there")
        assert topic == "who"
        self.published.append(data)

    def learn(self, identity: IdentityKey, addresses: Iterable[str]) -> None:
        self.learned[identity] = tuple(addresses)

    def peers(self) -> tuple[PeerView, ...]:
        return tuple(
            PeerView(identity=each, addresses=(), connected=True, connected_since_ms=0, queued=0)
            for each in self.connected
        )

    def advertised(self) -> list[Advertisement]:
        found = [open_frame(each, NETWORK)[0].message for each in self.published]
        assert all(isinstance(each, Advertisement) for each in found)
        return found  # type: ignore[return-value]


def offer(roles: Sequence[Role] = WORK_ROLES, topics: tuple[str, ...] = (), ttl_ms: int = MINUTE_MS) -> Offer:
    return Offer(
        roles=tuple(roles),
        topics=topics,
        url="http://127.0.0.1:1",
        capacity=1,
        price=0,
        operator="us",
        region="eu",
        build="test",
        ttl_ms=ttl_ms,
        allow_local_urls=True,
    )


def advertisement(
    signer: KeySigner,
    *,
    roles: Sequence[Role] = WORK_ROLES,
    topics: tuple[str, ...] = (),
    sequence: int = 1,
    lasts_ms: int = MINUTE_MS,
    tokens_of: KeySigner | None = None,
    **members: Any,
) -> Signed[Advertisement]:
    now_ms = clock_ms()
    fields = {
        "tokens": make_tokens((tokens_of or signer).key, offer(roles, topics)),
        "addresses": ("/ip4/127.0.0.1/tcp/2",),
        "url": "http://127.0.0.1:2",
        "capacity": 1,
        "price": 0,
        "operator": f"operator of {signer.identity.hex()[:8]}",
        "region": "eu",
        "build": "test",
        **members,
    }
    message = Advertisement(
        network=NETWORK, sequence=sequence, issued_ms=now_ms, expires_ms=now_ms + lasts_ms, **fields
    )
    return sign(signer, message)


@attrs.frozen(kw_only=True)
class World:
    air: Air
    known: KnownPeers
    discovery: Discovery
    candidates: Candidates
    reputations: Reputations
    driver: Driver
    membership: Membership


@asynccontextmanager
async def world(
    url: str, *, own: Offer | None = None, trusted: Any = None, holders_max: int = 2
) -> AsyncIterator[World]:
    air: Any = Air()
    own = own or offer()
    with Database(url) as database:
        membership = Membership(own=SELF.identity, trusted=trusted)
        known = KnownPeers(
            network=NETWORK, database=database, transport=air, membership=membership, quarantine=Quarantine()
        )
        discovery = Discovery(
            network=NETWORK,
            signer=SELF,
            tokens=make_tokens(SELF.key, own),
            transport=air,
            offer=own,
            membership=membership,
            known=known,
        )
        reputations = Reputations(database)
        driver = Driver(Rules(network=NETWORK, self_key=SELF.identity), Forgetful())
        candidates = Candidates(
            driver=driver, discovery=discovery, transport=air, reputations=reputations, holders_max=holders_max
        )
        yield World(
            air=air,
            known=known,
            discovery=discovery,
            candidates=candidates,
            reputations=reputations,
            driver=driver,
            membership=membership,
        )


# --- the directory -------------------------------------------------------------------------------------------


async def test_a_peer_s_advertisement_is_entered_and_its_addresses_learned(postgres_url: str) -> None:
    async with world(postgres_url) as at:
        await at.discovery.on_advertisement(advertisement(PEER, topics=("weather.jfk",)))
        assert at.discovery.knows(PEER.identity)
        assert at.discovery.is_known(PEER.identity)
        assert "weather.jfk" in at.discovery.topics_of(PEER.identity)
        assert at.discovery.topics_of(OTHER.identity) == ()
        assert at.discovery.able(WORK_ROLES) == (PEER.identity,)
        assert at.air.learned == {PEER.identity: ("/ip4/127.0.0.1/tcp/2",)}
        assert {token.identity for token, _ in at.discovery.tokens()} == {PEER.identity}


async def test_an_older_advertisement_changes_nothing(postgres_url: str) -> None:
    async with world(postgres_url) as at:
        await at.discovery.on_advertisement(advertisement(PEER, sequence=5, region="us"))
        await at.discovery.on_advertisement(advertisement(PEER, sequence=4, region="eu", addresses=()))
        entry = at.discovery.directory.entries[PEER.identity]
        assert entry.advertisement.message.region == "us"
        assert at.air.learned[PEER.identity] != ()
        await at.discovery.on_advertisement(advertisement(PEER, sequence=6, lasts_ms=0))
        assert not at.discovery.knows(PEER.identity), "a later one that has expired withdraws it"


@pytest.mark.parametrize(
    "members",
    [
        {"tokens_of": OTHER},
        {"lasts_ms": 25 * 60 * MINUTE_MS},
        {"tokens": (b"no token",)},
        {"url": "x", "tokens": make_tokens(PEER.key, attrs.evolve(offer(), url="ftp://example"))},
    ],
    ids=["another node's tokens", "past the longest time", "no token", "an unusable URL"],
)
async def test_a_malformed_advertisement_is_its_signer_s_fault(postgres_url: str, members: dict[str, Any]) -> None:
    async with world(postgres_url) as at:
        with pytest.raises(PeerFault):
            await at.discovery.on_advertisement(advertisement(PEER, **members))
        assert (at.discovery.directory.entries, at.air.learned) == ({}, {})


async def test_a_node_without_the_certificate_that_is_required_is_not_entered(postgres_url: str) -> None:
    async with world(postgres_url, trusted={(THIRD.identity, "type")}) as at:
        with pytest.raises(NotAMemberError):
            await at.discovery.on_advertisement(advertisement(PEER))
        assert not at.discovery.knows(PEER.identity)


async def test_subscribers_are_the_same_every_time_and_bounded(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(postgres_url) as at:
        for signer in (PEER, OTHER, SELF):
            await at.discovery.on_advertisement(advertisement(signer, topics=("a", "b")))
        await at.discovery.on_advertisement(advertisement(THIRD, topics=("c",)))
        assert at.discovery.subscribers(("a", "x")) == tuple(sorted((PEER.identity, OTHER.identity)))
        assert at.discovery.subscribers(()) == ()
        assert at.discovery.subscribers(("c",)) == (THIRD.identity,)
        monkeypatch.setattr("node.network.discovery.SUBSCRIBERS_MAX", 1)
        assert at.discovery.subscribers(("a",)) == (min(PEER.identity, OTHER.identity),)


async def test_a_node_advertises_at_once_to_newcomers_and_before_its_time_is_over(postgres_url: str) -> None:
    async with world(postgres_url, own=offer(topics=("weather",), ttl_ms=3_000)) as at:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(at.discovery.run)
            await until(lambda: len(at.air.published) == 1)
            first = at.air.advertised()[0]
            assert first.expires_ms - first.issued_ms == 3_000
            assert at.discovery.knows(SELF.identity)
            at.air.connected.append(PEER.identity)
            await until(lambda: len(at.air.published) >= 2)
            assert at.air.advertised()[1].issued_ms < first.issued_ms + 3_000, "well before it expires"
            nursery.cancel_scope.cancel()
        count = len(at.air.published)
        await at.discovery.withdraw()
        last = at.air.advertised()[count]
        assert (last.tokens, last.expires_ms <= last.issued_ms) == ((), True)
        assert last.sequence > first.sequence


async def test_an_advertisement_that_reaches_nobody_is_tried_again(postgres_url: str) -> None:
    async with world(postgres_url, own=offer(ttl_ms=300)) as at:
        at.air.is_away = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(at.discovery.run)
            await until(lambda: at.discovery.knows(SELF.identity))
            at.air.is_away = False
            await until(lambda: len(at.air.published) >= 1)
            nursery.cancel_scope.cancel()


async def test_advertisements_expire(postgres_url: str) -> None:
    async with world(postgres_url) as at, trio.open_nursery() as nursery:
        await at.discovery.on_advertisement(advertisement(PEER, lasts_ms=200))
        nursery.start_soon(at.discovery.run)
        await until(lambda: not at.discovery.knows(PEER.identity))
        assert not at.discovery.is_known(PEER.identity)
        nursery.cancel_scope.cancel()


async def test_peers_of_an_earlier_run_are_known_and_dialled(postgres_url: str) -> None:
    async with world(postgres_url) as at:
        assert not at.known.has_others
        await at.discovery.on_advertisement(advertisement(PEER))
        assert PEER.identity not in at.known, "it is this run's"
    async with world(postgres_url) as at:
        assert not at.discovery.is_known(PEER.identity)
        await at.known.load()
        assert at.known.has_others
        assert at.discovery.is_known(PEER.identity)
        assert not at.discovery.knows(PEER.identity)
        assert at.air.learned == {PEER.identity: ("/ip4/127.0.0.1/tcp/2",)}


async def test_a_known_peer_that_is_no_member_any_more_is_not_admitted(postgres_url: str) -> None:
    async with world(postgres_url) as at:
        await at.discovery.on_advertisement(advertisement(PEER))
    async with world(postgres_url, trusted={(THIRD.identity, "type")}) as at:
        await at.known.load()
        assert PEER.identity in at.known
        assert not at.discovery.is_known(PEER.identity)
        assert at.discovery.is_known(SELF.identity)


# --- candidates ----------------------------------------------------------------------------------------------


async def test_holders_are_connected_and_can_finish_a_batch(postgres_url: str) -> None:
    async with world(postgres_url, holders_max=2) as at:
        assert at.candidates.holders() == ()
        for signer in (PEER, OTHER, THIRD, SELF):
            await at.discovery.on_advertisement(advertisement(signer))
        await at.discovery.on_advertisement(advertisement(FOURTH, roles=(Role.NORMALIZE,)))
        at.air.connected = [PEER.identity, FOURTH.identity]
        assert at.candidates.holders() == (PEER.identity,), "connected, and offers all roles"
        at.air.connected = [signer.identity for signer in (PEER, OTHER, THIRD, FOURTH)]
        chosen = at.candidates.holders()
        assert len(chosen) == 2
        assert set(chosen) <= {PEER.identity, OTHER.identity, THIRD.identity}
        assert at.candidates.holders() == chosen


async def test_a_level_needs_enough_agents_of_enough_operators(postgres_url: str) -> None:
    async with world(postgres_url) as at:
        assert at.candidates.shortfall(Level.BASIC, 1) != ""
        await at.discovery.on_advertisement(advertisement(PEER))
        assert at.candidates.shortfall(Level.BASIC, 1) == ""
        assert at.candidates.shortfall(Level.ENHANCED, 2) != ""
        for signer in (OTHER, THIRD, FOURTH):
            await at.discovery.on_advertisement(advertisement(signer, operator="one for all"))
        assert at.candidates.shortfall(Level.ENHANCED, 2) == ""
        assert at.candidates.shortfall(Level.CRITICAL, 3) != "", "four agents, two operators"
        for signer in (OTHER, THIRD, FOURTH):
            await at.discovery.on_advertisement(advertisement(signer, sequence=2))
        assert at.candidates.shortfall(Level.CRITICAL, 3) == ""


async def test_an_agent_that_lied_does_not_count(postgres_url: str) -> None:
    async with world(postgres_url) as at:
        await at.discovery.on_advertisement(advertisement(PEER))
        at.reputations.count(PEER.identity, Role.VALIDATE, "equivocated", "batch_1")
        template = JobTemplate(template_id="t", role=Role.NORMALIZE, level=Level.BASIC, reputation_min=10)
        at.driver.rules = attrs.evolve(at.driver.rules, templates=(template,))
        assert at.candidates.shortfall(Level.BASIC, 1) != ""


@pytest.mark.parametrize(
    ("template", "counts"),
    [
        ({"capabilities": ("normalize", "weather")}, True),
        ({"capabilities": ("orders",)}, False),
        ({"regions": ("eu", "us")}, True),
        ({"regions": ("ap",)}, False),
        ({"reputation_min": 51}, False),
        ({"reputation_min": 50}, True),
    ],
)
async def test_an_operator_s_template_decides_who_counts(
    postgres_url: str, template: dict[str, Any], counts: bool
) -> None:
    async with world(postgres_url) as at:
        await at.discovery.on_advertisement(advertisement(PEER, topics=("weather",)))
        own = JobTemplate(template_id="t", role=Role.VALIDATE, level=Level.BASIC, **template)
        at.driver.rules = attrs.evolve(at.driver.rules, templates=(own,))
        assert (at.candidates.shortfall(Level.BASIC, 1) == "") is counts
