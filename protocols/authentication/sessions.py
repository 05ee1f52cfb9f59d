"""Sessions that a handshake opened, and the proof that each request in them gives.

A handshake is unsigned and proves nothing. Its session waits in a pool of its own until a message in it is verified;
only that proves the identity, and gives the session a place among those of the identity. So handshakes in another's
name cost that identity nothing, whatever their number.
"""

import base64
import hashlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from protocols.authentication.certificates import CheckedCertificate
from protocols.authentication.requests import NONCE_BYTES_MAX, HttpRequest, invalid
from protocols.errors import InvalidKeyError, NotAuthenticatedError
from protocols.keys import PrivateKey, Protocol

SHAKE_HANDS: Final = "shake hands again"
ENTROPY_BYTES_MIN: Final = 32  # in a nonce of ours


@attrs.frozen(kw_only=True)
class SessionLimits:
    """Bounds of all sessions of one kind. Past any of them a session is over, and its client shakes hands again.

    Attributes:
        sessions_max: Proven sessions. The one that was used least recently makes room.
        per_identity_max: Proven sessions of one identity. Of its own the least recently used makes room.
        unproven_max: Sessions whose client has proven nothing yet. The oldest makes room.
        unproven_ms: How long a client may take to prove its identity.
        idle_ms: How long a session lasts without a request.
        life_ms: How long it lasts at all.
        requests_max: Requests in one session: each one's nonce is remembered as long as the session lasts.
        nonces_max: Nonces remembered for all sessions together. The session with the most makes room.
    """

    sessions_max: int = 4_096
    per_identity_max: int = 32
    unproven_max: int = 16_384
    unproven_ms: int = 60_000
    idle_ms: int = 3_600_000
    life_ms: int = 86_400_000
    requests_max: int = 10_000
    nonces_max: int = 250_000


@attrs.define(eq=False, kw_only=True)
class Session:
    """One handshake and its state.

    Attributes:
        nonce: Ours, in base64: the session's name.
        peer_nonce: The client's, in base64.
        seen: Nonces of the requests so far, as text.
        certificates: By serial number; None until the client has answered a request for some.
    """

    nonce: str
    peer_nonce: str
    identity: bytes
    opened_ms: int
    used_ms: int
    proven: bool = False
    seen: set[str] = attrs.field(factory=set)
    certificates: Mapping[str, CheckedCertificate] | None = None


@attrs.frozen(kw_only=True)
class SessionClaim:
    """What a message claims, read from its headers: that ``identity`` signed ``signed`` in this session.

    Attributes:
        session: The session's name.
        peer_nonce: The client's nonce of the handshake.
        nonce: The message's own.
        request_id: 32 bytes, to be repeated in the response; empty where the form has none.
        signed: The signed bytes, in parts.
        signed_instead: What the same message may have been signed as, too; no parts if nothing.
    """

    identity: bytes
    session: str
    peer_nonce: str
    nonce: str
    request_id: bytes = b""
    protocol: Protocol
    signed: tuple[bytes, ...]
    signature: bytes
    signed_instead: tuple[bytes, ...] = ()

    def verify(self, key: PrivateKey) -> bool:
        """Whether the signature holds. Pure: long bodies may be verified in any thread."""
        return self._covers(key, self.signed) or bool(self.signed_instead and self._covers(key, self.signed_instead))

    def _covers(self, key: PrivateKey, parts: tuple[bytes, ...]) -> bool:
        key_id = f"{self.nonce} {self.session}"
        return key.verify_digest_of(self.identity, self.protocol, key_id, digest_of(parts), self.signature)


@attrs.frozen(kw_only=True)
class SessionExchange:
    """A request whose claim was verified, with what its response needs.

    Attributes:
        identity: Proven, 33 bytes.
        opened_ms: When the session was opened.
        certificates: Those checked so far in this session; see also ``SessionBook.certificates``.
        certificates_pending: Certificates were requested, and the client has not answered yet.
    """

    identity: bytes
    session: str
    peer_nonce: str
    nonce: str
    request_id: bytes
    opened_ms: int
    certificates: tuple[CheckedCertificate, ...] = ()
    certificates_pending: bool = False


