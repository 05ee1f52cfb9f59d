"""What AuthFetch and the reference server said to each other, byte for byte, said to our code."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from protocols.authentication import (
    HttpRequest,
    NotAuthenticatedError,
    RequestedCertificates,
    SessionBook,
    form_of,
)
from protocols.authentication.certificates import certificate_bytes, check_certificate
from protocols.errors import InvalidAuthenticationError
from protocols.keys import PrivateKey
from tests.authentication_client import MutualClient
from tests.interop.test_vectors import load

NOW_MS = 1_790_000_000_000
TRANSCRIPT = load("brc104_transcript")
CERTIFICATES = load("brc104_certificates")
HANDSHAKE = b"/.well-known/auth"


@attrs.frozen
class Response:
    status: int
    headers: dict[str, str]
    body: bytes


@attrs.frozen
class Exchange:
    """One recorded request with its response, None if there was none."""

    name: str
    request: HttpRequest
    response: Response | None


def key_of(name: str) -> PrivateKey:
    return PrivateKey(bytes.fromhex(TRANSCRIPT["keys"][name]["privateKeyHex"]))


def read_head(raw: str) -> tuple[str, tuple[tuple[bytes, bytes], ...], bytes]:
    head, _, body = raw.partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    headers = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in pairs)
    return first, headers, body.encode("latin-1")


def exchanges(recorded: list[dict[str, Any]], name: str) -> Iterator[Exchange]:
    for wire in recorded:
        first, headers, body = read_head(wire["request"])
        method, target, _ = first.split(" ")
        path, _, query = target.encode().partition(b"?")
        request = HttpRequest(method=method, path=path, query=query, headers=headers, body=body)
        response = None
        if wire["response"]:
            first, headers, body = read_head(wire["response"])
            values = {name.decode(): value.decode("latin-1") for name, value in headers}
            response = Response(int(first.split(" ")[1]), values, body)
        yield Exchange(name, request, response)


RECORDED = [each for step in TRANSCRIPT["steps"] for each in exchanges(step["wireRaw"], step["name"])]
HANDSHAKES = [each for each in RECORDED if each.request.path == HANDSHAKE]
GENERAL = [each for each in RECORDED if each.request.path != HANDSHAKE]


def shaken(requested: RequestedCertificates | None = None, handshakes: list[Exchange] = HANDSHAKES) -> SessionBook:
    """A book with the recorded sessions: the recorded nonces of the server are our entropy."""
    book = SessionBook(key_of("node"), requested=requested)
    for each in handshakes:
        assert each.response is not None
        recorded = json.loads(each.response.body)
        entropy = base64.b64decode(recorded["initialNonce"])
        answer = json.loads(book.handshake(each.request.body, now_ms=NOW_MS, entropy=entropy))
        assert answer == recorded
    return book


def client_of(each: Exchange) -> MutualClient:
    """The recorded client, in the session that a request names."""
    session = dict(each.request.headers)[b"x-bsv-auth-your-nonce"].decode()
    for handshake in HANDSHAKES:
        assert handshake.response is not None
        if json.loads(handshake.response.body)["initialNonce"] == session:
            sent = json.loads(handshake.request.body)
            return MutualClient(
                key_of("client"), nonce=sent["initialNonce"], server=key_of("node").identity, server_nonce=session
            )
    raise AssertionError("a request names a recorded session")


def test_the_recording_has_all_cases() -> None:
    assert (len(TRANSCRIPT["steps"]), len(HANDSHAKES), len(GENERAL)) == (16, 2, 17)


def test_handshakes_are_answered_byte_for_byte() -> None:
    """``shaken`` compares, the signature included: ours and the SDK's are RFC 6979."""
    assert shaken().counts() == (0, 2, 0)


@pytest.mark.parametrize("each", GENERAL, ids=lambda each: each.name)
def test_recorded_requests_are_accepted(each: Exchange) -> None:
    assert form_of(each.request) == "session"
    exchange = shaken().authenticate(each.request, now_ms=NOW_MS)
    assert exchange.identity == key_of("client").identity
    assert base64.b64encode(exchange.request_id) == dict(each.request.headers)[b"x-bsv-auth-request-id"]


def test_the_whole_recording_in_one_go_and_no_request_twice() -> None:
    book = shaken()
    for each in GENERAL:
        book.authenticate(each.request, now_ms=NOW_MS)
    for each in GENERAL:
        with pytest.raises(NotAuthenticatedError, match="used before"):
            book.authenticate(each.request, now_ms=NOW_MS)


SIGNED = [each for each in GENERAL if each.response and "x-bsv-auth-signature" in each.response.headers]


@pytest.mark.parametrize(
    "each", [each for each in SIGNED if each.response and each.response.body], ids=lambda e: e.name
)
def test_responses_are_signed_byte_for_byte(each: Exchange) -> None:
    assert each.response is not None
    recorded = each.response
    exchange = shaken().authenticate(each.request, now_ms=NOW_MS)
    others = [(name, value) for name, value in recorded.headers.items() if not name.startswith("x-bsv-auth-")]
    proof = shaken().sign_response(
        exchange,
        status=recorded.status,
        headers=others,
        body=recorded.body,
        entropy=base64.b64decode(recorded.headers["x-bsv-auth-nonce"]),
    )
    assert dict(proof) == {name: value for name, value in recorded.headers.items() if name.startswith("x-bsv-auth-")}
    client_of(each).check_response(each.request, recorded.status, [*others, *proof], recorded.body)


