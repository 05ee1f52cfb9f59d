"""Keys and signatures: BRC-42 child keys named by BRC-43 invoice numbers, BRC-3 signatures, BRC-77 messages.

The tweak of a child key is ``HMAC-SHA256(key = shared point, message = invoice number)``. For the counterparty
``anyone``, whose private key is 1, the shared point is the signer's own identity key: no ECDH is needed, and
every third party derives the same child from the identity key alone. That is how this project signs.

libsecp256k1 decides what a valid signature is: strict DER, low S. Signature bytes are never identifiers.
"""

import base64
import hashlib
import hmac
import re
from functools import lru_cache
from typing import Literal, TypeAlias

from coincurve import PrivateKey as Secret
from coincurve import PublicKey as Point
from coincurve.context import GLOBAL_CONTEXT

from protocols.errors import InvalidKeyError

Protocol: TypeAlias = tuple[int, str]
Counterparty: TypeAlias = bytes | Literal["self", "anyone"]

CHILDREN_CACHED = 1_024
POINTS_CACHED = 1_024
VERIFIED_CACHED = (
    8_192  # an evidence comes three times: with its result, with the order to certify, with the certificate
)
SHARED_CACHED = 8_192  # shared points, one a counterparty
GENERATOR = Secret((1).to_bytes(32, "big")).public_key.format()
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
NAME = re.compile(r"[a-z0-9]+(?: [a-z0-9]+)*")
NAME_CHARS_MIN, NAME_CHARS_MAX, LINKAGE_CHARS_MAX = 5, 400, 430
LINKAGE_PREFIX = "specific linkage revelation "
KEY_ID_UNITS_MAX = 800
MESSAGE_VERSION = bytes.fromhex("42423301")
MESSAGE_PROTOCOL: Protocol = (2, "message signing")


def invoice_number(protocol: Protocol, key_id: str) -> str:
    """``level-name-keyID`` (BRC-43), the name trimmed and in lower case, the key ID as it is.

    Raises:
        InvalidKeyError: level, name or key ID are outside BRC-43.
    """
    level, raw_name = protocol
    name = raw_name.lower().strip()
    longest = LINKAGE_CHARS_MAX if name.startswith(LINKAGE_PREFIX) else NAME_CHARS_MAX
    if level not in (0, 1, 2):
        raise InvalidKeyError("the security level of a protocol must be 0, 1 or 2")
    if not NAME_CHARS_MIN <= len(name) <= longest:
        raise InvalidKeyError(f"the name of a protocol must have {NAME_CHARS_MIN} to {longest} characters")
    if not NAME.fullmatch(name):
        raise InvalidKeyError("the name of a protocol must be lower-case letters, digits and single spaces")
    if name.endswith(" protocol"):
        raise InvalidKeyError("the name of a protocol must not end in ' protocol'")
    if not 1 <= len(key_id.encode("utf-16-le", "surrogatepass")) // 2 <= KEY_ID_UNITS_MAX:
        raise InvalidKeyError(f"a key ID must have 1 to {KEY_ID_UNITS_MAX} characters")
    return f"{level}-{name}-{key_id}"


