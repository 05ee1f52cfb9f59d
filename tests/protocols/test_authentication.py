"""The session form (BRC-103/104), attacked: what is refused, how, and that nothing else is."""

import json
import secrets
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.authentication import (
    HANDSHAKE_BYTES_MAX,
    HttpRequest,
    SessionBook,
    form_of,
)
from protocols.authentication.requests import icu_key
from protocols.errors import ClientFault, InvalidAuthenticationError, NotAuthenticatedError
from protocols.keys import GENERATOR, PrivateKey
from tests.authentication_client import (
    Counting,
    MutualClient,
    Random,
    UnprovenError,
    b64,
    compact,
    high_s,
    proof_of,
    shake_hands,
    with_proof,
)

NODE, ALICE, MALLORY = (PrivateKey(bytes([number]) * 32) for number in (1, 2, 3))
NOW_MS = 1_790_000_000_000
OFF_CURVE = "02" + "00" * 31 + "05"


def shaken(book: SessionBook, key: PrivateKey, random: Random = secrets.token_bytes) -> MutualClient:
    return shake_hands(book, key, now_ms=NOW_MS, random=random)


def refuse(book: SessionBook, request: HttpRequest, error: type[ClientFault], match: str = "") -> ClientFault:
    with pytest.raises(error, match=match or None) as caught:
        book.authenticate(request, now_ms=NOW_MS)
    return caught.value


# --- requests that are what they say --------------------------------------------------------------------------

tokens = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_categories=["Cc", "Z"]), max_size=20)
targets = st.from_regex(r"/[A-Za-z0-9%/._~-]{0,30}(\?[A-Za-z0-9%=&._~-]{1,30})?", fullmatch=True)


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]),
    target=targets,
    headers=st.dictionaries(tokens.map(lambda name: f"x-bsv-x{name}"), values, max_size=5),
    body=st.binary(max_size=300),
)
def test_what_a_client_signs_is_proven_and_answered(
    method: str, target: str, headers: dict[str, str], body: bytes
) -> None:
    book = SessionBook(NODE)
    client = shaken(book, ALICE)
    headers = {**headers, "content-type": "application/json; charset=utf-8"}
    request = client.sign(method, target, headers=headers, body=body)
    assert form_of(request) == "session"
    exchange = book.authenticate(request, now_ms=NOW_MS)
    assert (exchange.identity, exchange.certificates, exchange.certificates_pending) == (ALICE.identity, (), False)
    answered = list(headers.items())
    proof = book.sign_response(exchange, status=404, headers=answered, body=body, entropy=bytes(32))
    client.check_response(request, 404, [*answered, *proof], body)
    for status, other in ((405, body), (404, body + b"!")):
        with pytest.raises(UnprovenError):
            client.check_response(request, status, [*answered, *proof], other)


def spoiled() -> dict[str, HttpRequest]:
    """One request that is good, and others that change what it signed."""
    request = shaken(SessionBook(NODE), ALICE, random=Counting()).sign(
        "POST", "/a?b=1", headers={"content-type": "text/plain", "x-bsv-topic": "t", "authorization": "x"}, body=b"c"
    )
    headers = request.headers
    return {
        "method": attrs.evolve(request, method="PUT"),
        "path": attrs.evolve(request, path=b"/A"),
        "path decoded": attrs.evolve(request, path=b"/%61"),
        "query": attrs.evolve(request, query=b"b=2"),
        "no query": attrs.evolve(request, query=b""),
        "query in path": attrs.evolve(request, path=b"/a?b=1", query=b""),
        "body": attrs.evolve(request, body=b"d"),
        "no body": attrs.evolve(request, body=b""),
        "header added": attrs.evolve(request, headers=(*headers, (b"x-bsv-more", b"1"))),
        "header dropped": attrs.evolve(request, headers=tuple(each for each in headers if each[0] != b"x-bsv-topic")),
        "no authorization": attrs.evolve(
            request, headers=tuple(each for each in headers if each[0] != b"authorization")
        ),
        "header changed": attrs.evolve(
            request, headers=tuple((name, b"u" if name == b"x-bsv-topic" else value) for name, value in headers)
        ),
        "content type": attrs.evolve(
            request, headers=tuple((name, b"x/y" if name == b"content-type" else value) for name, value in headers)
        ),
        "request id": with_proof(request, request_id=b64(bytes(32))),
        "nonce": with_proof(request, nonce=b64(b"\x09" * 32)),
    }


