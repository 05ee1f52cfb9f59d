"""Errors, by who is at fault; `node/api/problems.py` alone turns their codes into statuses."""

import copy
from typing import Any, ClassVar, Self


class OverlayError(Exception):
    """Base of all errors that are not bugs of this program.

    Attributes:
        code: Stable identifier, kebab-case, part of the public interface.
        fields: Machine-readable details, JSON values only.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(message)
        self.fields = fields

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with all fields, whatever the constructor takes: errors cross between processes."""
        return _again, (type(self), self.args), self.__dict__

    def anew(self) -> Self:
        """The same error without a traceback, for each of several tasks that raise it: one instance would gather the
        frames of all of them, and keep them alive.
        """
        return copy.copy(self)


class ClientFault(OverlayError):
    """A client sent something wrong: the error says what, and what to send instead."""

    code = "invalid-request"


class PeerFault(OverlayError):
    """A peer sent something wrong: its message is dropped and the peer is struck."""

    code = "peer-fault"


class WorldFault(OverlayError):
    """Disk, database or network failed: retried within bounds, then reported."""

    code = "unavailable"


class OwnFault(OverlayError):
    """This program, or the schema of its database, is wrong; not the sender of the item that reached it."""

    code = "internal"


class MalformedError(PeerFault):
    code = "malformed"


class UnstorableTextError(MalformedError):
    """A text with U+0000, which neither Postgres nor most readers of JSON take."""


class NonCanonicalError(PeerFault):
    code = "non-canonical"


class FrameTooLargeError(PeerFault):
    code = "frame-too-large"


class BadSignatureError(PeerFault):
    code = "bad-signature"


class WrongNetworkError(PeerFault):
    code = "wrong-network"


class InvalidProofError(PeerFault):
    code = "invalid-proof"


class InvalidJsonError(ClientFault):
    """Input is not acceptable JSON; the text names the place and the reason."""

    code = "invalid-json"


class NotCanonicalizableError(ClientFault):
    """A value has no RFC 8785 form (NaN, infinity, integer beyond 2^53 - 1, lone surrogate)."""

    code = "not-canonicalizable"


class InvalidPolicyError(ClientFault):
    code = "invalid-policy"


class InvalidTransactionError(ClientFault):
    """A transaction that cannot be valid; ``txid`` and ``why`` say which and, as a code, why."""

    code = "invalid-transaction"


class InvalidUhrpUrlError(ClientFault):
    """A text that is not a UHRP URL (BRC-26)."""

    code = "invalid-uhrp-url"


class UnreadableFieldError(ClientFault):
    """A token field that the official SDK would misread."""

    code = "unreadable-field"


class InvalidAuthenticationError(ClientFault):
    """A proof of identity has a wrong form; ``field`` names the header or member."""

    code = "invalid-authentication"


class NotAuthenticatedError(ClientFault):
    """A proof of identity that proves nothing: unknown session, wrong signature, replay."""

    code = "not-authenticated"


class InvalidKeyError(OverlayError):
    """A key, invoice number or counterparty outside BRC-42/43."""

    code = "invalid-key"


def _again(kind: type[OverlayError], arguments: tuple[Any, ...]) -> OverlayError:
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    return error
