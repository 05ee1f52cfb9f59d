"""What a node knows of the others after a restart: identities, addresses, memberships."""

import base64

import pytest
import trio

from node.network.membership import Membership
from protocols.envelope import narrow, open_frame
from protocols.membership import NotAMemberError, issue
from protocols.messages import Advertisement
from storage.database import Database
from storage.errors import DatabaseUnavailableError
from tests.node.certified_batches import NETWORK, KeySigner
from tests.node.network.advertising import WORK, Directory, advertisement, directory_of, offer
from tests.outage import out_of_order

SELF, PEER, STRANGER, CERTIFIER = KeySigner(2), KeySigner(3), KeySigner(4), KeySigner(5)
TYPE = base64.b64encode(bytes(32)).decode()


def certified_only(revoked: set[str]) -> Membership:
    async def is_revoked(serial: str, outpoint: str) -> bool:
        return serial in revoked

    return Membership(own=SELF.identity, trusted={(CERTIFIER.identity, TYPE)}, is_revoked=is_revoked)


def is_known(found: Directory) -> list[bool]:
    return [found.discovery.is_known(node.identity) for node in (SELF, PEER, STRANGER)]


async def test_a_node_that_advertised_is_known_and_called_after_a_restart(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        first = directory_of(SELF, database)
        assert is_known(first) == [True, False, False]
        assert not first.known.has_others
        await first.discovery.on_advertisement(advertisement(PEER, offer()))
        assert is_known(first) == [True, True, False]
        assert not first.known.has_others, "it was not known when this run began"
        again = directory_of(SELF, database)
        assert is_known(again) == [True, False, False]
        await again.known.load()
        assert is_known(again) == [True, True, False]
        assert not again.discovery.knows(PEER.identity), "it does not advertise in this run"
        assert again.known.has_others
        assert again.transport.learned == {PEER.identity: ("/ip4/192.0.2.1/tcp/" + str(PEER.identity[-1]),)}


async def test_a_member_stays_one_over_a_restart_until_its_certificate_is_revoked(postgres_url: str) -> None:
    certificate = issue(CERTIFIER.key, PEER.identity, type=TYPE, serial_number=TYPE)
    with Database(postgres_url) as database:
        first = directory_of(SELF, database, membership=certified_only(set()))
        with pytest.raises(NotAMemberError):
            await first.discovery.on_advertisement(advertisement(STRANGER, offer()))
        await first.discovery.on_advertisement(advertisement(PEER, offer(), membership=certificate))
        assert is_known(first) == [True, True, False]
        again = directory_of(SELF, database, membership=certified_only(set()))
        await again.known.load()
        assert is_known(again) == [True, True, False]
        revoked = directory_of(SELF, database, membership=certified_only({TYPE}))
        await revoked.known.load()
        assert is_known(revoked) == [True, False, False]


async def test_a_node_that_withdrew_is_no_agent_any_more_and_known_in_the_next_run(postgres_url: str) -> None:
    """It certified batches that others store: its signatures count on."""
    with Database(postgres_url) as database:
        here = directory_of(SELF, database)
        await here.discovery.on_advertisement(advertisement(PEER, offer()))
        await trio.sleep(0.002)  # an advertisement is as new as its millisecond
        peer = directory_of(PEER, database)
        await peer.discovery.withdraw()
        signed, _ = open_frame(peer.transport.published[-1], NETWORK)
        await here.discovery.on_advertisement(narrow(signed, Advertisement))
        assert not here.discovery.knows(PEER.identity)
        assert here.discovery.able(WORK) == ()
        again = directory_of(SELF, database)
        await again.known.load()
        assert again.discovery.is_known(PEER.identity)


async def test_without_a_database_nothing_is_taken_for_known(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        here = directory_of(SELF, database)
        with out_of_order(postgres_url):
            with pytest.raises(DatabaseUnavailableError), trio.fail_after(60):
                await here.known.load()
            with pytest.raises(DatabaseUnavailableError), trio.fail_after(60):
                await here.known.remember(advertisement(PEER, offer()), 1)
        assert not here.known.has_others
        await here.known.remember(advertisement(PEER, offer()), 1)
        await here.known.load()
        assert here.known.has_others


async def test_a_row_that_cannot_be_read_keeps_no_other_out(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        here = directory_of(SELF, database, membership=certified_only(set()))
        certificate = issue(CERTIFIER.key, PEER.identity, type=TYPE, serial_number=TYPE)
        await here.known.remember(advertisement(STRANGER, offer()), 1)
        await here.known.remember(advertisement(PEER, offer(), membership=certificate), 2)
        spoil = "UPDATE peers SET advertisement = 'rot' WHERE identity = %s"
        await database.run(lambda connection: connection.execute(spoil, (STRANGER.identity,)) and None)
        await here.known.load()
        assert is_known(here) == [True, True, False]