@pytest.mark.parametrize("what", spoiled())
def test_whatever_was_signed_cannot_be_changed(what: str) -> None:
    book = SessionBook(NODE)
    shaken(book, ALICE, random=Counting())
    refuse(book, spoiled()[what], NotAuthenticatedError, "signature")
    assert book.counts() == (0, 1, 0)


def test_headers_that_are_not_signed_may_change_on_the_way() -> None:
    book = SessionBook(NODE)
    request = shaken(book, ALICE).sign("GET", "/")
    book.authenticate(attrs.evolve(request, headers=(*request.headers, (b"via", b"proxy"))), now_ms=NOW_MS)


def test_an_empty_path_is_signed_as_a_slash() -> None:
    book = SessionBook(NODE)
    request = shaken(book, ALICE).sign("GET", "/")
    book.authenticate(attrs.evolve(request, path=b""), now_ms=NOW_MS)


# --- who says it ----------------------------------------------------------------------------------------------


def test_an_identity_cannot_be_substituted() -> None:
    """The reference server hands the application the header's identity, whoever's session it is."""
    book = SessionBook(NODE)
    shaken(book, ALICE)
    request = shaken(book, MALLORY).sign("GET", "/")
    refuse(book, with_proof(request, identity_key=ALICE.identity.hex()), NotAuthenticatedError, "identity")


def test_a_session_opened_in_anothers_name_is_worth_nothing() -> None:
    book = SessionBook(NODE)
    client = MutualClient(MALLORY)
    body = client.initial_request().replace(MALLORY.identity.hex().encode(), ALICE.identity.hex().encode())
    answer = json.loads(book.handshake(body, now_ms=NOW_MS, entropy=bytes(32)))
    client.server, client.server_nonce = NODE.identity, answer["initialNonce"]
    request = client.sign("GET", "/")
    refuse(book, request, NotAuthenticatedError, "identity")
    refuse(book, with_proof(request, identity_key=ALICE.identity.hex()), NotAuthenticatedError, "signature")
    assert book.counts() == (0, 1, 0)


def test_a_request_for_another_node_is_refused() -> None:
    """Signed for another counterparty, in a session of the same name there."""
    book, other = SessionBook(NODE), SessionBook(MALLORY)
    client = MutualClient(ALICE)
    hello = client.initial_request()
    book.handshake(hello, now_ms=NOW_MS, entropy=bytes(32))
    client.take_initial_response(other.handshake(hello, now_ms=NOW_MS, entropy=bytes(32)))
    request = client.sign("GET", "/")
    other.authenticate(request, now_ms=NOW_MS)
    refuse(book, request, NotAuthenticatedError, "signature")


def test_the_session_that_a_request_names_answers_it() -> None:
    """The reference server takes the identity's latest."""
    book = SessionBook(NODE)
    first, second = shaken(book, ALICE), shaken(book, ALICE)
    for client in (first, second, first):
        request = client.sign("GET", "/")
        exchange = book.authenticate(request, now_ms=NOW_MS)
        proof = book.sign_response(exchange, status=200, headers=(), body=b"", entropy=bytes(32))
        client.check_response(request, 200, proof, b"")


# --- replays --------------------------------------------------------------------------------------------------


def test_replays_are_refused() -> None:
    book = SessionBook(NODE)
    client = shaken(book, ALICE)
    request = client.sign("POST", "/", headers={"content-type": "text/plain"}, body=b"pay")
    book.authenticate(request, now_ms=NOW_MS)
    refuse(book, request, NotAuthenticatedError, "used before")
    refuse(book, attrs.evolve(request, path=b"/elsewhere"), NotAuthenticatedError, "used before")
    book.authenticate(client.sign("GET", "/"), now_ms=NOW_MS)


def test_of_two_equal_claims_one_is_admitted() -> None:
    """Verification may run beside others."""
    book = SessionBook(NODE)
    request = shaken(book, ALICE).sign("GET", "/")
    claims = [book.claim(request, now_ms=NOW_MS) for _ in range(2)]
    assert all(claim.verify(NODE) for claim in claims)
    book.admit(claims[0], True, now_ms=NOW_MS)
    with pytest.raises(NotAuthenticatedError, match="used before"):
        book.admit(claims[1], True, now_ms=NOW_MS)


