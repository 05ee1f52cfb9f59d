"""Certificates (BRC-52) in a session: which are kept, and why the others are not."""

import json
from typing import Any

import pytest

from protocols.authentication import RequestedCertificates, SessionBook, SessionExchange
from protocols.errors import ClientFault, InvalidAuthenticationError, NotAuthenticatedError
from protocols.keys import PrivateKey
from tests.authentication_client import MutualClient, b64, compact, high_s, issue_certificate, shake_hands

NODE, ALICE, MALLORY, CERTIFIER = (PrivateKey(bytes([number]) * 32) for number in (1, 2, 3, 4))
NOW_MS = 1_790_000_000_000
TYPE = b64(b"t" * 32)
REQUESTED = RequestedCertificates(certifiers=(CERTIFIER.identity,), types={TYPE: ("role",)})


def shaken(book: SessionBook, key: PrivateKey) -> MutualClient:
    return shake_hands(book, key, now_ms=NOW_MS)


def use(book: SessionBook, client: MutualClient) -> SessionExchange:
    return book.authenticate(client.sign("GET", "/"), now_ms=NOW_MS)


def certificate(**changes: Any) -> dict[str, Any]:
    made = {"type": TYPE, "fields": {"role": "reader", "name": "A"}, "reveal": ["role"]} | changes
    return issue_certificate(made.pop("certifier", CERTIFIER), made.pop("subject", ALICE), NODE.identity, **made)


def without(document: dict[str, Any], member: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != member}


def show(*documents: Any, requested: RequestedCertificates = REQUESTED) -> tuple[SessionBook, MutualClient, Any]:
    book = SessionBook(NODE, requested=requested)
    client = shaken(book, ALICE)
    answer = book.handshake(client.certificate_response(documents), now_ms=NOW_MS, entropy=bytes(32))
    return book, client, json.loads(answer)


def test_certificates_are_requested_held_for_and_kept() -> None:
    book = SessionBook(NODE, requested=REQUESTED)
    client = shaken(book, ALICE)
    assert client.requested == {"certifiers": [CERTIFIER.identity.hex()], "types": {TYPE: ["role"]}}
    exchange = use(book, client)
    assert (exchange.certificates, exchange.certificates_pending) == ((), True)
    book.handshake(client.certificate_response([certificate()]), now_ms=NOW_MS, entropy=bytes(32))
    (checked,) = book.certificates(exchange, now_ms=NOW_MS) or ()
    assert (checked.certifier, checked.subject, checked.type) == (CERTIFIER.identity, ALICE.identity, TYPE)
    assert (checked.fields, checked.revocation_outpoint) == ({"role": "reader"}, f"{bytes(32).hex()}.0")
    again = use(book, client)
    assert (again.certificates, again.certificates_pending) == ((checked,), False)


def test_certificates_are_of_the_session_and_not_of_the_identity() -> None:
    book, _, _ = show(certificate())
    assert use(book, shaken(book, ALICE)).certificates == ()


def test_no_certificates_is_an_answer_too() -> None:
    book, client, answer = show()
    assert (answer["accepted"], answer["refused"]) == (0, [])
    assert not use(book, client).certificates_pending


def test_the_good_among_bad_certificates_are_kept() -> None:
    book, client, answer = show(certificate(certifier=MALLORY), certificate())
    assert (answer["accepted"], len(answer["refused"])) == (1, 1)
    assert len(use(book, client).certificates) == 1


def test_a_session_keeps_a_bounded_number() -> None:
    book = SessionBook(NODE, requested=REQUESTED)
    client = shaken(book, ALICE)
    for _ in range(2):
        shown = [certificate() for _ in range(10)]
        book.handshake(client.certificate_response(shown), now_ms=NOW_MS, entropy=bytes(32))
    assert len(use(book, client).certificates) == 16


