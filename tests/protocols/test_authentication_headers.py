"""The header form: one signed request by itself, attacked."""

import hashlib

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.authentication import HttpRequest, SignedRequest, authenticate_headers, form_of, sign_headers
from protocols.errors import ClientFault, InvalidAuthenticationError, NotAuthenticatedError
from protocols.keys import GENERATOR, PrivateKey
from tests.authentication_client import high_s

NODE, ALICE, MALLORY = (PrivateKey(bytes([number]) * 32) for number in (1, 2, 3))
NOW_MS, TTL_MS = 1_790_000_000_000, 300_000
NAMES = ("x-identity-key", "x-nonce", "x-signature")


def signed(
    method: str = "POST",
    target: str = "/overlay/events/ingest?a=%20b",
    body: bytes = b"{}",
    *,
    key: PrivateKey = ALICE,
    node: bytes = NODE.identity,
    at_ms: int = NOW_MS,
) -> HttpRequest:
    proof = sign_headers(key, node, method=method, target=target, body=body, nonce_ns=at_ms * 1_000_000 + 7)
    path, _, query = target.encode().partition(b"?")
    headers = tuple((name.lower().encode(), value.encode()) for name, value in proof)
    return HttpRequest(
        method=method, path=path, query=query, headers=((b"content-type", b"application/json"), *headers), body=body
    )


def check(request: HttpRequest, *, key: PrivateKey = NODE, now_ms: int = NOW_MS) -> SignedRequest:
    return authenticate_headers(key, request, now_ms=now_ms, ttl_ms=TTL_MS)


def replaced(request: HttpRequest, name: str, value: str | None) -> HttpRequest:
    others = tuple(each for each in request.headers if each[0] != name.encode())
    added = () if value is None else ((name.encode(), value.encode("latin-1")),)
    return attrs.evolve(request, headers=others + added)


def refuse(request: HttpRequest, error: type[ClientFault], match: str = "", now_ms: int = NOW_MS) -> ClientFault:
    with pytest.raises(error, match=match or None) as caught:
        check(request, now_ms=now_ms)
    return caught.value


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    target=st.from_regex(r"/[!-~]{0,40}", fullmatch=True).filter(lambda text: not text.endswith("?")),
    body=st.binary(max_size=200),
)
def test_what_is_signed_is_proven(method: str, target: str, body: bytes) -> None:
    request = signed(method, target, body)
    assert form_of(request) == "headers"
    proven = check(request)
    assert (proven.identity, proven.nonce) == (ALICE.identity, f"{NOW_MS}000007")


def test_the_signed_bytes_are_those_of_the_specification() -> None:
    request = signed("GET", "/a?b", b"")
    nonce = f"{NOW_MS}000007"
    data = f"GET\n/a?b\n{nonce}\n{hashlib.sha256(b'').hexdigest()}".encode()
    signature = ALICE.sign((2, "overlay http request"), nonce, data, NODE.identity)
    assert dict(request.headers)[b"x-signature"] == signature.hex().encode()


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"},
        {"path": b"/overlay/events"},
        {"query": b"a=+b"},
        {"query": b""},
        {"body": b"{} "},
        {"body": b""},
        {"path": b"/overlay/events/ingest?a=%20b\n1", "query": b""},
    ],
    ids=str,
)
def test_whatever_was_signed_cannot_be_changed(change: dict[str, object]) -> None:
    refuse(attrs.evolve(signed(), **change), NotAuthenticatedError, "signature")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sent_ms", "now_ms", "good"),
    [
        (NOW_MS, NOW_MS, True),
        (NOW_MS, NOW_MS + TTL_MS, True),
        (NOW_MS, NOW_MS + TTL_MS + 1, False),
        (NOW_MS + 30_000, NOW_MS, True),
        (NOW_MS + 30_001, NOW_MS, False),
        (NOW_MS + 86_400_000, NOW_MS, False),
        (1, NOW_MS, False),
    ],
)
def test_only_fresh_requests_are_accepted(sent_ms: int, now_ms: int, good: bool) -> None:
    request = signed(at_ms=sent_ms)
    if good:
        assert check(request, now_ms=now_ms).expires_ms > now_ms
    else:
        refuse(request, NotAuthenticatedError, "old", now_ms)