@pytest.mark.parametrize("each", GENERAL, ids=lambda each: each.name)
@pytest.mark.parametrize(("status", "body"), [(200, b""), (204, b""), (404, b"{}"), (500, b"x" * 300)])
def test_our_responses_are_accepted_by_the_recorded_client(each: Exchange, status: int, body: bytes) -> None:
    """Also with an empty body, where AuthFetch waits for ever for the reference server."""
    book = shaken()
    exchange = book.authenticate(each.request, now_ms=NOW_MS)
    headers = [("Content-Type", "application/json"), ("X-BSV-Zeta", "z"), ("x-bsv-alpha", "välue")]
    proof = book.sign_response(exchange, status=status, headers=headers, body=body, entropy=bytes(32))
    client_of(each).check_response(each.request, status, [*headers, *proof], body)


# --- certificates ---------------------------------------------------------------------------------------------

CERTIFIER = bytes.fromhex(CERTIFICATES["keys"]["certifier"]["identityKey"])
REQUESTED = RequestedCertificates(certifiers=(CERTIFIER,), types={CERTIFICATES["certificateType"]: ("role",)})
ROLE = "validator"  # what the certifier wrote
FLOWS = {flow["name"]: list(exchanges(flow["wireRaw"], flow["name"])) for flow in CERTIFICATES["flows"]}
MATCHING, NONE, UNREQUESTED = FLOWS.values()


def test_a_certificates_signed_bytes() -> None:
    recorded = CERTIFICATES["certificate"]
    signed = certificate_bytes(
        recorded["type"],
        recorded["serialNumber"],
        bytes.fromhex(recorded["subject"]),
        bytes.fromhex(recorded["certifier"]),
        recorded["revocationOutpoint"],
        recorded["fields"],
    )
    assert signed.hex() == CERTIFICATES["signaturePreimageHex"]


def test_a_request_is_accepted_while_its_certificates_are_under_way() -> None:
    """AuthFetch sends its first request before the certificates."""
    handshake, general, response = MATCHING
    book = shaken(REQUESTED, [handshake])
    exchange = book.authenticate(general.request, now_ms=NOW_MS)
    assert exchange.certificates_pending
    assert book.certificates(exchange, now_ms=NOW_MS) is None
    answer = json.loads(book.handshake(response.request.body, now_ms=NOW_MS, entropy=bytes(32)))
    assert (answer["accepted"], answer["refused"]) == (1, [])
    (certificate,) = book.certificates(exchange, now_ms=NOW_MS) or ()
    assert (certificate.certifier, certificate.subject) == (CERTIFIER, key_of("client").identity)
    assert certificate.fields == {"role": ROLE}
    assert certificate.revocation_outpoint == f"{bytes(32).hex()}.0"


def test_certificates_may_come_first() -> None:
    handshake, general, response = MATCHING
    book = shaken(REQUESTED, [handshake])
    book.handshake(response.request.body, now_ms=NOW_MS, entropy=bytes(32))
    exchange = book.authenticate(general.request, now_ms=NOW_MS)
    assert not exchange.certificates_pending
    assert [certificate.fields for certificate in exchange.certificates] == [{"role": ROLE}]


def test_a_client_without_certificates_stays_pending() -> None:
    handshake, general = NONE
    exchange = shaken(REQUESTED, [handshake]).authenticate(general.request, now_ms=NOW_MS)
    assert (exchange.certificates, exchange.certificates_pending) == ((), True)


def test_a_certificate_from_an_unrequested_certifier_is_refused() -> None:
    """The reference server takes it."""
    handshake, general, response = UNREQUESTED
    book = shaken(REQUESTED, [handshake])
    exchange = book.authenticate(general.request, now_ms=NOW_MS)
    with pytest.raises(InvalidAuthenticationError, match="certifier"):
        book.handshake(response.request.body, now_ms=NOW_MS, entropy=bytes(32))
    assert book.certificates(exchange, now_ms=NOW_MS) == ()


def test_a_replayed_certificate_response_is_refused() -> None:
    handshake, _, response = MATCHING
    book = shaken(REQUESTED, [handshake])
    book.handshake(response.request.body, now_ms=NOW_MS, entropy=bytes(32))
    with pytest.raises(NotAuthenticatedError, match="used before"):
        book.handshake(response.request.body, now_ms=NOW_MS, entropy=bytes(32))


def test_the_recorded_keyring_opens_for_its_verifier_alone() -> None:
    _, _, response = MATCHING
    (document,) = json.loads(response.request.body)["certificates"]
    subject = key_of("client").identity
    checked = check_certificate(key_of("node"), document, subject=subject, requested=REQUESTED)
    assert checked.fields == {"role": ROLE}
    with pytest.raises(InvalidAuthenticationError, match="decrypt"):
        check_certificate(key_of("peer"), document, subject=subject, requested=REQUESTED)