class PrivateKey:
    """An identity's root key. Nothing of the secret shows in ``repr``.

    The shared points of recent counterparties are kept, and the recent children; ``once`` says that a key ID comes
    only once, so that its child is neither kept nor costs another its place. Safe to use from several threads.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != 32:
            raise InvalidKeyError(f"a private key must have 32 bytes, not {len(secret)}")
        try:
            self._secret = Secret(secret)
        except ValueError as error:
            raise InvalidKeyError("a private key must be from 1 to the order of the curve less 1") from error
        self.identity: bytes = self._secret.public_key.format()
        self._shared = lru_cache(SHARED_CACHED)(self._make_shared)
        self._child = lru_cache(CHILDREN_CACHED)(self._make_child)

    @classmethod
    def from_bytes(cls, secret: bytes) -> "PrivateKey":
        return cls(secret)

    def __repr__(self) -> str:
        return f"PrivateKey(identity={self.identity.hex()})"

    def to_bytes(self) -> bytes:
        """The secret, 32 bytes: for the key file and the host key only."""
        return self._secret.secret

    def derive_child(self, protocol: Protocol, key_id: str, counterparty: Counterparty) -> "PrivateKey":
        """The child private key for a protocol, key ID and counterparty (BRC-42, BRC-43)."""
        return PrivateKey(self._child(protocol, key_id, counterparty).secret)

    def derive_public(
        self, protocol: Protocol, key_id: str, counterparty: Counterparty, *, for_self: bool = False
    ) -> bytes:
        """The child public key, 33 bytes: our own (``for_self``), or the counterparty's as seen from here."""
        if for_self:
            return self._child(protocol, key_id, counterparty).public_key.format()
        return self._their_child(protocol, key_id, counterparty).format()

    def symmetric_key(self, protocol: Protocol, key_id: str, counterparty: Counterparty) -> bytes:
        """X of child private times child public, big-endian *without* leading zeros, as the SDK keys its HMACs."""
        secret = self._child_secret(protocol, key_id, counterparty)
        return self._their_child(protocol, key_id, counterparty).multiply(secret).format()[1:].lstrip(b"\0")

    def sign(
        self,
        protocol: Protocol,
        key_id: str,
        data: bytes,
        counterparty: Counterparty = "anyone",
        *,
        once: bool = False,
    ) -> bytes:
        """BRC-3 signature over SHA-256 of ``data``: RFC 6979, low S, DER."""
        return self.sign_digest(protocol, key_id, hashlib.sha256(data).digest(), counterparty, once=once)

    def sign_digest(
        self,
        protocol: Protocol,
        key_id: str,
        digest: bytes,
        counterparty: Counterparty = "anyone",
        *,
        once: bool = False,
    ) -> bytes:
        """As ``sign``, over a digest of 32 bytes that was made elsewhere."""
        if once:
            return _Signer(self._child_secret(protocol, key_id, counterparty)).sign(digest, hasher=None)
        return self._child(protocol, key_id, counterparty).sign(digest, hasher=None)

    def verify_digest_of(
        self, signer: bytes, protocol: Protocol, key_id: str, digest: bytes, signature: bytes
    ) -> bool:
        """Check a signature that ``signer`` made for this key as counterparty over a digest of 32 bytes."""
        try:
            return self._their_child(protocol, key_id, signer).verify(signature, digest, hasher=None)
        except (InvalidKeyError, ValueError):
            return False

    def _make_child(self, protocol: Protocol, key_id: str, counterparty: Counterparty) -> Secret:
        return Secret(self._child_secret(protocol, key_id, counterparty))

    def _child_secret(self, protocol: Protocol, key_id: str, counterparty: Counterparty) -> bytes:
        shared, _ = self._shared(counterparty)
        return _add_private(self._secret.secret, _tweak(shared, protocol, key_id))

    def _their_child(self, protocol: Protocol, key_id: str, counterparty: Counterparty) -> Point:
        shared, their_point = self._shared(counterparty)
        return _add(their_point, _tweak(shared, protocol, key_id))

    def _make_shared(self, counterparty: Counterparty) -> tuple[bytes, Point]:
        """The shared point, and the counterparty's own."""
        if counterparty == "self":
            their_key = self.identity
        else:
            their_key = GENERATOR if counterparty == "anyone" else bytes(counterparty)
        their_point = _point(their_key)
        if their_key == GENERATOR:
            return self.identity, their_point
        return their_point.multiply(self._secret.secret).format(), their_point


def sign(key: PrivateKey, protocol: Protocol, key_id: str, data: bytes) -> bytes:
    """BRC-3 signature, counterparty ``anyone``."""
    return key.sign(protocol, key_id, data)


def verify(identity: bytes, protocol: Protocol, key_id: str, data: bytes, signature: bytes) -> bool:
    """Check a BRC-3 signature with counterparty ``anyone``, by the signer's identity key alone.

    False for whatever is malformed: key, key ID, DER, high S. Recent answers are kept.
    """
    return _verify_once(identity, protocol, key_id, hashlib.sha256(data).digest(), signature)


