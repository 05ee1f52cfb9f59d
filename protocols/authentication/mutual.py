"""Mutual authentication over HTTP: BRC-103 messages in the HTTP form of BRC-104, as the official SDK sends them.

Every signature is BRC-3 under protocol ``2, auth message signature``, counterparty the other side, key ID two base64
nonces. Where the BRC and the SDK differ, the SDK's form is used: version ``0.1``; an empty body of a request is
signed as length -1, and one of a response as length 0.
"""

import base64
from collections.abc import Sequence
from typing import Final

import orjson

from protocols.authentication.certificates import (
    CERTIFICATES_MAX,
    CheckedCertificate,
    RequestedCertificates,
    check_certificate,
)
from protocols.authentication.requests import (
    SIGNATURE_BYTES_MAX,
    SIGNED_BYTES_MAX,
    SIGNED_HEADERS_MAX,
    HttpRequest,
    icu_key,
    invalid,
    read_base64,
    read_identity,
    read_message,
    read_nonce,
    read_signature,
    read_text,
    sole_headers,
)
from protocols.authentication.sessions import (
    Book,
    Session,
    SessionClaim,
    SessionExchange,
    SessionLimits,
    digest_of,
    new_nonce,
    sign_for,
)
from protocols.canonical import Json
from protocols.compact_size import write_compact_size, write_sized
from protocols.errors import InvalidAuthenticationError, NotAuthenticatedError
from protocols.keys import PrivateKey, Protocol

HANDSHAKE_PATH: Final = "/.well-known/auth"
VERSION: Final = "0.1"
PROTOCOL: Final[Protocol] = (2, "auth message signature")
REQUEST_ID_BYTES: Final = 32
NOTHING: Final = b"\xff" * 9  # the length -1

_NAMES: Final = tuple(
    f"x-bsv-auth-{name}" for name in ("version", "identity-key", "nonce", "your-nonce", "signature", "request-id")
)


