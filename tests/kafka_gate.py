"""A gate before a broker: it ends TLS, and may ask who calls, then lets bytes pass.

It asks as Kafka does (KIP-152): SASL PLAIN (RFC 4616), and SCRAM with SHA-256 or SHA-512 (RFC 5802, RFC 7677).
"""

import base64
import contextlib
import hashlib
import hmac
import secrets
import socket
import ssl
import struct
import threading
from collections.abc import Generator
from types import TracebackType

from scripts.network import free_ports

SASL_HANDSHAKE, SASL_AUTHENTICATE = 17, 36
SASL_AUTHENTICATION_FAILED = 58
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
ITERATIONS = 4_096


class Gate:
    """``with Gate(context) as gate``: what calls ``gate.address`` reaches ``gate.upstream``, which is set later.

    Args:
        context: With the certificate to show, and whether clients show one.
        logins: User names and passwords; none: nobody is asked.
    """

    def __init__(self, context: ssl.SSLContext, logins: dict[str, str] | None = None) -> None:
        self.port = free_ports(1)[0]
        self.address = f"127.0.0.1:{self.port}"
        self.upstream = 0
        self.passed = 0
        self._context = context
        self._logins = logins
        self._listener = socket.create_server(("127.0.0.1", self.port))

    def __enter__(self) -> "Gate":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), connection:  # a handshake that fails ends the connection
            inner = self._context.wrap_socket(connection, server_side=True)
            with inner, socket.create_connection(("127.0.0.1", self.upstream)) as broker:
                if self._logins is not None:
                    self._ask(inner, broker)
                self.passed += 1
                inner.settimeout(None)
                threading.Thread(target=_pump, args=(broker, inner), daemon=True).start()
                _pump(inner, broker)

    def _ask(self, client: socket.socket, broker: socket.socket) -> None:
        """Authenticate the client; requests of other kinds go to the broker."""
        logins, exchange = self._logins or {}, None
        while True:
            frame = _frame(client)
            key, version, correlation, name_length = struct.unpack(">hhih", frame[:10])
            body = frame[10 + max(0, name_length) :]
            if key == SASL_HANDSHAKE:
                mechanism = body[2:].decode()
                exchange = _plain(logins) if mechanism == "PLAIN" else _scram(logins, mechanism.rpartition("-")[2])
                next(exchange)
                names = b"".join(struct.pack(">h", len(name)) + name.encode() for name in MECHANISMS)
                _send(client, struct.pack(">ihi", correlation, 0, len(MECHANISMS)) + names)
            elif key == SASL_AUTHENTICATE:
                assert exchange is not None, "a handshake comes first"
                is_known, reply = exchange.send(body[4:])
                error = SASL_AUTHENTICATION_FAILED if is_known is False else 0
                answer = struct.pack(">ihhi", correlation, error, -1, len(reply)) + reply
                _send(client, answer + bytes(8 if version else 0))
                if is_known:
                    return
            else:
                _send(broker, frame)
                _send(client, _frame(broker))


Exchange = Generator[tuple[bool | None, bytes], bytes, None]
"""Receives a client's messages; yields whether it is authenticated (None: not yet), and the reply."""


def _plain(logins: dict[str, str]) -> Exchange:
    received = yield None, b""
    while True:
        _, user, password = received.split(b"\0")
        received = yield logins.get(user.decode()) == password.decode(), b""


def _scram(logins: dict[str, str], bits: str) -> Exchange:
    algorithm = f"sha{bits}"

    def mac(key: bytes, text: bytes) -> bytes:
        return hmac.digest(key, text, algorithm)

    first = yield None, b""
    bare = first.removeprefix(b"n,,")
    parts = dict(part.split(b"=", 1) for part in bare.split(b","))
    salt, nonce = secrets.token_bytes(16), parts[b"r"] + secrets.token_hex(16).encode()
    challenge = b"r=%b,s=%b,i=%d" % (nonce, base64.b64encode(salt), ITERATIONS)
    final = yield None, challenge
    unproven, _, proof = final.rpartition(b",p=")
    password = logins.get(parts[b"n"].decode(), secrets.token_hex()).encode()
    salted = hashlib.pbkdf2_hmac(algorithm, password, salt, ITERATIONS)
    client_key = mac(salted, b"Client Key")
    agreed = b",".join((bare, challenge, unproven))
    signature = mac(hashlib.new(algorithm, client_key).digest(), agreed)
    expected = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
    is_known = base64.b64decode(proof) == expected and dict([unproven.split(b",")[1].split(b"=", 1)]) == {b"r": nonce}
    yield is_known, b"v=" + base64.b64encode(mac(mac(salted, b"Server Key"), agreed)) if is_known else b""


def _frame(connection: socket.socket) -> bytes:
    (size,) = struct.unpack(">i", _exactly(connection, 4))
    return _exactly(connection, size)


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _send(connection: socket.socket, frame: bytes) -> None:
    connection.sendall(struct.pack(">i", len(frame)) + frame)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
