"""UHRP (BRC-26): URLs that are hashes of content, and the tokens that say who serves it where until when.

The token is the one that the official ``tm_uhrp`` admits, not the one in the text of BRC-26, which is historical.
"""

import hashlib
import re
from typing import Final

import attrs

from protocols.compact_size import read_compact_size, write_compact_size
from protocols.errors import InvalidUhrpUrlError, MalformedError, UnreadableFieldError
from protocols.keys import PrivateKey, Protocol
from protocols.scripts import read_pushdrop
from protocols.tokens import LOCAL_HOSTS, build_linked_token, check_link, read_url
from protocols.transactions import double_sha256

PROTOCOL: Protocol = (2, "uhrp advertisement")
PREFIX: Final = bytes.fromhex("ce00")
DIGEST_BYTES: Final = 32
CHECKSUM_BYTES: Final = 4
URL_CHARS: Final = 52  # whatever the digest: the prefix fixes the size of the number
ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
DIGIT_OF: Final = {letter: value for value, letter in enumerate(ALPHABET)}
URL: Final = re.compile(f"(?:(?i:uhrp):)?(?://)?([{ALPHABET}]{{{URL_CHARS}}})")


@attrs.frozen(kw_only=True)
class UhrpAdvert:
    """A checked advertisement: ``identity`` serves the content with this SHA-256 at ``url``."""

    identity: bytes
    digest: bytes
    url: str
    expires_s: int  # Unix seconds
    size: int  # bytes


def uhrp_url(digest: bytes) -> str:
    """The URL of the content with this SHA-256, in its bare form: ``XU...``, 52 characters."""
    assert len(digest) == DIGEST_BYTES, "content is named by its SHA-256"
    named = PREFIX + digest
    value = int.from_bytes(named + double_sha256(named)[:CHECKSUM_BYTES], "big")
    letters = []
    for _ in range(URL_CHARS):
        value, digit = divmod(value, len(ALPHABET))
        letters.append(ALPHABET[digit])
    return "".join(reversed(letters))


def content_url(content: bytes) -> str:
    """The URL of some content."""
    return uhrp_url(hashlib.sha256(content).digest())


def read_uhrp_url(text: str) -> bytes:
    """The SHA-256 in a URL: bare, or after ``uhrp:``, ``uhrp://`` or ``//``, as the official SDK takes it.

    Raises:
        InvalidUhrpUrlError: the text is not such a URL, or mistyped.
    """
    match = URL.fullmatch(text)
    if match is None:
        raise InvalidUhrpUrlError(f"{text[:80]!r} is not a UHRP URL: XU and 50 characters, after uhrp:// or nothing")
    value = 0
    for letter in match[1]:
        value = value * len(ALPHABET) + DIGIT_OF[letter]
    size = len(PREFIX) + DIGEST_BYTES + CHECKSUM_BYTES
    if value.bit_length() > 8 * size:
        raise InvalidUhrpUrlError(f"{text!r} is not a UHRP URL: it has another prefix")
    data = value.to_bytes(size, "big")
    named, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if double_sha256(named)[:CHECKSUM_BYTES] != checksum or not named.startswith(PREFIX):
        raise InvalidUhrpUrlError(f"{text!r} is not a UHRP URL: its checksum or prefix is wrong")
    return named.removeprefix(PREFIX)


def build_uhrp_advert(key: PrivateKey, *, digest: bytes, url: str, expires_s: int, size: int) -> bytes:
    """The locking script that says: this identity serves this content at ``url`` until ``expires_s``.

    Args:
        digest: SHA-256 of the content, 32 bytes.
        expires_s: Unix seconds.
        size: Bytes of the content, at least 1.

    Raises:
        UnreadableFieldError: content of exactly 16 bytes, whose size the official SDK cannot read back, or of none.
    """
    if size == 0:
        raise UnreadableFieldError("empty content cannot be advertised")
    numbers = (write_compact_size(expires_s), write_compact_size(size))
    return build_linked_token(key, PROTOCOL, (key.identity, digest, url.encode(), *numbers))


def check_uhrp_advert(script: bytes, *, allow_local_urls: bool) -> UhrpAdvert:
    """Check an advertisement as the official topic manager does; whether it has expired is left to the caller.

    Args:
        allow_local_urls: Admit ``http:`` at local hosts too, for a network on one machine.

    Raises:
        MalformedError: shape, URL, expiry or size are not admitted. BadSignatureError: not linked to its key.
    """
    token = read_pushdrop(script)
    if len(token.fields) != 6:
        raise MalformedError("a UHRP advertisement must have six fields")
    identity, digest, raw_url, raw_expiry, raw_size, _ = token.fields
    if len(digest) != DIGEST_BYTES:
        raise MalformedError("a UHRP advertisement must name its content by a SHA-256")
    url = read_url(raw_url)
    local = allow_local_urls and url.scheme == "http" and url.hostname in LOCAL_HOSTS
    if url.scheme != "https" and not local:
        raise MalformedError("the URL of a UHRP advertisement must be https")
    expires_s, size = read_compact_size(raw_expiry), read_compact_size(raw_size)
    if expires_s < 1 or size < 1:
        raise MalformedError("a UHRP advertisement must have an expiry and a size")
    check_link(token, identity, PROTOCOL)
    return UhrpAdvert(identity=identity, digest=digest, url=raw_url.decode(), expires_s=expires_s, size=size)
