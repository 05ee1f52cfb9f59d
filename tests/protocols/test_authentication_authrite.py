"""The legacy form (BRC-31, Authrite 0.1), attacked. What it shares with sessions is tested there."""

import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.authentication import AuthriteBook, HttpRequest, SessionLimits, form_of
from protocols.errors import ClientFault, InvalidAuthenticationError, NotAuthenticatedError
from protocols.keys import GENERATOR, PrivateKey
from tests.authentication_client import AuthriteClient, UnprovenError, b64, compact, high_s

NODE, ALICE, MALLORY = (PrivateKey(bytes([number]) * 32) for number in (1, 2, 3))
NOW_MS = 1_790_000_000_000
ORIGIN = "https://node.example"


def opened() -> AuthriteBook:
    return AuthriteBook(NODE, origin=ORIGIN + "/")


def shaken(book: AuthriteBook, key: PrivateKey = ALICE, origin: str = ORIGIN) -> AuthriteClient:
    client = AuthriteClient(key, origin)
    answer = book.handshake(client.initial_request(), now_ms=NOW_MS, entropy=client.random(32))
    client.take_initial_response(answer)
    return client


def replaced(request: HttpRequest, name: str, value: str | None) -> HttpRequest:
    others = tuple(each for each in request.headers if each[0] != name.encode())
    added = () if value is None else ((name.encode(), value.encode("latin-1")),)
    return attrs.evolve(request, headers=others + added)


def refuse(book: AuthriteBook, request: HttpRequest, error: type[ClientFault], match: str = "") -> ClientFault:
    with pytest.raises(error, match=match or None) as caught:
        book.authenticate(request, now_ms=NOW_MS)
    return caught.value


@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "DELETE"]),
    target=st.from_regex(r"/[a-z0-9%/._~-]{0,30}(\?[a-z0-9%=&]{1,30})?", fullmatch=True),
    body=st.binary(max_size=200),
)
def test_what_a_client_signs_is_proven_and_answered(method: str, target: str, body: bytes) -> None:
    book = opened()
    client = shaken(book)
    request = client.sign(method, target, b"" if method in ("GET", "HEAD") else body)
    assert form_of(request) == "authrite"
    exchange = book.authenticate(request, now_ms=NOW_MS)
    assert (exchange.identity, exchange.certificates_pending) == (ALICE.identity, False)
    proof = book.sign_response(exchange, status=200, headers=(), body=body, entropy=bytes(32))
    assert {name for name, _ in proof} >= {"X-Authrite-YourNonce", "X-Authrite-Certificates"}
    client.check_response(request, proof, body)
    with pytest.raises(UnprovenError):
        client.check_response(request, proof, body + b"!")


def test_a_url_counts_by_the_public_name_or_the_one_that_the_client_used() -> None:
    """The public one is https; whoever comes past the proxy says http and the address."""
    book = opened()
    near = shaken(book, origin="http://127.0.0.1:8080")
    for host, good in (("127.0.0.1:8080", True), ("127.0.0.1:8081", False), ("evil\r\n", False), ("", False)):
        request = replaced(near.sign("GET", "/a?b=1"), "host", host)
        if good:
            book.authenticate(request, now_ms=NOW_MS)
        else:
            refuse(book, request, NotAuthenticatedError, "signature")
    far = replaced(shaken(book).sign("GET", "/a?b=1"), "host", "10.0.0.1")
    book.authenticate(far, now_ms=NOW_MS)


@pytest.mark.parametrize("change", [{"path": b"/b"}, {"query": b"x"}, {"body": b"!"}], ids=str)
def test_a_url_without_a_body_cannot_be_changed(change: dict[str, bytes]) -> None:
    book = opened()
    request = attrs.evolve(shaken(book).sign("DELETE", "/a"), **change)  # type: ignore[arg-type]
    refuse(book, request, NotAuthenticatedError, "signature")


def test_a_body_cannot_be_changed_or_left_out() -> None:
    book = opened()
    request = shaken(book).sign("POST", "/a", b"{}")
    refuse(book, attrs.evolve(request, body=b"[]"), NotAuthenticatedError, "signature")
    refuse(book, attrs.evolve(request, body=b""), NotAuthenticatedError, "signature")
    book.authenticate(request, now_ms=NOW_MS)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_body_that_no_client_signs_is_refused(method: str) -> None:
    book = opened()
    refuse(book, shaken(book).sign(method, "/a", b"{}"), InvalidAuthenticationError, "body")