def test_a_refused_request_spends_no_nonce() -> None:
    """Or anybody could spend an observed nonce before its owner."""
    book = SessionBook(NODE)
    request = shaken(book, ALICE).sign("GET", "/")
    refuse(book, attrs.evolve(request, path=b"/forged"), NotAuthenticatedError, "signature")
    book.authenticate(request, now_ms=NOW_MS)


def test_sessions_do_not_survive_a_restart_and_neither_do_their_requests() -> None:
    before = SessionBook(NODE)
    request = shaken(before, ALICE).sign("GET", "/")
    before.authenticate(request, now_ms=NOW_MS)
    refuse(SessionBook(NODE), request, NotAuthenticatedError, "unknown or has ended")


# --- malformed ------------------------------------------------------------------------------------------------

BAD_HEADERS: list[tuple[str, str | None]] = [
    *((name, None) for name in ("version", "identity_key", "nonce", "your_nonce", "signature", "request_id")),
    *((name, "") for name in ("version", "identity_key", "nonce", "your_nonce", "signature", "request_id")),
    *((name, "x" * 9_000) for name in ("version", "identity_key", "nonce", "your_nonce", "signature", "request_id")),
    *((name, "ä") for name in ("version", "identity_key", "nonce", "your_nonce", "signature", "request_id")),
    ("version", "1.0"),
    ("version", "0.10"),
    ("identity_key", ALICE.identity.hex()[:-1]),
    ("identity_key", ALICE.identity.hex()[:-2]),
    ("identity_key", ALICE.identity.hex() + "00"),
    ("identity_key", "04" + ALICE.identity.hex()[2:]),
    ("identity_key", "zz" + ALICE.identity.hex()[2:]),
    ("identity_key", ALICE.identity.hex().upper()),
    ("identity_key", GENERATOR.hex()),
    ("nonce", b64(bytes(32))[:-1]),
    ("nonce", b64(bytes(32)) + "=="),
    ("nonce", b64(bytes(15))),
    ("nonce", b64(bytes(65))),
    ("nonce", b64(b"\xff" * 32).replace("/", "_")),
    ("nonce", "AAAAAAAAAAAAAAAAAAAAAAB="),  # the same bytes have another form
    ("nonce", "AAAA AAAAAAAAAAAAAAAAAA=="),
    ("request_id", b64(bytes(31))),
    ("request_id", b64(bytes(33))),
    ("signature", "0"),
    ("signature", "zz"),
    ("signature", "30 44"),
    ("signature", "00" * 73),
]


@pytest.mark.parametrize(("name", "value"), BAD_HEADERS, ids=lambda value: None if value is None else value[:20])
def test_malformed_headers_are_refused_by_name(name: str, value: str | None) -> None:
    book = SessionBook(NODE)
    request = shaken(book, ALICE).sign("GET", "/")
    error = refuse(book, with_proof(request, **{name: value}), InvalidAuthenticationError)
    assert error.fields["field"] == f"x-bsv-auth-{name.replace('_', '-')}"
    assert error.fields["remedy"]


@pytest.mark.parametrize("name", ["version", "identity-key", "nonce", "your-nonce", "signature", "request-id"])
def test_repeated_headers_are_refused(name: str) -> None:
    book = SessionBook(NODE)
    request = shaken(book, ALICE).sign("GET", "/")
    twice = (*request.headers, (f"x-bsv-auth-{name}".encode(), proof_of(request, name).encode()))
    refuse(book, attrs.evolve(request, headers=twice), InvalidAuthenticationError, "repeated")


@pytest.mark.parametrize("name", [b"content-type", b"authorization", b"x-bsv-topic"])
def test_repeated_signed_headers_are_refused(name: bytes) -> None:
    book = SessionBook(NODE)
    request = shaken(book, ALICE).sign("GET", "/", headers={name.decode(): "a"})
    refuse(
        book,
        attrs.evolve(request, headers=(*request.headers, (name, b"a"))),
        InvalidAuthenticationError,
        "repeated",
    )