@given(st.integers(-TTL_MS, 30_000))
def test_a_nonce_is_remembered_for_longer_than_it_is_accepted(sent_after_ms: int) -> None:
    request = signed(at_ms=NOW_MS + sent_after_ms)
    expires_ms = check(request).expires_ms
    refuse(request, NotAuthenticatedError, "old", now_ms=expires_ms)


def test_a_request_for_another_node_is_refused() -> None:
    request = signed(node=MALLORY.identity)
    refuse(request, NotAuthenticatedError, "signature")
    assert check(request, key=MALLORY).identity == ALICE.identity


@pytest.mark.parametrize("node", [GENERATOR, ALICE.identity], ids=["anyone", "self"])
def test_a_signature_for_anyone_proves_nothing(node: bytes) -> None:
    """Such a signature could be shown to every node."""
    refuse(signed(node=node), NotAuthenticatedError, "signature")


def test_an_identity_cannot_be_substituted() -> None:
    refuse(replaced(signed(), "x-identity-key", MALLORY.identity.hex()), NotAuthenticatedError, "signature")


BAD: list[tuple[str, str | None]] = [
    *((name, None) for name in NAMES),
    *((name, "") for name in NAMES),
    *((name, "x" * 9_000) for name in NAMES),
    *((name, "ä") for name in NAMES),
    ("x-nonce", "-1"),
    ("x-nonce", "+1790000000000000000"),
    ("x-nonce", "01790000000000000000"),
    ("x-nonce", "1.79e18"),
    ("x-nonce", "1790000000 000000000"),
    ("x-nonce", "1" * 20),
    ("x-nonce", "0"),
    ("x-identity-key", ALICE.identity.hex().upper()),
    ("x-identity-key", ALICE.identity.hex()[2:]),
    ("x-identity-key", GENERATOR.hex()),
    ("x-signature", "30 44"),
    ("x-signature", "0x30"),
    ("x-signature", "3"),
    ("x-signature", "00" * 73),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda value: None if value is None else value[:20])
def test_malformed_headers_are_refused_by_name(name: str, value: str | None) -> None:
    error = refuse(replaced(signed(), name, value), InvalidAuthenticationError)
    assert error.fields["field"] == name
    assert error.fields["remedy"]


@pytest.mark.parametrize("name", NAMES)
def test_repeated_headers_are_refused(name: str) -> None:
    request = signed()
    again = (name.encode(), dict(request.headers)[name.encode()])
    refuse(attrs.evolve(request, headers=(*request.headers, again)), InvalidAuthenticationError, "repeated")


def test_long_targets_are_refused() -> None:
    refuse(signed(target="/" + "a" * 8_192), InvalidAuthenticationError, "path")


def test_keys_off_the_curve_and_other_signatures_are_refused() -> None:
    request = signed()
    signature = bytes.fromhex(dict(request.headers)[b"x-signature"].decode())
    for spoiled in (high_s(signature), signature[:-1], signature + b"\0", b"\x30"):
        refuse(replaced(request, "x-signature", spoiled.hex()), ClientFault, "signature")
    refuse(replaced(request, "x-identity-key", "02" + "00" * 31 + "05"), NotAuthenticatedError, "signature")


@pytest.mark.parametrize(
    ("names", "form"),
    [
        ([], None),
        (["x-signature"], None),
        (["x-nonce", "x-request-id", "x-bsv-topic"], None),
        (["x-nonce", "x-signature"], "headers"),
        (["x-identity-key"], "headers"),
        (["x-bsv-auth-version"], "session"),
        (["x-bsv-auth-nonce", "x-nonce"], "session"),
        (["x-authrite"], "authrite"),
        (["x-authrite-signature", "x-signature"], "authrite"),
    ],
)
def test_the_form_is_told_by_the_headers(names: list[str], form: str | None) -> None:
    headers = tuple((name.encode(), b"1") for name in names)
    assert form_of(HttpRequest(method="GET", path=b"/", headers=headers)) == form


@pytest.mark.parametrize(
    "names",
    [["x-bsv-auth-version", "x-authrite"], ["x-identity-key", "x-bsv-auth-nonce"], ["x-authrite", "x-identity-key"]],
)
def test_two_forms_at_once_are_refused(names: list[str]) -> None:
    headers = tuple((name.encode(), b"1") for name in names)
    with pytest.raises(InvalidAuthenticationError, match="two ways"):
        form_of(HttpRequest(method="GET", path=b"/", headers=headers))