BAD_CERTIFICATES: dict[str, tuple[Any, str]] = {
    "unrequested certifier": (certificate(certifier=MALLORY), "certifier"),
    "unrequested type": (certificate(type=b64(b"u" * 32)), "type"),
    "of another subject": (certificate(subject=MALLORY), "subject"),
    "subject replaced": (certificate(subject=MALLORY) | {"subject": ALICE.identity.hex()}, "signature"),
    "certifier replaced": (certificate(certifier=MALLORY) | {"certifier": CERTIFIER.identity.hex()}, "signature"),
    "serial replaced": (certificate() | {"serialNumber": b64(bytes(32))}, "signature"),
    "outpoint replaced": (certificate() | {"revocationOutpoint": f"{bytes(32).hex()}.1"}, "signature"),
    "fields replaced": (certificate() | {"fields": {"role": b64(bytes(60))}}, "signature"),
    "field added": (certificate() | {"fields": certificate()["fields"] | {"more": "x"}}, "signature"),
    "signature of another certificate": (certificate() | {"signature": certificate()["signature"]}, "signature"),
    "truncated signature": (certificate() | {"signature": certificate()["signature"][:-2]}, "signature"),
    "short signature": (certificate() | {"signature": "30"}, "signature"),
    "no signature": (without(certificate(), "signature"), "signature"),
    "requested field not revealed": (certificate(reveal=["name"]), "keyring"),
    "no keyring": (without(certificate(), "keyring"), "keyring"),
    "keyring of another": (certificate() | {"keyring": {"role": b64(bytes(80))}}, "keyring"),
    "short keyring": (certificate() | {"keyring": {"role": b64(bytes(47))}}, "keyring"),
    "keyring no base64": (certificate() | {"keyring": {"role": "!" * 64}}, "keyring"),
    "requested field missing": (certificate(fields={"name": "A"}, reveal=[]), "keyring"),
    "bad outpoint": (certificate() | {"revocationOutpoint": "00.0"}, "revocationOutpoint"),
    "outpoint index": (certificate() | {"revocationOutpoint": f"{bytes(32).hex()}.4294967296"}, "revocationOutpoint"),
    "bad type": (certificate() | {"type": "x"}, "type"),
    "bad serial": (certificate() | {"serialNumber": b64(bytes(31))}, "type|serialNumber"),
    "many fields": (certificate() | {"fields": {f"f{number}": "" for number in range(65)}}, "fields"),
    "long field name": (certificate() | {"fields": {"f" * 51: ""}}, "fields"),
    "field name not ASCII": (certificate() | {"fields": {"rôle": ""}}, "fields"),
    "field is no text": (certificate() | {"fields": {"role": 1}}, "fields"),
    "no object": ("x", "certificates"),
    "fields no object": (certificate() | {"fields": []}, "fields"),
    "member no text": (certificate() | {"type": 1}, "type"),
}


@pytest.mark.parametrize("what", BAD_CERTIFICATES)
def test_bad_certificates_are_refused_by_member(what: str) -> None:
    document, member = BAD_CERTIFICATES[what]
    book = SessionBook(NODE, requested=REQUESTED)
    client = shaken(book, ALICE)
    with pytest.raises(InvalidAuthenticationError, match=f"^({member}): "):
        book.handshake(client.certificate_response([document]), now_ms=NOW_MS, entropy=bytes(32))
    exchange = use(book, client)
    assert (exchange.certificates, exchange.certificates_pending) == ((), False)


def test_a_certificates_signature_has_a_low_s() -> None:
    document = certificate()
    document["signature"] = high_s(bytes.fromhex(document["signature"])).hex()
    with pytest.raises(InvalidAuthenticationError, match="signature"):
        show(document)


def test_fields_that_were_not_requested_are_not_opened() -> None:
    book, client, _ = show(certificate(reveal=["role", "name"]))
    assert use(book, client).certificates[0].fields == {"role": "reader"}


@pytest.mark.parametrize(
    ("member", "value", "error"),
    [
        ("signature", None, InvalidAuthenticationError),
        ("signature", "30", InvalidAuthenticationError),
        ("signature", [256], InvalidAuthenticationError),
        ("signature", [True], InvalidAuthenticationError),
        ("signature", [0] * 73, InvalidAuthenticationError),
        ("signature", [], NotAuthenticatedError),
        ("signature", [0x30], NotAuthenticatedError),
        ("nonce", b64(b"\x01" * 32), NotAuthenticatedError),
        ("nonce", "x", InvalidAuthenticationError),
        ("yourNonce", b64(b"\x01" * 32), NotAuthenticatedError),
        ("yourNonce", 1, InvalidAuthenticationError),
        ("identityKey", MALLORY.identity.hex(), NotAuthenticatedError),
        ("identityKey", "02", InvalidAuthenticationError),
        ("certificates", {}, InvalidAuthenticationError),
        ("certificates", [{}] * 17, InvalidAuthenticationError),
        ("certificates", [], NotAuthenticatedError),
        ("version", "1", InvalidAuthenticationError),
    ],
)
def test_spoiled_certificate_responses_change_nothing(member: str, value: Any, error: type[ClientFault]) -> None:
    book = SessionBook(NODE, requested=REQUESTED)
    client = shaken(book, ALICE)
    message = json.loads(client.certificate_response([certificate()])) | {member: value}
    with pytest.raises(error):
        book.handshake(compact(message), now_ms=NOW_MS, entropy=bytes(32))
    assert book.counts() == (0, 1, 0)
    assert use(book, client).certificates_pending
