"""UHRP: URLs that name content, and advertisements that nobody else could have made."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import (
    BadSignatureError,
    InvalidUhrpUrlError,
    MalformedError,
    UnreadableFieldError,
)
from protocols.keys import PrivateKey
from protocols.limits import PUSHDROP_FIELDS_MAX, URL_BYTES_MAX
from protocols.scripts import pushdrop, read_pushdrop
from protocols.tokens import build_linked_token
from protocols.transactions import double_sha256
from protocols.uhrp import (
    ALPHABET,
    PROTOCOL,
    URL_CHARS,
    build_uhrp_advert,
    check_uhrp_advert,
    read_uhrp_url,
    uhrp_url,
)

KEY = PrivateKey(hashlib.sha256(b"uhrp host").digest())
DIGEST = hashlib.sha256(b"content").digest()
URL = "https://node.example/uhrp/content"
EXPIRES_S = 4_102_444_800


def advert(**changes: object) -> bytes:
    """An advertisement with some fields as they should not be."""
    fields = {"identity": KEY.identity, "digest": DIGEST, "url": URL.encode(), "expiry": b"\x7f", "size": b"\x11"}
    return build_linked_token(KEY, PROTOCOL, [bytes(field) for field in (fields | changes).values()])  # type: ignore


@given(st.binary(min_size=32, max_size=32), st.sampled_from(["", "uhrp:", "uhrp://", "UhRp://", "//"]))
def test_urls_are_read_back(digest: bytes, prefix: str) -> None:
    url = uhrp_url(digest)
    assert len(url) == URL_CHARS
    assert url.startswith("XU")
    assert read_uhrp_url(prefix + url) == digest


@given(st.integers(0, URL_CHARS - 1), st.sampled_from(ALPHABET))
def test_a_mistyped_url_is_refused(at: int, letter: str) -> None:
    url = uhrp_url(DIGEST)
    mistyped = url[:at] + letter + url[at + 1 :]
    if mistyped != url:
        with pytest.raises(InvalidUhrpUrlError):
            read_uhrp_url(mistyped)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "uhrp://",
        uhrp_url(DIGEST) + "\n",
        " " + uhrp_url(DIGEST),
        "uhrp:///" + uhrp_url(DIGEST),
        "uhrp:uhrp:" + uhrp_url(DIGEST),
        uhrp_url(DIGEST) + "?",
        "z" * URL_CHARS,
        "X" * 100_000,
        "1" * URL_CHARS,
    ],
)
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(InvalidUhrpUrlError):
        read_uhrp_url(text)


def test_another_prefix_is_refused_with_its_right_checksum() -> None:
    named = bytes.fromhex("ce01") + DIGEST
    value, letters = int.from_bytes(named + double_sha256(named)[:4], "big"), ""
    while value:
        value, digit = divmod(value, 58)
        letters = ALPHABET[digit] + letters
    with pytest.raises(InvalidUhrpUrlError, match="prefix"):
        read_uhrp_url(letters)


@given(st.integers(1, 2**40).filter(lambda size: size != 16), st.integers(17, 2**40))
def test_advertisements_are_read_back(size: int, expires_s: int) -> None:
    script = build_uhrp_advert(KEY, digest=DIGEST, url=URL, expires_s=expires_s, size=size)
    checked = check_uhrp_advert(script, allow_local_urls=False)
    assert (checked.identity, checked.digest, checked.url) == (KEY.identity, DIGEST, URL)
    assert (checked.expires_s, checked.size) == (expires_s, size)


@pytest.mark.parametrize("size", [0, 16])
def test_what_the_sdk_cannot_read_back_is_not_advertised(size: int) -> None:
    with pytest.raises(UnreadableFieldError):
        build_uhrp_advert(KEY, digest=DIGEST, url=URL, expires_s=EXPIRES_S, size=size)


def test_a_field_that_the_sdk_misreads_is_refused_from_others_too() -> None:
    fields = (KEY.identity, DIGEST, URL.encode(), b"\x7f", b"\x10")
    signature = KEY.sign(PROTOCOL, "1", b"".join(fields))
    locking_key = KEY.derive_public(PROTOCOL, "1", "anyone", for_self=True)
    with pytest.raises(MalformedError, match="10 hex"):
        check_uhrp_advert(pushdrop(locking_key, (*fields, signature)), allow_local_urls=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": DIGEST[:31]},
        {"digest": DIGEST + b"!"},
        {"identity": b"\2" + bytes(32)},
        {"identity": b"\2"},
        {"expiry": b"\0"},
        {"expiry": b"\xfd\x01\x00"},
        {"size": b"\0"},
        {"size": b"\x05\x05"},
        {"url": b"http://node.example/x"},
        {"url": b"http://127.0.0.1:8080/x"},
        {"url": b"https:///x"},
        {"url": b"https://[/x"},
        {"url": b"https://node.example:x/"},
        {"url": b"https://node.example/a b"},
        {"url": b"https://node.exam\nple/x"},
        {"url": "https://nöde.example/x".encode()},
        {"url": b"\xff"},
        {"url": b"https://node.example/" + b"x" * URL_BYTES_MAX},
        {"more": b"field"},
    ],
)
def test_what_is_not_admitted(changes: dict[str, bytes]) -> None:
    assert check_uhrp_advert(advert(), allow_local_urls=False).size == 17
    with pytest.raises(MalformedError):
        check_uhrp_advert(advert(**changes), allow_local_urls=False)


def test_local_urls_only_where_they_are_allowed() -> None:
    script = advert(url=b"http://localhost:8080/x")
    assert check_uhrp_advert(script, allow_local_urls=True).url == "http://localhost:8080/x"
    with pytest.raises(MalformedError):
        check_uhrp_advert(advert(url=b"http://node.example/x"), allow_local_urls=True)


def test_nobody_advertises_for_another() -> None:
    other = PrivateKey(hashlib.sha256(b"another").digest())
    with pytest.raises(BadSignatureError, match="signature"):
        check_uhrp_advert(advert(identity=other.identity), allow_local_urls=False)
    token = read_pushdrop(advert())
    with pytest.raises(BadSignatureError, match="locking key"):
        check_uhrp_advert(pushdrop(other.identity, token.fields), allow_local_urls=False)


def test_any_flipped_bit_is_refused() -> None:
    script = build_uhrp_advert(KEY, digest=DIGEST, url=URL, expires_s=EXPIRES_S, size=7)
    for at in range(8 * len(script)):
        broken = bytearray(script)
        broken[at // 8] ^= 1 << at % 8
        with pytest.raises((MalformedError, BadSignatureError)):
            check_uhrp_advert(bytes(broken), allow_local_urls=True)


def test_pushdrop_fields_are_bounded() -> None:
    fits = pushdrop(KEY.identity, [b"x"] * PUSHDROP_FIELDS_MAX)
    assert len(read_pushdrop(fits).fields) == PUSHDROP_FIELDS_MAX
    with pytest.raises(MalformedError):
        read_pushdrop(pushdrop(KEY.identity, [b"x"] * (PUSHDROP_FIELDS_MAX + 1)))