class Sessions:
    """All sessions of one kind, within their limits. For one thread at a time."""

    def __init__(self, limits: SessionLimits) -> None:
        self._limits = limits
        self._unproven: OrderedDict[str, Session] = OrderedDict()  # by age
        self._proven: OrderedDict[str, Session] = OrderedDict()  # by last use
        self._of_identity: dict[bytes, OrderedDict[str, Session]] = {}  # by last use
        self._nonces = 0

    def open(self, *, nonce: str, peer_nonce: str, identity: bytes, now_ms: int) -> Session:
        """A new session, unproven."""
        assert nonce not in self._unproven, "entropy does not repeat"
        assert nonce not in self._proven, "entropy does not repeat"
        self._drop_expired(now_ms)
        if len(self._unproven) >= self._limits.unproven_max:
            self._unproven.popitem(last=False)
        session = Session(nonce=nonce, peer_nonce=peer_nonce, identity=identity, opened_ms=now_ms, used_ms=now_ms)
        self._unproven[nonce] = session
        return session

    def find(self, nonce: str, now_ms: int) -> Session:
        """The session of this name.

        Raises:
            NotAuthenticatedError: there is none, or none any more.
        """
        session = self._proven.get(nonce) or self._unproven.get(nonce)
        if session is None or self._expired(session, now_ms):
            raise NotAuthenticatedError("the session is unknown or has ended", remedy=SHAKE_HANDS)
        return session

    def find_for(self, nonce: str, identity: bytes, message_nonce: str, now_ms: int) -> Session:
        """The session of this name, for a message of ``identity`` with a nonce that is new in it.

        Raises:
            NotAuthenticatedError: there is none any more, it is another's, or the message is a replay.
        """
        session = self.find(nonce, now_ms)
        if session.identity != identity:
            raise NotAuthenticatedError(
                "the identity is not the one of the session", remedy="shake hands as the identity that sends"
            )
        _check_new(session, message_nonce)
        return session

    def spend(self, session: Session, nonce: str, now_ms: int) -> None:
        """Take note of a verified message: its nonce is spent, and the session is proven.

        Raises:
            NotAuthenticatedError: the nonce was spent before, or the session has had as many as it may.
        """
        _check_new(session, nonce)
        if len(session.seen) >= self._limits.requests_max:
            self._close(session)
            raise NotAuthenticatedError("the session has used up its requests", remedy=SHAKE_HANDS)
        if not session.proven:
            self._prove(session)
        session.seen.add(nonce)
        session.used_ms = max(session.used_ms, now_ms)
        self._proven.move_to_end(session.nonce)
        self._of_identity[session.identity].move_to_end(session.nonce)
        self._nonces += 1
        while self._nonces > self._limits.nonces_max:
            self._close(max(self._proven.values(), key=lambda each: len(each.seen)))

    def counts(self) -> tuple[int, int, int]:
        """Proven sessions, unproven sessions, nonces remembered."""
        return len(self._proven), len(self._unproven), self._nonces

    def _prove(self, session: Session) -> None:
        del self._unproven[session.nonce]
        session.proven = True
        siblings = self._of_identity.setdefault(session.identity, OrderedDict())
        if len(siblings) >= self._limits.per_identity_max:
            self._close(next(iter(siblings.values())))
        elif len(self._proven) >= self._limits.sessions_max:
            self._close(next(iter(self._proven.values())))
        self._proven[session.nonce] = session
        self._of_identity.setdefault(session.identity, OrderedDict())[session.nonce] = session

    def _close(self, session: Session) -> None:
        del self._proven[session.nonce]
        siblings = self._of_identity[session.identity]
        del siblings[session.nonce]
        if not siblings:
            del self._of_identity[session.identity]
        self._nonces -= len(session.seen)

    def _expired(self, session: Session, now_ms: int) -> bool:
        if not session.proven:
            return now_ms - session.opened_ms > self._limits.unproven_ms
        return now_ms - session.used_ms > self._limits.idle_ms or now_ms - session.opened_ms > self._limits.life_ms

    def _drop_expired(self, now_ms: int) -> None:
        while self._unproven and self._expired(oldest := next(iter(self._unproven.values())), now_ms):
            del self._unproven[oldest.nonce]
        while self._proven and self._expired(oldest := next(iter(self._proven.values())), now_ms):
            self._close(oldest)


