"""A gate before a broker: it ends TLS, and may ask who calls (SASL PLAIN, KIP-152), then lets bytes pass."""

import contextlib
import socket
import ssl
import struct
import threading
from types import TracebackType

from scripts.network import free_ports

SASL_HANDSHAKE, SASL_AUTHENTICATE = 17, 36
SASL_AUTHENTICATION_FAILED = 58


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
        """Answer until the client has said who it is; what is not about that goes to the broker."""
        while True:
            frame = _frame(client)
            key, version, correlation, name_length = struct.unpack(">hhih", frame[:10])
            body = frame[10 + max(0, name_length) :]
            if key == SASL_HANDSHAKE:
                _send(client, struct.pack(">ihih", correlation, 0, 1, 5) + b"PLAIN")
            elif key == SASL_AUTHENTICATE:
                _, user, password = body[4:].split(b"\0")
                is_known = (self._logins or {}).get(user.decode()) == password.decode()
                error = 0 if is_known else SASL_AUTHENTICATION_FAILED
                _send(client, struct.pack(">ihhi", correlation, error, -1, 0) + bytes(8 if version else 0))
                if is_known:
                    return
            else:
                _send(broker, frame)
                _send(client, _frame(broker))


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
