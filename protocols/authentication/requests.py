"""HTTP requests as they were on the wire, and strict parsers for their headers."""

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

import attrs

from protocols.canonical import Json, parse_json
from protocols.errors import InvalidAuthenticationError, InvalidJsonError
from protocols.keys import GENERATOR

AuthenticationForm: TypeAlias = Literal["session", "headers", "authrite"]

HEADER_BYTES_MAX: Final = 8_192  # the value of one header that is signed
SIGNED_BYTES_MAX: Final = 16_384  # method, path, query and signed headers together
TARGET_BYTES_MAX: Final = 8_192
SIGNED_HEADERS_MAX: Final = 64
SIGNATURE_BYTES_MAX: Final = 72  # of DER
NONCE_BYTES_MIN, NONCE_BYTES_MAX = 16, 64
HANDSHAKE_BYTES_MAX: Final = 131_072
HANDSHAKE_DEPTH_MAX: Final = 8

SESSION_PREFIX: Final = b"x-bsv-auth-"
AUTHRITE_PREFIX: Final = b"x-authrite"

_HEX: Final = re.compile(r"(?:[0-9a-f]{2})+")
_IDENTITY: Final = re.compile(r"0[23][0-9a-f]{64}")
# The order of ICU, which `localeCompare` sorts ASCII text in: letters by case last, lower case before upper.
_ICU_ORDER: Final = {
    letter: place
    for place, letter in enumerate(" _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789abcdefghijklmnopqrstuvwxyz")
}


@attrs.frozen(kw_only=True)
class HttpRequest:
    """A request, exactly as it was on the wire.

    Attributes:
        path: Percent-encoded.
        query: Percent-encoded, without the question mark; empty if there is none.
        headers: Names in lower case, in the order received.
    """

    method: str
    path: bytes
    query: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""

    @property
    def target(self) -> bytes:
        return self.path + b"?" + self.query if self.query else self.path


def form_of(request: HttpRequest) -> AuthenticationForm | None:
    """Which form of authentication a request uses; None if it is anonymous.

    ``X-Nonce`` or ``X-Signature`` alone are somebody else's: sources of events sign their bodies so.

    Raises:
        InvalidAuthenticationError: it uses two forms at once.
    """
    forms: set[AuthenticationForm] = set()
    names = {name for name, _ in request.headers if name.startswith(b"x-")}
    if any(name.startswith(SESSION_PREFIX) for name in names):
        forms.add("session")
    if any(name.startswith(AUTHRITE_PREFIX) for name in names):
        forms.add("authrite")
    if b"x-identity-key" in names or names >= {b"x-nonce", b"x-signature"}:
        forms.add("headers")
    if len(forms) > 1:
        raise invalid("headers", "the request proves an identity in two ways at once", "use one of them")
    return forms.pop() if forms else None


def invalid(field: str, what: str, remedy: str) -> InvalidAuthenticationError:
    """The error for a header or member ``field`` that is not in its form."""
    return InvalidAuthenticationError(f"{field}: {what}", field=field, remedy=remedy)


def sole_headers(request: HttpRequest, names: Iterable[str]) -> dict[str, str]:
    """The headers of these names, each of which is there once, is plain ASCII and not too long."""
    wanted = {name.encode(): name for name in names}
    found: dict[str, str] = {}
    for raw_name, raw_value in request.headers:
        name = wanted.get(raw_name)
        if name is None:
            continue
        if name in found:
            raise invalid(name, "the header is repeated", "send it once")
        if len(raw_value) > HEADER_BYTES_MAX:
            raise invalid(name, f"longer than {HEADER_BYTES_MAX} bytes", "send a shorter value")
        if not raw_value.isascii():
            raise invalid(name, "not plain ASCII", "send ASCII only")
        found[name] = raw_value.decode("ascii").strip(" \t")
    for name in wanted.values():
        if not found.get(name):
            raise invalid(name, "the header is missing", f"send all of {', '.join(wanted.values())}")
    return found


def read_text(value: Json, field: str) -> str:
    """A member of a JSON message that is text."""
    if not isinstance(value, str):
        raise invalid(field, "must be a string", "send it as a string")
    return value


def read_identity(text: str, field: str) -> bytes:
    """An identity key from 66 lower-case hex digits, 33 bytes.

    The key of ``anyone`` (the generator, whose private key is 1) is nobody's identity. Whether the bytes are a
    point of the curve shows when they are first used.
    """
    if _IDENTITY.fullmatch(text) is None:
        raise invalid(field, "must be an identity key", "send a compressed public key, 66 lower-case hex digits")
    identity = bytes.fromhex(text)
    if identity == GENERATOR:
        raise invalid(field, "must not be the key of `anyone`", "use a key of your own")
    return identity


def read_signature(text: str, field: str) -> bytes:
    """A DER signature from lower-case hex digits; whether it is one, verification decides."""
    if len(text) > 2 * SIGNATURE_BYTES_MAX or _HEX.fullmatch(text) is None:
        raise invalid(field, "must be a signature", "send a DER signature in lower-case hex digits")
    return bytes.fromhex(text)


def read_base64(text: str, field: str, *, bytes_min: int, bytes_max: int) -> bytes:
    """Bytes from standard base64 with padding, in its one form."""
    wanted = str(bytes_min) if bytes_min == bytes_max else f"{bytes_min} to {bytes_max}"
    remedy = f"send {wanted} bytes in base64, with padding"
    if not text.isascii() or len(text) > (bytes_max + 2) // 3 * 4:
        raise invalid(field, "must be standard base64 of the right length", remedy)
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise invalid(field, "must be base64", remedy) from error
    if not bytes_min <= len(data) <= bytes_max or base64.b64encode(data).decode() != text:
        raise invalid(field, "must be standard base64 of the right length", remedy)
    return data


def read_nonce(text: str, field: str) -> bytes:
    """A nonce from base64, ``NONCE_BYTES_MIN`` to ``NONCE_BYTES_MAX`` bytes."""
    return read_base64(text, field, bytes_min=NONCE_BYTES_MIN, bytes_max=NONCE_BYTES_MAX)


def read_message(body: bytes) -> dict[str, Json]:
    """A message of a handshake.

    Raises:
        InvalidAuthenticationError: too long, or no JSON object that has one meaning.
    """
    if len(body) > HANDSHAKE_BYTES_MAX:
        raise invalid("body", f"longer than {HANDSHAKE_BYTES_MAX} bytes", "send a shorter message")
    try:
        message = parse_json(body, depth_max=HANDSHAKE_DEPTH_MAX)
    except InvalidJsonError as error:
        raise invalid("body", str(error), "send one JSON object in UTF-8") from error
    if not isinstance(message, dict):
        raise invalid("body", "must be a JSON object", "send one JSON object in UTF-8")
    return message


def icu_key(name: str) -> tuple[list[int], list[bool]]:
    """Sorts printable ASCII names as ``localeCompare`` of JavaScript does.

    Raises:
        KeyError: another character.
    """
    return [_ICU_ORDER[letter] for letter in name.lower()], [letter.isupper() for letter in name]
