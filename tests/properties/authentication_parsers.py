"""The parsers that anonymous requests reach: three forms of authentication, their handshakes and certificates.

A request is spoiled as the text of HTTP/1.1, then cut into its parts without any strictness.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator
from typing import Any, Final

from protocols.authentication import (
    AuthriteBook,
    Book,
    HttpRequest,
    RequestedCertificates,
    SessionBook,
    SessionLimits,
    authenticate_headers,
    form_of,
    sign_headers,
)
from protocols.authentication.certificates import SIGNATURE_PROTOCOL, certificate_bytes, check_certificate
from protocols.canonical import parse_json
from protocols.errors import InvalidAuthenticationError
from protocols.keys import PrivateKey
from tests.authentication_client import AuthriteClient, MutualClient, b64, compact, issue_certificate
from tests.properties.fuzzing import Parser

NOW_MS: Final = 1_790_000_000_000
TTL_MS: Final = 300_000
ORIGIN: Final = "https://node.example"
TYPE: Final = b64(hashlib.sha256(b"type").digest())
FIELDS: Final = {"role": "validator", "name": "Ada", "e-mail": "ada@example.org"}
LIMITS: Final = SessionLimits(unproven_max=64)
NODE, CLIENT, CERTIFIER = (PrivateKey(hashlib.sha256(name).digest()) for name in (b"node", b"client", b"certifier"))
REQUESTED: Final = RequestedCertificates(certifiers=(CERTIFIER.identity,), types={TYPE: ("role", "name")})
HTTP_TOKENS: Final = (
    *(
        b"\r\n",
        b": ",
        b"?",
        b" ",
        b"\t",
        b";",
        b"%",
        b"\x00",
        b"\xe4",
        b"\xff",
        b"=",
        b"==",
        b"A" * 44,
        b"0.1",
        b"1.0",
    ),
    *(
        b"x-bsv-",
        b"x-bsv-auth-",
        b"authorization: ",
        b"content-type: ",
        b"x-authrite-",
        b"x-nonce: ",
        b"x-signature: ",
    ),
)
JSON_TOKENS: Final = (
    *(b"null", b"true", b"[]", b"{}", b'""', b"-1", b"255", b"256", b"1e999", b"9007199254740993", b"NaN", b"[" * 20),
    *(
        b'{"a":' * 20,
        b'"\\ud800"',
        b'"\\u0000"',
        b"\\",
        b'"',
        b",",
        b":",
        b"0.1",
        b"1.0",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
    ),
    *(b"initialRequest", b"certificateResponse", b'"version":"0.1",', b'"certificates":', b"A" * 44, b"=="),
)


class Entropy:
    """Random bytes that are the same every time: for clients any number of them, for servers 32 at a time."""

    def __init__(self, name: bytes) -> None:
        self._blocks = self._count(name)

    def __call__(self, size: int = 32) -> bytes:
        return b"".join(itertools.islice(self._blocks, size // 16))

    @staticmethod
    def _count(name: bytes) -> Iterator[bytes]:
        for number in itertools.count():
            yield hashlib.sha256(b"%b %d" % (name, number)).digest()[:16]


def authentication_parsers() -> list[Parser]:
    return [*_mutual(), *_authrite(), _signed_headers(), _certificates()]


def _mutual() -> list[Parser]:
    book = SessionBook(NODE, requested=REQUESTED, limits=LIMITS)
    client = MutualClient(CLIENT, random=Entropy(b"mutual client"))
    entropy = Entropy(b"mutual server")
    hello = client.initial_request()
    client.take_initial_response(book.handshake(hello, now_ms=NOW_MS, entropy=entropy()))
    book.authenticate(client.sign("GET", "/"), now_ms=NOW_MS)  # so that the session is proven, and stays
    requests = [
        client.sign("GET", "/overlay/events?limit=5&topic=%C3%A4"),
        client.sign("POST", "/submit", headers={"content-type": "application/octet-stream"}, body=bytes(range(40))),
        client.sign(
            "PUT",
            "/x",
            headers={"authorization": "Bearer x", "x-bsv-topic": "t", "content-type": "text/plain; charset=utf-8"},
            body=b"text",
        ),
    ]
    shown = client.certificate_response([_certificate()])
    return [
        _request_parser("BRC-104 request", book, requests),
        _handshake_parser("BRC-104 handshake", book, [hello, shown], entropy),
    ]


def _authrite() -> list[Parser]:
    book = AuthriteBook(NODE, origin=ORIGIN, limits=LIMITS)
    client = AuthriteClient(CLIENT, origin=ORIGIN, random=Entropy(b"authrite client"))
    entropy = Entropy(b"authrite server")
    hello = client.initial_request()
    client.take_initial_response(book.handshake(hello, now_ms=NOW_MS, entropy=entropy()))
    book.authenticate(client.sign("GET", "/"), now_ms=NOW_MS)
    requests = [client.sign("GET", "/overlay/events?limit=5"), client.sign("POST", "/submit", b"body")]
    return [
        _request_parser("Authrite request", book, requests),
        _handshake_parser("Authrite handshake", book, [hello], entropy),
    ]


def _request_parser(name: str, book: Book, requests: list[HttpRequest]) -> Parser:
    def parse(data: bytes) -> None:
        request = read_request(data)
        form_of(request)
        claim = book.claim(request, now_ms=NOW_MS)
        assert claim.identity == CLIENT.identity, "a claim is the session's identity's"
        claim.verify(NODE)

    return Parser(name=name, parse=parse, seeds=[write_request(each) for each in requests], tokens=HTTP_TOKENS)


def _handshake_parser(name: str, book: Book, bodies: list[bytes], entropy: Entropy) -> Parser:
    def parse(body: bytes) -> None:
        json.loads(book.handshake(body, now_ms=NOW_MS, entropy=entropy()))
        proven, unproven, _ = book.counts()
        assert proven <= 1, "a handshake proves nothing"
        assert unproven <= LIMITS.unproven_max, "handshakes cost a bounded number of sessions"

    return Parser(name=name, parse=parse, seeds=bodies, tokens=JSON_TOKENS)


def _signed_headers() -> Parser:
    signed = []
    for number, (method, target, body) in enumerate(
        [("GET", "/a?b=c", b""), ("POST", "/overlay/events/ingest", b"{}")]
    ):
        nonce_ns = NOW_MS * 1_000_000 + number
        headers = sign_headers(CLIENT, NODE.identity, method=method, target=target, body=body, nonce_ns=nonce_ns)
        head = "\r\n".join([f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)])
        signed.append(head.encode() + b"\r\n\r\n" + body)

    def parse(data: bytes) -> None:
        request = read_request(data)
        form_of(request)
        checked = authenticate_headers(NODE, request, now_ms=NOW_MS, ttl_ms=TTL_MS)
        assert checked.identity == CLIENT.identity, "nobody else has signed anything"

    return Parser(name="signed headers", parse=parse, seeds=signed, tokens=HTTP_TOKENS)


def _certificate() -> dict[str, Any]:
    random = Entropy(b"certifier")
    return issue_certificate(CERTIFIER, CLIENT, NODE.identity, type=TYPE, fields=FIELDS, random=random)


def _certificates() -> Parser:
    return Parser(name="certificate", parse=_check_certificate, seeds=[compact(_certificate())], tokens=JSON_TOKENS)


def _check_certificate(data: bytes) -> None:
    document: Any = parse_json(data)
    try:
        check_certificate(NODE, document, subject=CLIENT.identity, requested=REQUESTED)
    except InvalidAuthenticationError as refusal:
        if refusal.fields["field"] != "signature" or not isinstance(document.get("signature"), str):
            raise
        again = {**document, "signature": _sign_anew(document)}
        check_certificate(NODE, again, subject=CLIENT.identity, requested=REQUESTED)


def _sign_anew(document: dict[str, Any]) -> str:
    kind, serial = document["type"], document["serialNumber"]
    outpoint, fields = document["revocationOutpoint"], document["fields"]
    signed = certificate_bytes(kind, serial, CLIENT.identity, CERTIFIER.identity, outpoint, fields)
    return CERTIFIER.sign(SIGNATURE_PROTOCOL, f"{kind} {serial}", signed).hex()


def write_request(request: HttpRequest) -> bytes:
    """A request as the text of HTTP/1.1."""
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.target)]
    lines += [b"%b: %b" % header for header in request.headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + request.body


def read_request(data: bytes) -> HttpRequest:
    """The parts of a request's text, whatever they are."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, _, target = first.removesuffix(b" HTTP/1.1").partition(b" ")
    path, _, query = target.partition(b"?")
    pairs = (line.partition(b": ") for line in lines)
    headers = tuple((name.lower(), value) for name, _, value in pairs)
    return HttpRequest(method=method.decode("latin-1"), path=path, query=query, headers=headers, body=body)
