"""The header form: one signed request, without a session before it.

``X-Identity-Key`` is the caller's identity key in hex, ``X-Nonce`` the time in decimal nanoseconds since the epoch,
``X-Signature`` the hex of a BRC-3 signature under protocol ``2, overlay http request``, key ID the nonce, and
counterparty the node's identity key: no other node can be shown the request. What is signed is::

    METHOD \\n path?query \\n nonce \\n SHA-256 of the body in hex

with path and query as they are on the wire. A nonce is good once: whoever accepts a request remembers it until it
could not be accepted any more.
"""

import hashlib
import re
from typing import Final

import attrs

from protocols.authentication.requests import (
    TARGET_BYTES_MAX,
    HttpRequest,
    invalid,
    read_identity,
    read_signature,
    sole_headers,
)
from protocols.errors import NotAuthenticatedError
from protocols.keys import PrivateKey, Protocol

PROTOCOL: Final[Protocol] = (2, "overlay http request")
AHEAD_MS_MAX: Final = 30_000  # how far a client's clock may be ahead
NAMES: Final = ("x-identity-key", "x-nonce", "x-signature")

_NONCE: Final = re.compile("[1-9][0-9]{0,18}")
_NS_PER_MS: Final = 1_000_000


@attrs.frozen(kw_only=True)
class SignedRequest:
    """A request whose signature holds.

    Attributes:
        expires_ms: Until then the nonce must be remembered, for the request could be accepted again.
    """

    identity: bytes
    nonce: str
    expires_ms: int


def authenticate_headers(key: PrivateKey, request: HttpRequest, *, now_ms: int, ttl_ms: int) -> SignedRequest:
    """Check a request in the header form. That its nonce is new is for the caller to find out.

    Args:
        key: The node's own.
        ttl_ms: How old a nonce may be.

    Raises:
        InvalidAuthenticationError: headers missing, repeated or malformed.
        NotAuthenticatedError: too old, too far ahead, or not signed by this identity for this node.
    """
    if len(request.target) > TARGET_BYTES_MAX:
        raise invalid("path", f"longer than {TARGET_BYTES_MAX} bytes", "send a shorter one")
    values = sole_headers(request, NAMES)
    identity = read_identity(values["x-identity-key"], "x-identity-key")
    signature = read_signature(values["x-signature"], "x-signature")
    nonce = values["x-nonce"]
    if _NONCE.fullmatch(nonce) is None:
        raise invalid("x-nonce", "must be a time", "send decimal nanoseconds since 1970, for instance of date +%s%N")
    sent_ms = int(nonce) // _NS_PER_MS
    if not now_ms - ttl_ms <= sent_ms <= now_ms + AHEAD_MS_MAX:
        raise NotAuthenticatedError(
            f"the nonce is {now_ms - sent_ms} ms old; {-AHEAD_MS_MAX} to {ttl_ms} is accepted",
            field="x-nonce",
            remedy="set the clock, and sign each request anew",
        )
    digest = _digest(request.method, request.target, nonce, request.body)
    if not key.verify_digest_of(identity, PROTOCOL, nonce, digest, signature):
        raise NotAuthenticatedError(
            "the signature is not of this identity, for this node, over this request",
            field="x-signature",
            remedy="sign method, path with query, nonce and the body's SHA-256, for this node's identity key",
        )
    # a clock that is set back by as much as one may be ahead brings no nonce back to life
    return SignedRequest(identity=identity, nonce=nonce, expires_ms=sent_ms + ttl_ms + AHEAD_MS_MAX)


def sign_headers(
    client_key: PrivateKey, node_identity: bytes, *, method: str, target: str, body: bytes, nonce_ns: int
) -> tuple[tuple[str, str], ...]:
    """The three headers for a request.

    Args:
        target: Path and query, percent-encoded as they will be on the wire.
        nonce_ns: The time in nanoseconds since the epoch; another one for each request of a key.
    """
    nonce = str(nonce_ns)
    digest = _digest(method, target.encode("ascii"), nonce, body)
    signature = client_key.sign_digest(PROTOCOL, nonce, digest, node_identity, once=True)
    return (
        ("X-Identity-Key", client_key.identity.hex()),
        ("X-Nonce", nonce),
        ("X-Signature", signature.hex()),
    )


def _digest(method: str, target: bytes, nonce: str, body: bytes) -> bytes:
    body_hash = hashlib.sha256(body).hexdigest()
    return hashlib.sha256(b"%b\n%b\n%b\n%b" % (method.encode(), target, nonce.encode(), body_hash.encode())).digest()