def verify_from(
    key: PrivateKey, signer: bytes, protocol: Protocol, key_id: str, data: bytes, signature: bytes
) -> bool:
    """Check a BRC-3 signature that ``signer`` made for ``key`` as counterparty."""
    return key.verify_digest_of(signer, protocol, key_id, hashlib.sha256(data).digest(), signature)


def verify_digest(public: bytes, digest: bytes, signature: bytes) -> bool:
    """Check a signature over a digest of 32 bytes under a public key as it is."""
    try:
        return Point(public).verify(signature, digest, hasher=None)
    except ValueError:
        return False


def sign_message(key: PrivateKey, message: bytes, key_id: bytes, verifier: bytes | None = None) -> bytes:
    """A BRC-77 signed message for one verifier, or for anyone. ``key_id``: 32 fresh random bytes."""
    name = base64.b64encode(key_id).decode()
    signature = key.sign(MESSAGE_PROTOCOL, name, message, "anyone" if verifier is None else verifier, once=True)
    return b"".join((MESSAGE_VERSION, key.identity, verifier or b"\0", key_id, signature))


def verify_message(message: bytes, signed: bytes, verifier: PrivateKey | None = None) -> bool:
    """Check a BRC-77 signed message; False unless it is for ``verifier`` or for anyone."""
    if signed[:4] != MESSAGE_VERSION or len(signed) < 38:
        return False
    signer, rest = signed[4:37], signed[37:]
    name = base64.b64encode(rest[1:33] if rest[0] == 0 else rest[33:65]).decode()
    if rest[0] == 0:
        return verify(signer, MESSAGE_PROTOCOL, name, message, rest[33:])
    if verifier is None or not hmac.compare_digest(rest[:33], verifier.identity):
        return False
    return verify_from(verifier, signer, MESSAGE_PROTOCOL, name, message, rest[65:])


@lru_cache(maxsize=CHILDREN_CACHED)
def anyone_child(identity: bytes, protocol: Protocol, key_id: str) -> bytes:
    """The child public key that ``identity`` signs with for the counterparty ``anyone``, 33 bytes."""
    return _add(_known_point(identity), _tweak(identity, protocol, key_id)).format()


@lru_cache(maxsize=VERIFIED_CACHED)
def _verify_once(identity: bytes, protocol: Protocol, key_id: str, digest: bytes, signature: bytes) -> bool:
    try:
        child = _add(_known_point(identity), _tweak(identity, protocol, key_id))
        return child.verify(signature, digest, hasher=None)
    except (InvalidKeyError, ValueError):
        return False


class _Signer(Secret):
    """A secret that only signs: without its two public keys, which cost more than a signature."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self.context = GLOBAL_CONTEXT


def _tweak(shared: bytes, protocol: Protocol, key_id: str) -> bytes:
    try:
        invoice = invoice_number(protocol, key_id).encode()
    except UnicodeEncodeError as error:
        raise InvalidKeyError("a key ID must not contain lone surrogates") from error
    return hmac.digest(shared, invoice, hashlib.sha256)


def _point(public: bytes) -> Point:
    if len(public) != 33:
        raise InvalidKeyError("a public key must have 33 bytes, compressed")
    try:
        return Point(public)
    except ValueError as error:
        raise InvalidKeyError("a public key must be a point of the curve") from error


@lru_cache(maxsize=POINTS_CACHED)
def _known_point(identity: bytes) -> Point:
    """The point of a recent signer: to unpack it costs as much as half a signature."""
    return _point(identity)


def _add(public: Point, tweak: bytes) -> Point:
    try:
        return public.add(tweak)
    except ValueError as error:
        raise InvalidKeyError("the tweak leads off the curve") from error


def _add_private(secret: bytes, tweak: bytes) -> bytes:
    # The SDK reduces the tweak modulo the order; libsecp256k1 refuses one beyond it (chance 2^-128).
    total = (int.from_bytes(secret, "big") + int.from_bytes(tweak, "big")) % ORDER
    if total == 0:
        raise InvalidKeyError("the tweak leads to no key")
    return total.to_bytes(32, "big")
