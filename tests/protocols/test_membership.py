"""Membership certificates: who is a member, and every way not to be."""

import base64
import json
from typing import Any

import pytest

from protocols import keys
from protocols.errors import InvalidAuthenticationError
from protocols.limits import MEMBERSHIP_BYTES_MAX
from protocols.membership import NotAMemberError, check_membership, issue

CERTIFIER, MEMBER, OTHER = (keys.PrivateKey.from_bytes(bytes([number]) * 32) for number in (1, 2, 3))
TYPE = base64.b64encode(bytes(32)).decode()
SERIAL = base64.b64encode(b"7" * 32).decode()
TRUSTED = {(CERTIFIER.identity, TYPE)}


def made(**changes: Any) -> bytes:
    document = json.loads(issue(CERTIFIER, MEMBER.identity, type=TYPE, serial_number=SERIAL))
    return json.dumps({name: value for name, value in {**document, **changes}.items() if value is not None}).encode()


def test_a_certified_node_is_a_member() -> None:
    found = check_membership(made(), MEMBER.identity, TRUSTED)
    assert (found.certifier, found.serial_number) == (CERTIFIER.identity, SERIAL)
    assert found.revocation_outpoint == "0" * 64 + ".0"


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"", "no membership certificate"),
        (b"{", "malformed"),
        (b"[]", "must be an object"),
        (b" " * (MEMBERSHIP_BYTES_MAX + 1), "at most 4096 bytes"),
        (made(signature=None), "malformed"),
        (made(signature="00"), "not signed by its certifier"),
        (made(signature="zz"), "malformed"),
        (made(subject=OTHER.identity.hex()), "of another node"),
        (made(serialNumber=base64.b64encode(b"8" * 32).decode()), "not signed by its certifier"),
        (made(revocationOutpoint="f" * 64 + ".0"), "not signed by its certifier"),
        (made(revocationOutpoint="nonsense"), "malformed"),
        (made(fields={"role": "b3duZXI="}), "not signed by its certifier"),
        (made(fields=[1]), "must be an object"),
        (made(type=base64.b64encode(b"another type than was trusted ok").decode()), "no certifier"),
        (made(certifier=OTHER.identity.hex()), "no certifier"),
        (issue(OTHER, MEMBER.identity, type=TYPE, serial_number=SERIAL), "no certifier"),
    ],
)
def test_whoever_is_not_certified_is_told_why(document: bytes, why: str) -> None:
    with pytest.raises(NotAMemberError, match=why):
        check_membership(document, MEMBER.identity, TRUSTED)


def test_nonsense_is_not_certified() -> None:
    with pytest.raises(InvalidAuthenticationError):
        issue(CERTIFIER, MEMBER.identity, type="short", serial_number=SERIAL)