@pytest.mark.parametrize(
    "extra",
    [
        tuple((b"x-bsv-%d" % number, b"") for number in range(65)),
        tuple((b"x-bsv-%d" % number, b"x" * 2_000) for number in range(9)),
        ((b"x-bsv-\xe4", b""),),
        ((b"x-bsv-a\x00b", b""),),
    ],
    ids=["many", "large", "latin-1", "control"],
)
def test_signed_headers_have_bounds(extra: tuple[tuple[bytes, bytes], ...]) -> None:
    book = SessionBook(NODE)
    request = shaken(book, ALICE).sign("GET", "/")
    refuse(book, attrs.evolve(request, headers=(*request.headers, *extra)), InvalidAuthenticationError, "headers")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s[:-1],
        lambda s: s[:8],
        lambda s: s + b"\0",
        lambda s: bytes(len(s)),
        high_s,
        lambda s: s[:4] + b"\0" + s[4:],
    ],
    ids=["truncated", "short", "trailing", "zeros", "high S", "padded R"],
)
def test_signatures_have_one_form(spoil: Any) -> None:
    """The official SDK takes a high S."""
    book = SessionBook(NODE)
    request = shaken(book, ALICE).sign("GET", "/")
    signature = bytes.fromhex(proof_of(request, "signature"))
    spoiled_signature = with_proof(request, signature=spoil(signature).hex())
    with pytest.raises((NotAuthenticatedError, InvalidAuthenticationError), match="signature"):
        book.authenticate(spoiled_signature, now_ms=NOW_MS)
    book.authenticate(request, now_ms=NOW_MS)


@pytest.mark.parametrize("session", ["x", b64(bytes(32)), b64(bytes(48)), "a" * 8_000])
def test_unknown_sessions_are_refused(session: str) -> None:
    book = SessionBook(NODE)
    request = shaken(book, ALICE, random=Counting()).sign("GET", "/")
    refuse(book, with_proof(request, your_nonce=session), NotAuthenticatedError, "unknown or has ended")


# --- handshakes -----------------------------------------------------------------------------------------------

HELLO = {
    "version": "0.1",
    "messageType": "initialRequest",
    "identityKey": ALICE.identity.hex(),
    "initialNonce": b64(bytes(48)),
    "requestedCertificates": {"certifiers": [], "types": {}},
}


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("version", "1.0"),
        ("version", 0.1),
        ("version", None),
        ("messageType", "initialResponse"),
        ("messageType", "general"),
        ("messageType", "certificateRequest"),
        ("messageType", ["initialRequest"]),
        ("identityKey", OFF_CURVE),
        ("identityKey", GENERATOR.hex()),
        ("identityKey", ALICE.identity.hex().upper()),
        ("identityKey", ALICE.identity.hex() + "\n"),
        ("identityKey", "04" + "11" * 64),
        ("identityKey", 5),
        ("identityKey", None),
        ("initialNonce", ""),
        ("initialNonce", b64(bytes(15))),
        ("initialNonce", b64(bytes(65))),
        ("initialNonce", b64(bytes(48)) + "\n"),
        ("initialNonce", "a b" * 16),
        ("initialNonce", "ä" * 64),
        ("initialNonce", {}),
        ("initialNonce", None),
    ],
)
def test_malformed_handshakes_are_refused_by_name(member: str, value: object) -> None:
    book = SessionBook(NODE)
    message = {**HELLO, member: value}
    if value is None:
        del message[member]
    with pytest.raises(InvalidAuthenticationError) as caught:
        book.handshake(compact(message), now_ms=NOW_MS, entropy=bytes(32))
    assert caught.value.fields["field"] == member
    assert book.counts() == (0, 0, 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'"x"',
        b"\xff",
        compact(HELLO) + b"x",
        compact(HELLO)[:-1] + b',"version":"0.1"}',
        compact(HELLO).ljust(HANDSHAKE_BYTES_MAX + 1),
        compact({**HELLO, "x": json.loads("[" * 9 + "]" * 9)}),
    ],
    ids=lambda body: repr(body[:12]),
)
def test_bodies_that_are_no_message_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidAuthenticationError, match="body"):
        SessionBook(NODE).handshake(body, now_ms=NOW_MS, entropy=bytes(32))


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists, max_leaves=5).map(compact))
def test_no_handshake_crashes(body: bytes) -> None:
    with pytest.raises(InvalidAuthenticationError):
        SessionBook(NODE).handshake(body, now_ms=NOW_MS, entropy=bytes(32))


def test_names_sort_as_javascript_sorts_them() -> None:
    """The order is what Node 20 made of the names with ``localeCompare``."""
    ordered = ["~", "0", "10", "9", "a", "A", "a b", "a.b", "ab", "aB", "Ab", "b", "B", "x_b", "x-b", "x1", "xb"]
    assert sorted(sorted(ordered), key=icu_key) == ordered