def test_identities_cannot_be_substituted_and_requests_not_replayed() -> None:
    book = opened()
    shaken(book)
    request = shaken(book, MALLORY).sign("POST", "/", b"{}")
    stolen = replaced(request, "x-authrite-identity-key", ALICE.identity.hex())
    refuse(book, stolen, NotAuthenticatedError, "identity")
    book.authenticate(request, now_ms=NOW_MS)
    refuse(book, request, NotAuthenticatedError, "used before")
    refuse(opened(), request, NotAuthenticatedError, "unknown or has ended")


def test_a_request_for_another_node_is_refused() -> None:
    book, other = opened(), AuthriteBook(MALLORY, origin=ORIGIN)
    client = AuthriteClient(ALICE, ORIGIN)
    hello = client.initial_request()
    book.handshake(hello, now_ms=NOW_MS, entropy=bytes(32))
    client.take_initial_response(other.handshake(hello, now_ms=NOW_MS, entropy=bytes(32)))
    refuse(book, client.sign("GET", "/"), NotAuthenticatedError, "signature")


NAMES = ("x-authrite", "x-authrite-identity-key", "x-authrite-nonce", "x-authrite-yournonce", "x-authrite-signature")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [None, "", "ä", "x" * 9_000])
def test_malformed_headers_are_refused_by_name(name: str, value: str | None) -> None:
    book = opened()
    error = refuse(book, replaced(shaken(book).sign("GET", "/"), name, value), InvalidAuthenticationError)
    assert error.fields["field"] == name


@pytest.mark.parametrize("name", NAMES)
def test_repeated_headers_are_refused(name: str) -> None:
    book = opened()
    request = shaken(book).sign("GET", "/")
    again = (name.encode(), dict(request.headers)[name.encode()])
    refuse(book, attrs.evolve(request, headers=(*request.headers, again)), InvalidAuthenticationError, "repeated")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-authrite", "0.2"),
        ("x-authrite-nonce", b64(bytes(15))),
        ("x-authrite-identity-key", GENERATOR.hex()),
        ("x-authrite-signature", "zz"),
    ],
)
def test_values_out_of_form_are_refused(name: str, value: str) -> None:
    book = opened()
    refuse(book, replaced(shaken(book).sign("GET", "/"), name, value), InvalidAuthenticationError, name)


def test_signatures_have_a_low_s() -> None:
    book = opened()
    request = shaken(book).sign("GET", "/")
    signature = bytes.fromhex(dict(request.headers)[b"x-authrite-signature"].decode())
    refuse(book, replaced(request, "x-authrite-signature", high_s(signature).hex()), ClientFault, "signature")


def test_long_targets_are_refused() -> None:
    book = opened()
    refuse(book, shaken(book).sign("GET", "/" + "a" * 8_192), InvalidAuthenticationError, "path")


HELLO = {
    "authrite": "0.1",
    "messageType": "initialRequest",
    "identityKey": ALICE.identity.hex(),
    "nonce": b64(bytes(32)),
    "requestedCertificates": [],
}


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("authrite", "0.2"),
        ("authrite", None),
        ("messageType", "general"),
        ("identityKey", "02" + "00" * 31 + "05"),
        ("identityKey", GENERATOR.hex()),
        ("identityKey", None),
        ("nonce", "x"),
        ("nonce", None),
    ],
)
def test_malformed_handshakes_are_refused_by_name(member: str, value: str | None) -> None:
    book = opened()
    with pytest.raises(InvalidAuthenticationError) as caught:
        book.handshake(compact({**HELLO, member: value}), now_ms=NOW_MS, entropy=bytes(32))
    assert caught.value.fields["field"] == member
    assert book.counts() == (0, 0, 0)


def test_the_answer_to_a_handshake_has_what_the_client_reads() -> None:
    answer = json.loads(opened().handshake(compact(HELLO), now_ms=NOW_MS, entropy=bytes(32)))
    assert answer.pop("signature")
    assert answer == {
        "authrite": "0.1",
        "messageType": "initialResponse",
        "identityKey": NODE.identity.hex(),
        "nonce": b64(bytes(32)),
        "certificates": [],
        "requestedCertificates": {"certifiers": [], "types": {}},
    }


def test_limits_are_those_of_sessions() -> None:
    book = AuthriteBook(NODE, origin=ORIGIN, limits=SessionLimits(requests_max=1))
    client = shaken(book)
    book.authenticate(client.sign("GET", "/"), now_ms=NOW_MS)
    refuse(book, client.sign("GET", "/"), NotAuthenticatedError, "used up its requests")
