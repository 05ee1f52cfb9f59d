"""Which nodes could take part in a batch: connected holders, and agents that meet every template of a level."""

from typing import Any

import attrs
import pytest

from node.coordination.driver import Driver
from node.coordination.reputations import Reputations
from node.network.candidates import Candidates
from protocols.messages import Level, Role
from protocols.rules import Rules
from protocols.templates import BUILT_IN, JobTemplate
from storage.database import Database
from tests.node.certified_batches import NETWORK, KeySigner
from tests.node.network.advertising import Directory, advertisement, directory_of, offer
from tests.node.running import Forgetful

SELF = KeySigner(2)
PEERS = [KeySigner(number) for number in (11, 12, 13, 14)]


def candidates_of(here: Directory, reputations: Reputations, *templates: JobTemplate) -> Candidates:
    return Candidates(
        driver=Driver(Rules(network=NETWORK, self_key=SELF.identity, templates=templates), Forgetful()),
        discovery=here.discovery,
        transport=here.transport,  # type: ignore[arg-type]  # as much of one as candidates take
        reputations=reputations,
        holders_max=2,
    )


def template(**fields: Any) -> JobTemplate:
    return attrs.evolve(BUILT_IN[Role.VALIDATE, Level.ENHANCED], template_id="own", **fields)


async def test_holders_are_connected_able_others_and_no_more_than_wanted(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        here = directory_of(SELF, database, connected=[SELF.identity, *(peer.identity for peer in PEERS[:3])])
        candidates = candidates_of(here, Reputations(database))
        assert candidates.holders() == (), "nobody advertises yet"
        await here.discovery.on_advertisement(advertisement(PEERS[0], offer()))
        await here.discovery.on_advertisement(advertisement(PEERS[1], offer(roles=[Role.NORMALIZE])))
        await here.discovery.on_advertisement(advertisement(PEERS[3], offer()))
        assert candidates.holders() == (PEERS[0].identity,), "one cannot do the work, one is not connected"
        await here.discovery.on_advertisement(advertisement(PEERS[1], offer()))
        await here.discovery.on_advertisement(advertisement(PEERS[2], offer()))
        holders = candidates.holders()
        assert len(holders) == len(set(holders)) == 2
        assert SELF.identity not in holders


async def test_a_level_is_short_of_agents_until_enough_can_do_the_whole_work(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        here = directory_of(SELF, database)
        candidates = candidates_of(here, Reputations(database))
        assert "0 are known" in candidates.shortfall(Level.BASIC, 1)
        await here.discovery.on_advertisement(advertisement(PEERS[0], offer(roles=[Role.VALIDATE])))
        assert "0 are known" in candidates.shortfall(Level.BASIC, 1)
        for count, peer in enumerate(PEERS[1:3], 1):
            await here.discovery.on_advertisement(advertisement(peer, offer()))
            assert candidates.shortfall(Level.BASIC, 1) == ""
            assert (candidates.shortfall(Level.ENHANCED, 2) == "") is (count >= 2)


async def test_operators_are_counted_once_at_the_critical_level(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        here = directory_of(SELF, database)
        candidates = candidates_of(here, Reputations(database))
        for peer in PEERS:
            await here.discovery.on_advertisement(advertisement(peer, offer(operator="the same")))
        assert "1 are known" in candidates.shortfall(Level.CRITICAL, 3)
        for number, peer in enumerate(PEERS):
            await here.discovery.on_advertisement(advertisement(peer, offer(operator=f"operator {number}")))
        assert candidates.shortfall(Level.CRITICAL, 3) == ""


@pytest.mark.parametrize(
    ("wanted", "meets"),
    [
        (template(), True),
        (template(regions=("north", "south")), True),
        (template(regions=("south",)), False),
        (template(capabilities=("validate", "a.topic")), True),
        (template(capabilities=("another.topic",)), False),
        (template(reputation_min=50), True),
        (template(reputation_min=51), False),
    ],
    ids=["as built in", "region", "other region", "capability", "lacks one", "newcomer", "reputation"],
)
async def test_an_operators_template_decides_who_counts(postgres_url: str, wanted: JobTemplate, meets: bool) -> None:
    with Database(postgres_url) as database:
        here = directory_of(SELF, database)
        candidates = candidates_of(here, Reputations(database), wanted)
        for peer in PEERS[:3]:
            await here.discovery.on_advertisement(advertisement(peer, offer(region="north", topics=["a.topic"])))
        assert (candidates.shortfall(Level.ENHANCED, 2) == "") is meets
        assert candidates.shortfall(Level.BASIC, 1) == "", "the template is of another level"


async def test_an_equivocator_does_not_count_where_any_reputation_is_wanted(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        here = directory_of(SELF, database)
        reputations = Reputations(database)
        candidates = candidates_of(here, reputations, template(reputation_min=1))
        for peer in PEERS[:2]:
            await here.discovery.on_advertisement(advertisement(peer, offer()))
        assert candidates.shortfall(Level.ENHANCED, 2) == ""
        reputations.count(PEERS[0].identity, Role.VALIDATE, "equivocated", "batch_1")
        assert "1 are known" in candidates.shortfall(Level.ENHANCED, 2)
