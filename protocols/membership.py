"""Membership by certificate: a node shows an identity certificate (BRC-52) of a certifier that the others trust.

Nothing is revealed: whose the certificate is and who signed it is all that counts, so it stands in the node's
advertisement for everybody to check. It may have fields, encrypted as ever.
"""

from collections.abc import Collection

import attrs

from protocols import keys
from protocols.authentication.certificates import SIGNATURE_PROTOCOL, certificate_bytes
from protocols.canonical import canonical_json, parse_json
from protocols.errors import OverlayError, PeerFault
from protocols.keys import PrivateKey
from protocols.limits import MEMBERSHIP_BYTES_MAX
from protocols.messages import IdentityKey

NEVER_REVOKED = f"{'0' * 64}.0"
"""The outpoint of a certificate that its certifier cannot take back by spending."""


class NotAMemberError(PeerFault):
    """A peer has no valid membership certificate; the text says why."""

    code = "not-a-member"


@attrs.frozen(kw_only=True)
class MemberCertificate:
    """A valid certificate. Whether it is revoked is for the caller to know.

    Attributes:
        type, serial_number: 32 bytes in base64 each.
        revocation_outpoint: ``txid.index``; spent, once the certifier revokes.
    """

    certifier: IdentityKey
    type: str
    serial_number: str
    revocation_outpoint: str


def issue(
    certifier: PrivateKey, subject: IdentityKey, *, type: str, serial_number: str, outpoint: str = NEVER_REVOKED
) -> bytes:
    """A certificate without fields, as canonical JSON (BRC-52).

    Args:
        type, serial_number: 32 bytes in base64 each.

    Raises:
        InvalidAuthenticationError: one of them is not.
    """
    signed = certificate_bytes(type, serial_number, subject, certifier.identity, outpoint, {})
    return canonical_json(
        {
            "type": type,
            "serialNumber": serial_number,
            "subject": subject.hex(),
            "certifier": certifier.identity.hex(),
            "revocationOutpoint": outpoint,
            "fields": {},
            "signature": keys.sign(certifier, SIGNATURE_PROTOCOL, f"{type} {serial_number}", signed).hex(),
        }
    )


def check_membership(
    document: bytes, subject: IdentityKey, trusted: Collection[tuple[IdentityKey, str]]
) -> MemberCertificate:
    """Check that a node is certified by a trusted certifier.

    Args:
        trusted: (certifier, type in base64); any of them will do.

    Raises:
        NotAMemberError: there is no certificate, or it is malformed, another's, or of nobody trusted.
    """
    if not document:
        raise NotAMemberError("no membership certificate was shown")
    if len(document) > MEMBERSHIP_BYTES_MAX:
        raise NotAMemberError(f"a membership certificate must have at most {MEMBERSHIP_BYTES_MAX} bytes")
    try:
        return _checked(document, subject, trusted)
    except NotAMemberError:
        raise
    except (OverlayError, ValueError, KeyError, TypeError) as error:
        raise NotAMemberError(f"the membership certificate is malformed: {error}") from error


def _checked(
    document: bytes, subject: IdentityKey, trusted: Collection[tuple[IdentityKey, str]]
) -> MemberCertificate:
    members = parse_json(document)
    if not isinstance(members, dict):
        raise NotAMemberError("the membership certificate must be an object")
    kind, serial, outpoint = (str(members[name]) for name in ("type", "serialNumber", "revocationOutpoint"))
    if members["subject"] != subject.hex():
        raise NotAMemberError("the membership certificate is of another node")
    certifier = bytes.fromhex(str(members["certifier"]))
    if (certifier, kind) not in trusted:
        raise NotAMemberError("no certifier of this network issued the membership certificate")
    given = members.get("fields") or {}
    if not isinstance(given, dict):
        raise NotAMemberError("the fields of the membership certificate must be an object")
    fields = {str(name): str(value) for name, value in given.items()}
    signed = certificate_bytes(kind, serial, subject, certifier, outpoint, fields)
    signature = bytes.fromhex(str(members["signature"]))
    if not keys.verify(certifier, SIGNATURE_PROTOCOL, f"{kind} {serial}", signed, signature):
        raise NotAMemberError("the membership certificate is not signed by its certifier")
    return MemberCertificate(certifier=certifier, type=kind, serial_number=serial, revocation_outpoint=outpoint)
