"""PushDrop tokens as overlay services admit them: signed by an identity, locked to its child key, for ``anyone``.

``<P> OP_CHECKSIG <field>... <signature> OP_2DROP... OP_DROP?`` where ``P`` is the identity's child key under the
token's protocol, key ID ``1``, and the signature covers the fields before it, one after the other.
"""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import SplitResult, urlsplit

from protocols import keys
from protocols.errors import BadSignatureError, InvalidKeyError, MalformedError, UnreadableFieldError
from protocols.keys import PrivateKey, Protocol
from protocols.limits import URL_BYTES_MAX
from protocols.scripts import PushDrop, pushdrop

KEY_ID: Final = "1"
MISREAD: Final = (b"", b"\x10")  # the official SDK reads OP_0 as 00, and OP_16 as nothing

GRAPHIC: Final = re.compile(rb"[!-~]{1,%d}" % URL_BYTES_MAX)  # urlsplit would drop newlines without a word
LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")


def build_linked_token(key: PrivateKey, protocol: Protocol, fields: Sequence[bytes]) -> bytes:
    """The locking script of a token of these fields, the identity key among them, and their signature.

    Raises:
        UnreadableFieldError: the official SDK would read a field as another than it is.
    """
    if any(field in MISREAD for field in fields):
        raise UnreadableFieldError("a field of a token must not be empty, nor the single byte 10 hex")
    signature = key.sign(protocol, KEY_ID, b"".join(fields))
    locking_key = key.derive_public(protocol, KEY_ID, "anyone", for_self=True)
    return pushdrop(locking_key, (*fields, signature))


def check_link(token: PushDrop, identity: bytes, protocol: Protocol) -> None:
    """Check that an identity made a token, as the official topic managers do.

    Raises:
        MalformedError: the identity is not a public key, or the managers would misread a field.
        BadSignatureError: signature or locking key are not the identity's.
    """
    if any(field in MISREAD for field in token.fields):
        raise MalformedError("a field of a token must not be empty, nor the single byte 10 hex")
    try:
        child = keys.anyone_child(identity, protocol, KEY_ID)
    except InvalidKeyError as error:
        raise MalformedError("the identity key must be a public key") from error
    signed, signature = b"".join(token.fields[:-1]), token.fields[-1]
    if not keys.verify(identity, protocol, KEY_ID, signed, signature):
        raise BadSignatureError("the token's signature is not linked to its identity key")
    if child != token.locking_key:
        raise BadSignatureError("the token's locking key is not linked to its identity key")


def read_url(field: bytes) -> SplitResult:
    """The URL in a field, with a host.

    Raises:
        MalformedError: it is none, not plain ASCII, or longer than ``URL_BYTES_MAX``.
    """
    if not GRAPHIC.fullmatch(field):
        raise MalformedError(f"the URL of a token must be ASCII without spaces, at most {URL_BYTES_MAX} bytes")
    try:
        parts = urlsplit(field.decode("ascii"))
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise MalformedError("the URL of a token cannot be parsed") from error
    if not host:
        raise MalformedError("the URL of a token must have a host")
    return parts