class SessionBook(Book):
    """The sessions of BRC-103/104 at this node.

    Attributes:
        requested: What clients are asked to show; can be replaced.
    """

    def __init__(
        self,
        key: PrivateKey,
        *,
        requested: RequestedCertificates | None = None,
        limits: SessionLimits | None = None,
    ) -> None:
        super().__init__(key, limits or SessionLimits())
        self.requested = requested or RequestedCertificates()

    def handshake(self, body: bytes, *, now_ms: int, entropy: bytes) -> bytes:
        """Answer ``POST /.well-known/auth``: an initialRequest opens a session, a certificateResponse adds to one.

        Args:
            entropy: 32 fresh random bytes.

        Returns:
            JSON.

        Raises:
            InvalidAuthenticationError: a malformed message, or one whose certificates are all refused.
            NotAuthenticatedError: a certificateResponse that its session's identity did not sign, or a replay.
        """
        message = read_message(body)
        if message.get("version") != VERSION:
            raise invalid("version", "the version is not supported", f"use version {VERSION}")
        kind = message.get("messageType")
        if kind == "initialRequest":
            return self._open(message, now_ms, entropy)
        if kind == "certificateResponse":
            return self._take_certificates(message, now_ms)
        raise invalid("messageType", "the message type is not accepted", "send initialRequest or certificateResponse")

    def claim(self, request: HttpRequest, *, now_ms: int) -> SessionClaim:
        values = sole_headers(request, _NAMES)
        version, identity_text, nonce, session_nonce, signature, request_id = (values[name] for name in _NAMES)
        if version != VERSION:
            raise invalid("x-bsv-auth-version", "the version is not supported", f"use version {VERSION}")
        read_nonce(nonce, "x-bsv-auth-nonce")
        request_id_bytes = read_base64(
            request_id, "x-bsv-auth-request-id", bytes_min=REQUEST_ID_BYTES, bytes_max=REQUEST_ID_BYTES
        )
        identity = read_identity(identity_text, "x-bsv-auth-identity-key")
        signature_bytes = read_signature(signature, "x-bsv-auth-signature")
        session = self._sessions.find_for(session_nonce, identity, nonce, now_ms)
        return SessionClaim(
            identity=session.identity,
            session=session.nonce,
            peer_nonce=session.peer_nonce,
            nonce=nonce,
            request_id=request_id_bytes,
            protocol=PROTOCOL,
            signed=(request_head(request, request_id_bytes), request.body),
            signature=signature_bytes,
        )

    def certificates(self, exchange: SessionExchange, *, now_ms: int) -> tuple[CheckedCertificate, ...] | None:
        """The certificates of an exchange's session by now; None while the client owes an answer.

        An exchange whose session is over has those it had.
        """
        try:
            session = self._sessions.find(exchange.session, now_ms)
        except NotAuthenticatedError:
            return exchange.certificates
        return self._certificates_of(session)

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
        digest = digest_of((response_head(exchange.request_id, status, headers, len(body)), body))
        signature = self._key.sign_digest(
            PROTOCOL, f"{nonce} {exchange.peer_nonce}", digest, exchange.identity, once=True
        )
        return (
            ("x-bsv-auth-version", VERSION),
            ("x-bsv-auth-identity-key", self._key.identity.hex()),
            ("x-bsv-auth-nonce", nonce),
            ("x-bsv-auth-your-nonce", exchange.peer_nonce),
            ("x-bsv-auth-request-id", base64.b64encode(exchange.request_id).decode()),
            ("x-bsv-auth-signature", signature.hex()),
        )

    def _open(self, message: dict[str, Json], now_ms: int, entropy: bytes) -> bytes:
        identity = read_identity(read_text(message.get("identityKey"), "identityKey"), "identityKey")
        peer_nonce = read_text(message.get("initialNonce"), "initialNonce")
        peer_nonce_bytes = read_nonce(peer_nonce, "initialNonce")
        nonce = new_nonce(entropy)
        key_id = f"{peer_nonce} {nonce}"
        signature = sign_for(self._key, identity, PROTOCOL, key_id, peer_nonce_bytes + entropy)
        self._sessions.open(nonce=nonce, peer_nonce=peer_nonce, identity=identity, now_ms=now_ms)
        answer = {
            "version": VERSION,
            "messageType": "initialResponse",
            "identityKey": self._key.identity.hex(),
            "initialNonce": nonce,
            "yourNonce": peer_nonce,
            "requestedCertificates": self.requested.to_json(),
            "signature": list(signature),
        }
        return orjson.dumps(answer)

    def _take_certificates(self, message: dict[str, Json], now_ms: int) -> bytes:
        claim, documents = self._certificate_claim(message, now_ms)
        session = self._admitted(claim, claim.verify(self._key), now_ms)
        good: dict[str, CheckedCertificate] = dict(session.certificates or {})
        refusals: list[InvalidAuthenticationError] = []
        for document in documents:
            try:
                checked = check_certificate(self._key, document, subject=session.identity, requested=self.requested)
            except InvalidAuthenticationError as refusal:
                refusals.append(refusal)
                continue
            if checked.serial_number in good or len(good) < CERTIFICATES_MAX:
                good[checked.serial_number] = checked
        session.certificates = good
        if refusals and len(refusals) == len(documents):
            raise refusals[0]
        answer = {
            "version": VERSION,
            "messageType": "certificatesReceived",
            "accepted": len(documents) - len(refusals),
            "refused": [str(refusal) for refusal in refusals],
        }
        return orjson.dumps(answer)

    def _certificate_claim(self, message: dict[str, Json], now_ms: int) -> tuple[SessionClaim, list[Json]]:
        names = ("identityKey", "nonce", "yourNonce")
        identity_text, nonce, session_nonce = (read_text(message.get(name), name) for name in names)
        identity = read_identity(identity_text, "identityKey")
        read_nonce(nonce, "nonce")
        documents = message.get("certificates")
        if not isinstance(documents, list) or len(documents) > CERTIFICATES_MAX:
            raise invalid("certificates", f"must be an array of at most {CERTIFICATES_MAX}", "send fewer")
        session = self._sessions.find_for(session_nonce, identity, nonce, now_ms)
        claim = SessionClaim(
            identity=session.identity,
            session=session.nonce,
            peer_nonce=session.peer_nonce,
            nonce=nonce,
            protocol=PROTOCOL,
            signed=(stringified(documents),),
            signature=_read_signature_array(message.get("signature")),
        )
        return claim, documents

    def _certificates_of(self, session: Session) -> tuple[CheckedCertificate, ...] | None:
        if session.certificates is None:
            return None if self.requested else ()
        return tuple(session.certificates.values())


