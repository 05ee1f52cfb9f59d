"""Legacy mutual authentication: Authrite 0.1 (BRC-31), as authrite-js and authrite-express implement it.

Signatures are BRC-3 under protocol ``2, authrite message signature``, counterparty the other side. A request signs
its body or, without one, its URL; a response signs its body: neither method nor status, headers or, with a body, the
path are covered. New clients use BRC-104. No certificates are requested here.
"""

import re
from collections.abc import Sequence
from typing import Final

import orjson

from protocols.authentication.certificates import RequestedCertificates
from protocols.authentication.requests import (
    TARGET_BYTES_MAX,
    HttpRequest,
    invalid,
    read_identity,
    read_message,
    read_nonce,
    read_signature,
    read_text,
    sole_headers,
)
from protocols.authentication.sessions import (
    Book,
    SessionClaim,
    SessionExchange,
    SessionLimits,
    digest_of,
    new_nonce,
    sign_for,
)
from protocols.keys import PrivateKey, Protocol

AUTHRITE_PATH: Final = "/authrite/initialRequest"
VERSION: Final = "0.1"
PROTOCOL: Final[Protocol] = (2, "authrite message signature")

_NAMES: Final = (
    "x-authrite",
    "x-authrite-identity-key",
    "x-authrite-nonce",
    "x-authrite-yournonce",
    "x-authrite-signature",
)
_HOST: Final = re.compile(rb"[A-Za-z0-9.:\[\]_-]{1,255}")


class AuthriteBook(Book):
    """The sessions of Authrite at this node.

    Args:
        origin: Scheme, host and port that clients know this node by: ``https://node.example``.
    """

    def __init__(self, key: PrivateKey, *, origin: str, limits: SessionLimits | None = None) -> None:
        super().__init__(key, limits or SessionLimits())
        self._origin = origin.rstrip("/").encode("ascii")

    def handshake(self, body: bytes, *, now_ms: int, entropy: bytes) -> bytes:
        message = read_message(body)
        if message.get("authrite") != VERSION:
            raise invalid("authrite", "the version is not supported", f"use version {VERSION}")
        if message.get("messageType") != "initialRequest":
            raise invalid("messageType", "the message type is not accepted", "send initialRequest")
        identity = read_identity(read_text(message.get("identityKey"), "identityKey"), "identityKey")
        peer_nonce = read_text(message.get("nonce"), "nonce")
        read_nonce(peer_nonce, "nonce")
        nonce = new_nonce(entropy)
        signed = (peer_nonce + nonce).encode()
        signature = sign_for(self._key, identity, PROTOCOL, f"{peer_nonce} {nonce}", signed)
        self._sessions.open(nonce=nonce, peer_nonce=peer_nonce, identity=identity, now_ms=now_ms)
        answer = {
            "authrite": VERSION,
            "messageType": "initialResponse",
            "identityKey": self._key.identity.hex(),
            "nonce": nonce,
            "certificates": [],
            "requestedCertificates": RequestedCertificates().to_json(),
            "signature": signature.hex(),
        }
        return orjson.dumps(answer)

    def claim(self, request: HttpRequest, *, now_ms: int) -> SessionClaim:
        values = sole_headers(request, _NAMES)
        version, identity_text, nonce, session_nonce, signature = (values[name] for name in _NAMES)
        if version != VERSION:
            raise invalid("x-authrite", "the version is not supported", f"use version {VERSION}")
        read_nonce(nonce, "x-authrite-nonce")
        identity = read_identity(identity_text, "x-authrite-identity-key")
        signature_bytes = read_signature(signature, "x-authrite-signature")
        signed, signed_instead = self._signed(request)
        session = self._sessions.find_for(session_nonce, identity, nonce, now_ms)
        return SessionClaim(
            identity=session.identity,
            session=session.nonce,
            peer_nonce=session.peer_nonce,
            nonce=nonce,
            protocol=PROTOCOL,
            signed=signed,
            signed_instead=signed_instead,
            signature=signature_bytes,
        )

    def sign_response(
        self,
        exchange: SessionExchange,
        *,
        status: int,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        entropy: bytes,
    ) -> tuple[tuple[str, str], ...]:
        nonce = new_nonce(entropy)
        signature = self._key.sign_digest(
            PROTOCOL, f"{exchange.nonce} {nonce}", digest_of((body,)), exchange.identity, once=True
        )
        return (
            ("X-Authrite", VERSION),
            ("X-Authrite-Identity-Key", self._key.identity.hex()),
            ("X-Authrite-Nonce", nonce),
            ("X-Authrite-YourNonce", exchange.nonce),
            ("X-Authrite-Certificates", "[]"),
            ("X-Authrite-Signature", signature.hex()),
        )

    def _signed(self, request: HttpRequest) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """The body; or the URL, and the URL as a client names it that came by another way than the public one.

        This is not a weakness: session and signature are for this node alone, whatever host the URL names.
        """
        if request.body:
            if request.method in ("GET", "HEAD"):
                raise invalid("body", "Authrite signs no body of GET or HEAD", "send none")
            return (request.body,), ()
        target = request.target
        if len(target) > TARGET_BYTES_MAX:
            raise invalid("path", f"longer than {TARGET_BYTES_MAX} bytes", "send a shorter one")
        hosts = [value for name, value in request.headers if name == b"host"]
        if len(hosts) == 1 and _HOST.fullmatch(hosts[0]):
            return (self._origin, target), (b"http://", hosts[0], target)
        return (self._origin, target), ()
