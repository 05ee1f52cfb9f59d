"""Clients of the three forms of authentication, for tests and benchmarks. They compute requests and send nothing.

Written from the BRCs and the recorded behaviour of the official SDK, not from the server's code, so that each checks
the other. ``MutualClient`` is as strict as AuthFetch; where that hangs, this raises ``UnprovenError``.
"""

import base64
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocols.authentication import HttpRequest, SessionBook
from protocols.compact_size import write_sized
from protocols.keys import ORDER, PrivateKey, Protocol, verify_from

MUTUAL: Protocol = (2, "auth message signature")
AUTHRITE: Protocol = (2, "authrite message signature")
NOTHING = b"\xff" * 9
Random = Callable[[int], bytes]


class UnprovenError(Exception):
    """The server did not prove that an answer is its own."""


@attrs.define
class MutualClient:
    """One session of BRC-103/104, seen from its client."""

    key: PrivateKey
    random: Random = secrets.token_bytes
    nonce: str = ""
    server: bytes = b""
    server_nonce: str = ""
    requested: dict[str, Any] = attrs.field(factory=dict)

    def initial_request(self) -> bytes:
        """The body for ``POST /.well-known/auth``."""
        self.nonce = b64(self.random(48))
        return compact(
            {
                "version": "0.1",
                "messageType": "initialRequest",
                "identityKey": self.key.identity.hex(),
                "initialNonce": self.nonce,
                "requestedCertificates": {"certifiers": [], "types": {}},
            }
        )

    def take_initial_response(self, body: bytes) -> None:
        """Check the answer, and begin the session."""
        answer = json.loads(body)
        server, server_nonce = bytes.fromhex(answer["identityKey"]), answer["initialNonce"]
        signed = base64.b64decode(self.nonce + server_nonce)  # concatenated first, as the SDK does
        key_id = f"{self.nonce} {server_nonce}"
        if answer["version"] != "0.1" or answer["yourNonce"] != self.nonce:
            raise UnprovenError("the answer is not for this client")
        if not verify_from(self.key, server, MUTUAL, key_id, signed, bytes(answer["signature"])):
            raise UnprovenError("the answer's signature does not hold")
        self.server, self.server_nonce, self.requested = server, server_nonce, answer["requestedCertificates"]

    def sign(
        self, method: str, target: str, *, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> HttpRequest:
        """A request with its six headers. ``headers``: those that AuthFetch would let pass, names in lower case."""
        path, _, query = target.encode().partition(b"?")
        request_id, nonce = self.random(32), b64(self.random(32))
        signed = {
            name: value.partition(";")[0] if name == "content-type" else value
            for name, value in (headers or {}).items()
        }
        preimage = request_id + write_sized(method.encode()) + write_sized(path)
        preimage += write_sized(b"?" + query) if query else NOTHING
        preimage += header_list(signed) + (write_sized(body) if body else NOTHING)
        signature = self.key.sign(MUTUAL, f"{nonce} {self.server_nonce}", preimage, self.server, once=True)
        proof = {
            "x-bsv-auth-version": "0.1",
            "x-bsv-auth-identity-key": self.key.identity.hex(),
            "x-bsv-auth-nonce": nonce,
            "x-bsv-auth-your-nonce": self.server_nonce,
            "x-bsv-auth-signature": signature.hex(),
            "x-bsv-auth-request-id": b64(request_id),
        }
        return HttpRequest(
            method=method, path=path, query=query, headers=wire({**(headers or {}), **proof}), body=body
        )

    def check_response(
        self, request: HttpRequest, status: int, headers: Sequence[tuple[str, str]], body: bytes
    ) -> None:
        """Raise unless the server proved that this is its answer to that request."""
        values = {name.lower(): value for name, value in headers}
        for name in ("version", "identity-key", "signature"):
            if not values.get(f"x-bsv-auth-{name}"):
                raise UnprovenError(f"no x-bsv-auth-{name}")
        request_id = dict(request.headers)[b"x-bsv-auth-request-id"].decode()
        if values["x-bsv-auth-version"] != "0.1" or values["x-bsv-auth-request-id"] != request_id:
            raise UnprovenError("not the answer to this request")
        if values["x-bsv-auth-your-nonce"] != self.nonce:
            raise UnprovenError("not the answer in this session")
        signed = {
            name: value
            for name, value in values.items()
            if name == "authorization" or (name.startswith("x-bsv-") and not name.startswith("x-bsv-auth"))
        }
        preimage = base64.b64decode(request_id) + compact_size(status) + header_list(signed) + write_sized(body)
        key_id = f"{values['x-bsv-auth-nonce']} {self.nonce}"
        signature = bytes.fromhex(values["x-bsv-auth-signature"])
        server = bytes.fromhex(values["x-bsv-auth-identity-key"])
        if server != self.server or not verify_from(self.key, server, MUTUAL, key_id, preimage, signature):
            raise UnprovenError("the answer's signature does not hold")

    def certificate_response(self, certificates: Sequence[Mapping[str, Any]]) -> bytes:
        """The body for ``POST /.well-known/auth`` that shows certificates."""
        nonce = b64(self.random(32))
        key_id = f"{nonce} {self.server_nonce}"
        signature = self.key.sign(MUTUAL, key_id, compact(certificates), self.server, once=True)
        return compact(
            {
                "version": "0.1",
                "messageType": "certificateResponse",
                "identityKey": self.key.identity.hex(),
                "nonce": nonce,
                "initialNonce": self.nonce,
                "yourNonce": self.server_nonce,
                "certificates": certificates,
                "signature": list(signature),
            }
        )


def shake_hands(
    book: SessionBook, key: PrivateKey, *, now_ms: int, random: Random = secrets.token_bytes
) -> MutualClient:
    """A client with a session in ``book``."""
    client = MutualClient(key, random=random)
    answer = book.handshake(client.initial_request(), now_ms=now_ms, entropy=random(32))
    client.take_initial_response(answer)
    return client


@attrs.define
class AuthriteClient:
    """One session of Authrite 0.1, seen from its client."""

    key: PrivateKey
    origin: str
    random: Random = secrets.token_bytes
    nonce: str = ""
    server: bytes = b""
    server_nonce: str = ""

    def initial_request(self) -> bytes:
        """The body for ``POST /authrite/initialRequest``."""
        self.nonce = b64(self.random(32))
        return compact(
            {
                "authrite": "0.1",
                "messageType": "initialRequest",
                "identityKey": self.key.identity.hex(),
                "nonce": self.nonce,
                "requestedCertificates": [],
            }
        )

    def take_initial_response(self, body: bytes) -> None:
        """Check the answer, and begin the session."""
        answer = json.loads(body)
        server, server_nonce = bytes.fromhex(answer["identityKey"]), answer["nonce"]
        key_id, signed = f"{self.nonce} {server_nonce}", (self.nonce + server_nonce).encode()
        if not verify_from(self.key, server, AUTHRITE, key_id, signed, bytes.fromhex(answer["signature"])):
            raise UnprovenError("the answer's signature does not hold")
        assert answer["requestedCertificates"]["certifiers"] == []
        self.server, self.server_nonce = server, server_nonce

    def sign(self, method: str, target: str, body: bytes = b"") -> HttpRequest:
        """A request with its six headers."""
        nonce = b64(self.random(32))
        signed = body or (self.origin + target).encode()
        signature = self.key.sign(AUTHRITE, f"{nonce} {self.server_nonce}", signed, self.server, once=True)
        headers = {
            "x-authrite": "0.1",
            "x-authrite-identity-key": self.key.identity.hex(),
            "x-authrite-nonce": nonce,
            "x-authrite-yournonce": self.server_nonce,
            "x-authrite-certificates": "[]",
            "x-authrite-signature": signature.hex(),
        }
        path, _, query = target.encode().partition(b"?")
        return HttpRequest(method=method, path=path, query=query, headers=wire(headers), body=body)

    def check_response(self, request: HttpRequest, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """Raise unless the server proved that this is its answer to that request."""
        values = {name.lower(): value for name, value in headers}
        sent_nonce = dict(request.headers)[b"x-authrite-nonce"].decode()
        key_id = f"{sent_nonce} {values['x-authrite-nonce']}"
        signature = bytes.fromhex(values["x-authrite-signature"])
        if not verify_from(self.key, self.server, AUTHRITE, key_id, body, signature):
            raise UnprovenError("the answer's signature does not hold")


def issue_certificate(
    certifier: PrivateKey,
    subject: PrivateKey,
    verifier: bytes,
    *,
    type: str,
    fields: Mapping[str, str],
    reveal: Sequence[str] | None = None,
    random: Random = secrets.token_bytes,
) -> dict[str, Any]:
    """A BRC-52 certificate with a keyring for one verifier, as a client shows it. Fields: ASCII, in lower case."""
    serial = b64(random(32))
    field_keys = {name: random(32) for name in fields}
    encrypted = {name: b64(seal(field_keys[name], text.encode(), random)) for name, text in fields.items()}
    preimage = base64.b64decode(type) + base64.b64decode(serial) + subject.identity + certifier.identity + bytes(33)
    preimage += compact_size(len(fields))
    for name in sorted(fields):
        preimage += write_sized(name.encode()) + write_sized(encrypted[name].encode())
    keyring = {}
    for name in fields if reveal is None else reveal:
        key_id = f"{serial} {name}"
        shared = subject.symmetric_key((2, "certificate field encryption"), key_id, verifier).rjust(32, b"\0")
        keyring[name] = b64(seal(shared, field_keys[name], random))
    return {
        "type": type,
        "serialNumber": serial,
        "subject": subject.identity.hex(),
        "certifier": certifier.identity.hex(),
        "revocationOutpoint": f"{bytes(32).hex()}.0",
        "fields": encrypted,
        "signature": certifier.sign((2, "certificate signature"), f"{type} {serial}", preimage).hex(),
        "keyring": keyring,
    }


def seal(key: bytes, data: bytes, random: Random) -> bytes:
    """AES-GCM as the SDK has it: 32 bytes of nonce, ciphertext, tag."""
    nonce = random(32)
    return nonce + AESGCM(key).encrypt(nonce, data, None)


def header_list(headers: Mapping[str, str]) -> bytes:
    """Names sort as bytes do: only test names for which ``localeCompare`` agrees."""
    pairs = (write_sized(name.encode()) + write_sized(headers[name].encode()) for name in sorted(headers))
    return compact_size(len(headers)) + b"".join(pairs)


def compact_size(value: int) -> bytes:
    assert value < 65_536
    return bytes([value]) if value < 253 else b"\xfd" + value.to_bytes(2, "little")


def wire(headers: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name.lower().encode(), value.encode("latin-1")) for name, value in headers.items())


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def compact(value: object) -> bytes:
    """As ``JSON.stringify`` writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


class Counting:
    """Stands for random bytes: none repeat, and the next time they are the same."""

    def __init__(self) -> None:
        self._drawn = 0

    def __call__(self, size: int) -> bytes:
        self._drawn += 1
        return self._drawn.to_bytes(size, "big")


def with_proof(request: HttpRequest, **headers: str | None) -> HttpRequest:
    """A request with some of its x-bsv-auth headers replaced, or left out."""
    values = dict(request.headers)
    for name, value in headers.items():
        raw_name = f"x-bsv-auth-{name.replace('_', '-')}".encode()
        if value is None:
            del values[raw_name]
        else:
            values[raw_name] = value.encode("latin-1")
    return attrs.evolve(request, headers=tuple(values.items()))


def proof_of(request: HttpRequest, name: str) -> str:
    return dict(request.headers)[f"x-bsv-auth-{name}".encode()].decode()


def high_s(signature: bytes) -> bytes:
    """The same signature with the other S, in DER."""
    r_size = signature[3]
    s = ORDER - int.from_bytes(signature[6 + r_size :], "big")
    s_bytes = s.to_bytes(33, "big")
    body = signature[2 : 4 + r_size] + bytes([2, len(s_bytes)]) + s_bytes
    return bytes([0x30, len(body)]) + body