def request_head(request: HttpRequest, request_id: bytes) -> bytes:
    """The signed bytes of a request (BRC-104) up to its body.

    Raises:
        InvalidAuthenticationError: too large, a signed header is repeated, or its name has no place in the order.
    """
    signed: dict[str, bytes] = {}
    for raw_name, raw_value in request.headers:
        if not _is_signed(raw_name) and raw_name != b"content-type":
            continue
        name = raw_name.decode("latin-1")
        if name in signed:
            raise invalid(name, "the header is repeated", "send it once")
        value = raw_value.split(b";")[0] if raw_name == b"content-type" else raw_value
        # the SDK signs the UTF-8 of what fetch makes of the bytes, which is their latin-1 decoding
        signed[name] = value.strip(b" \t").decode("latin-1").encode()
    if len(signed) > SIGNED_HEADERS_MAX:
        raise invalid("headers", f"more than {SIGNED_HEADERS_MAX} signed headers", "send fewer")
    head = b"".join(
        (
            request_id,
            write_sized(request.method.encode()),
            write_sized(request.path or b"/"),
            write_sized(b"?" + request.query) if request.query else NOTHING,
            _signed_headers(signed),
            write_compact_size(len(request.body)) if request.body else NOTHING,
        )
    )
    if len(head) > SIGNED_BYTES_MAX:
        raise invalid("headers", f"path and signed headers are over {SIGNED_BYTES_MAX} bytes", "send less")
    return head


def response_head(request_id: bytes, status: int, headers: Sequence[tuple[str, str]], body_bytes: int) -> bytes:
    """The signed bytes of a response (BRC-104) up to its body. Repeated headers count joined, as fetch joins them."""
    signed: dict[str, str] = {}
    for raw_name, value in headers:
        name = raw_name.lower()
        if _is_signed(name.encode()):
            signed[name] = f"{signed[name]}, {value.strip()}" if name in signed else value.strip()
    encoded = {name: value.encode() for name, value in signed.items()}
    return request_id + write_compact_size(status) + _signed_headers(encoded) + write_compact_size(body_bytes)


def stringified(value: Json) -> bytes:
    """What ``JSON.stringify`` makes of a parsed value without numbers: keys in the order received, no spaces."""
    return orjson.dumps(value)


def _is_signed(name: bytes) -> bool:
    return name == b"authorization" or (name.startswith(b"x-bsv-") and not name.startswith(b"x-bsv-auth"))


def _signed_headers(headers: dict[str, bytes]) -> bytes:
    try:
        names = sorted(headers, key=icu_key)
    except KeyError as error:
        raise invalid("headers", "a signed header's name is not plain ASCII", "use letters, digits and -") from error
    return write_compact_size(len(names)) + b"".join(
        write_sized(name.encode()) + write_sized(headers[name]) for name in names
    )


def _read_signature_array(value: Json) -> bytes:
    if (
        not isinstance(value, list)
        or len(value) > SIGNATURE_BYTES_MAX
        or not all(type(byte) is int and 0 <= byte < 256 for byte in value)
    ):
        raise invalid("signature", "must be a signature", "send a DER signature as an array of bytes")
    return bytes(value)  # type: ignore[arg-type]