class Book(ABC):
    """The sessions of a node in one form of authentication. One thread at a time, except ``SessionClaim.verify``."""

    def __init__(self, key: PrivateKey, limits: SessionLimits) -> None:
        self._key = key
        self._sessions = Sessions(limits)

    @abstractmethod
    def claim(self, request: HttpRequest, *, now_ms: int) -> SessionClaim:
        """Read what a request claims, without verifying any of it.

        Raises:
            InvalidAuthenticationError: headers missing, repeated, malformed or too large.
            NotAuthenticatedError: no such session, another identity than the session's, or a replay.
        """

    def authenticate(self, request: HttpRequest, *, now_ms: int) -> SessionExchange:
        """Prove who sent a request: ``claim``, ``SessionClaim.verify`` and ``admit`` in one.

        Raises: as those do.
        """
        claim = self.claim(request, now_ms=now_ms)
        return self.admit(claim, claim.verify(self._key), now_ms=now_ms)

    @abstractmethod
    def handshake(self, body: bytes, *, now_ms: int, entropy: bytes) -> bytes:
        """Answer a message of a handshake.

        Args:
            entropy: Fresh random bytes, 32 at least.

        Returns:
            JSON.

        Raises:
            InvalidAuthenticationError: malformed, too long, or nothing that is taken here.
            NotAuthenticatedError: it belongs to a session, and that session's identity did not send it.
        """

    @abstractmethod
    def sign_response(
        self,
        exchange: SessionExchange,
        *,
        status: int,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        entropy: bytes,
    ) -> tuple[tuple[str, str], ...]:
        """The headers that prove a response. Pure: long bodies may be signed in any thread.

        Args:
            headers: All others of the response, as they will be sent.
            body: As the client will see it: empty for HEAD.
            entropy: Fresh random bytes, 32 at least.
        """

    def admit(self, claim: SessionClaim, valid: bool, *, now_ms: int) -> SessionExchange:
        """Take note of a claim that was verified.

        Raises:
            NotAuthenticatedError: it is not valid, it is a replay, or its session is over.
        """
        session = self._admitted(claim, valid, now_ms)
        certificates = self._certificates_of(session)
        return SessionExchange(
            identity=session.identity,
            session=session.nonce,
            peer_nonce=session.peer_nonce,
            nonce=claim.nonce,
            request_id=claim.request_id,
            opened_ms=session.opened_ms,
            certificates=certificates or (),
            certificates_pending=certificates is None,
        )

    def counts(self) -> tuple[int, int, int]:
        """Proven sessions, unproven sessions, nonces remembered."""
        return self._sessions.counts()

    def _admitted(self, claim: SessionClaim, valid: bool, now_ms: int) -> Session:
        if not valid:
            raise NotAuthenticatedError(
                "the signature is not of the session's identity over this message",
                remedy="sign what is sent, byte for byte, with the keys of this session",
            )
        session = self._sessions.find(claim.session, now_ms)
        self._sessions.spend(session, claim.nonce, now_ms)
        return session

    def _certificates_of(self, session: Session) -> tuple[CheckedCertificate, ...] | None:
        """Those of a session; None while the client owes an answer. Where none are requested, none are owed."""
        return ()


def digest_of(parts: Sequence[bytes]) -> bytes:
    """SHA-256 of the parts together, without joining them."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return state.digest()


def new_nonce(entropy: bytes) -> str:
    """A nonce of ours from fresh random bytes."""
    assert ENTROPY_BYTES_MIN <= len(entropy) <= NONCE_BYTES_MAX, "a nonce is made of enough random bytes"
    return base64.b64encode(entropy).decode()


def sign_for(key: PrivateKey, identity: bytes, protocol: Protocol, key_id: str, data: bytes) -> bytes:
    """Sign for an identity that is not proven yet.

    Raises:
        InvalidAuthenticationError: the key is not a point of the curve.
    """
    try:
        return key.sign(protocol, key_id, data, identity, once=True)
    except InvalidKeyError as error:
        raise invalid("identityKey", "must be a point of the curve", "send a compressed public key") from error


def _check_new(session: Session, nonce: str) -> None:
    if nonce in session.seen:
        raise NotAuthenticatedError("the nonce was used before", remedy="use another nonce for each message")
