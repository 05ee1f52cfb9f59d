"""What a node makes of the certificates it hears."""

import base64

import pytest

from node.network.membership import Membership
from protocols.envelope import sign
from protocols.keys import PrivateKey
from protocols.membership import NotAMemberError, issue
from protocols.messages import Advertisement, Signed
from tests.node.certified_batches import NETWORK, KeySigner

CERTIFIER, SELF, PEER = PrivateKey.from_bytes(b"1" * 32), KeySigner(2), KeySigner(3)
TYPE = base64.b64encode(bytes(32)).decode()


def advertised(membership: bytes) -> Signed[Advertisement]:
    said = Advertisement(
        network=NETWORK,
        sequence=1,
        issued_ms=1,
        expires_ms=2,
        tokens=(),
        addresses=(),
        url="",
        capacity=1,
        price=0,
        operator="",
        region="",
        build="",
        membership=membership,
    )
    return sign(PEER, said)


async def test_every_advertisement_decides_anew() -> None:
    revoked: set[str] = set()

    async def is_revoked(serial: str, outpoint: str) -> bool:
        return serial in revoked

    membership = Membership(own=SELF.identity, trusted={(CERTIFIER.identity, TYPE)}, is_revoked=is_revoked)
    certificate = issue(CERTIFIER, PEER.identity, type=TYPE, serial_number=TYPE)
    assert (membership.admits(SELF.identity), membership.admits(PEER.identity)) == (True, False)
    with pytest.raises(NotAMemberError, match="no membership certificate"):
        await membership.check(advertised(b""))
    await membership.check(advertised(certificate))
    assert membership.admits(PEER.identity)
    revoked.add(TYPE)
    with pytest.raises(NotAMemberError, match="revoked"):
        await membership.check(advertised(certificate))
    assert not membership.admits(PEER.identity)


async def test_where_everybody_is_a_member_nothing_is_asked_for() -> None:
    membership = Membership(own=SELF.identity)
    await membership.check(advertised(b"nonsense"))
    assert membership.admits(PEER.identity)
