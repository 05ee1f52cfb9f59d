"""Authenticates the caller before a route runs, and signs the answer after it.

Three forms lead to one `Caller` in ``g.caller``: sessions (BRC-103/104), single requests signed in their headers,
and legacy Authrite sessions. A request that names an identity and does not prove it is refused whatever the
route: a request with a wrong signature never runs as an anonymous one. Only these refusals are sent unsigned,
as 401: to a client of BRC-104 that means to shake hands again, which it does by itself.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, TypeVar

import attrs
import trio
from quart import Quart, Response, g, has_websocket_context, request, websocket

from node.api.access import OPEN, Rule, rule_of
from node.api.models.node import AuthriteMessage, AuthriteRequest, HandshakeMessage, HandshakeRequest
from node.api.operations import Body, Operation, Resource, json_answer
from node.api.services import Services
from node.api.wire import JSON_TYPE, read_body
from node.runtime.access import Access, Caller, Credential
from node.runtime.clock import clock_ms
from protocols.authentication import (
    HANDSHAKE_BYTES_MAX,
    AuthenticationForm,
    AuthriteBook,
    CheckedCertificate,
    HttpRequest,
    RequestedCertificates,
    SessionBook,
    SessionExchange,
    authenticate_headers,
    form_of,
)
from protocols.errors import InvalidAuthenticationError
from storage.nonces import Nonce

T = TypeVar("T")

INLINE_BYTES_MAX: Final = 128 * 1024  # a longer body is hashed on a thread
ENTROPY_BYTES: Final = 32
CERTIFICATES_WAIT_S: Final = 10.0
WAITING_MAX: Final = 256  # requests held at once for the certificates of their sessions
INGEST: Final = "ingest.ingest_events"
UNPROVEN: Final = frozenset(
    {
        "webhooks.take_delivery",  # proven by its source's secret, in headers of any name
        "health.healthz",  # answered alike to everybody, and whatever a proof would have to wait for
        "health.livez",
        "health.readyz",
    }
)
"""Routes whose callers are not asked who they are."""
ENDLESS: Final = frozenset({"stream.stream_events", "stream.stream_socket"})  # no answer that could be signed


class Gate:
    """Authenticates each request before its route, and signs answers after it."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._access = services.access
        self._sessions = SessionBook(services.key)
        self._authrite = AuthriteBook(services.key, origin=services.settings.public_url)
        self._arrival = trio.Event()
        self._waiting = trio.CapacityLimiter(WAITING_MAX)

    async def open_session(self) -> Response:
        """POST /.well-known/auth: opens a session, or adds certificates to one."""
        self._sessions.requested = requested_certificates(self._access)  # the operator can change them
        text = self._sessions.handshake(await self._message(), now_ms=clock_ms(), entropy=_entropy())
        arrived, self._arrival = self._arrival, trio.Event()
        arrived.set()
        return Response(text, content_type=JSON_TYPE)

    async def open_authrite_session(self) -> Response:
        """POST /authrite/initialRequest: opens a session."""
        text = self._authrite.handshake(await self._message(), now_ms=clock_ms(), entropy=_entropy())
        return Response(text, content_type=JSON_TYPE)

    async def enter(self) -> None:
        """Set ``g.caller``, or refuse. A WebSocket's handshake is a request like any other, without a body."""
        asked = websocket if has_websocket_context() else request
        rule = OPEN if asked.method == "OPTIONS" else rule_of(asked.endpoint)
        g.caller = Caller(roles=self._access.roles_of(None))
        bare = HttpRequest(
            method=asked.method,
            path=asked.scope["raw_path"],
            query=asked.scope["query_string"],
            headers=tuple((bytes(name).lower(), bytes(value)) for name, value in asked.scope["headers"]),
        )
        form = None if asked.endpoint in UNPROVEN else form_of(bare)
        if form is not None:
            g.body = await self._body(rule) if asked is request else b""
            await self._prove(form, attrs.evolve(bare, body=g.body), rule, asked.endpoint)
        if not self._permits(rule):
            raise self._access.refusal(g.caller, rule.need)

    async def leave(self, response: Response) -> Response:
        """Sign the answer to a request of a session, errors included."""
        exchange: SessionExchange | None = g.get("exchange")
        if exchange is None:
            return response
        book: SessionBook | AuthriteBook = g.book
        body = b"" if request.method == "HEAD" else await response.get_data(as_text=False)
        headers = [(name, value) for name, value in response.headers]
        sign = partial(
            book.sign_response,
            exchange,
            status=response.status_code,
            headers=headers,
            body=body,
            entropy=_entropy(),
        )
        for name, value in await _by_size(len(body), sign):
            response.headers[name] = value
        return response

    def _permits(self, rule: Rule) -> bool:
        return self._access.permits(g.caller, rule.need, rule.group)

    async def _message(self) -> bytes:
        return await read_body(request, self._services.settings.body_timeout_s, HANDSHAKE_BYTES_MAX)

    async def _body(self, rule: Rule) -> bytes:
        """The body, whose signature comes before anything else."""
        settings = self._services.settings
        bytes_max = settings.body_bytes_max if rule.body_bytes_max is None else rule.body_bytes_max
        if request.endpoint == INGEST:
            self._services.ingest.admission.refuse_unless_open()
        return await read_body(request, settings.body_timeout_s, bytes_max)

    async def _prove(self, form: AuthenticationForm, signed: HttpRequest, rule: Rule, endpoint: str | None) -> None:
        key, size = self._services.key, len(signed.body)
        if form == "headers":
            ttl_ms = self._services.settings.signature_ttl_ms
            check = partial(authenticate_headers, key, signed, now_ms=clock_ms(), ttl_ms=ttl_ms)
            proven = await _by_size(size, check)
            spent = Nonce(identity=proven.identity, nonce=proven.nonce, expires_ms=proven.expires_ms)
            await self._services.nonces.spend(spent)
            g.caller = await self._caller(form, proven.identity)
            return
        if endpoint in ENDLESS:
            raise InvalidAuthenticationError(
                "a stream has no end to be signed", field="", remedy="sign the request in its headers: X-Signature"
            )
        book = self._sessions if form == "session" else self._authrite
        claim = book.claim(signed, now_ms=clock_ms())
        valid = await _by_size(size, partial(claim.verify, key))
        exchange = book.admit(claim, valid, now_ms=clock_ms())
        g.exchange, g.book = exchange, book
        g.caller = await self._caller(form, exchange.identity, exchange.certificates)
        if exchange.certificates_pending and not self._permits(rule):
            g.caller = await self._caller(form, exchange.identity, await self._certificates(exchange))

    async def _certificates(self, exchange: SessionExchange) -> Sequence[CheckedCertificate]:
        """What the client shows of itself: it sends its first request before its certificates have gone out.

        A client that has none sends nothing: only a young session is waited for.
        """
        left_s = CERTIFICATES_WAIT_S - (clock_ms() - exchange.opened_ms) / 1_000
        with trio.move_on_after(max(0.0, left_s)):
            async with self._waiting:
                while True:
                    arrival = self._arrival
                    found = self._sessions.certificates(exchange, now_ms=clock_ms())
                    if found is not None:
                        return found
                    await arrival.wait()
        return ()

    async def _caller(
        self, form: AuthenticationForm, identity: bytes, certificates: Iterable[CheckedCertificate] = ()
    ) -> Caller:
        credentials = tuple(map(_credential, certificates))
        roles = self._access.roles_of(identity, await self._access.granted(credentials))
        return Caller(identity=identity, form=form, roles=roles, credentials=credentials)


def requested_certificates(access: Access) -> RequestedCertificates:
    """What clients are asked to show: certificates that would give them a role."""
    types: dict[str, tuple[str, ...]] = {}
    for trusted in access.certifiers:
        types[trusted.type] = tuple(dict.fromkeys((*types.get(trusted.type, ()), *trusted.fields)))
    certifiers = tuple(dict.fromkeys(trusted.certifier for trusted in access.certifiers))
    return RequestedCertificates(certifiers=certifiers, types=types)


def _credential(shown: CheckedCertificate) -> Credential:
    return Credential(
        certifier=shown.certifier.hex(),
        type=shown.type,
        serial_number=shown.serial_number,
        revocation_outpoint=shown.revocation_outpoint,
    )


handshakes = Resource("authentication", Gate)
REFUSED: Final = ("invalid-authentication", "not-authenticated", "body-too-large")
EXAMPLE_KEY: Final = "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5"  # of the private key 2
HANDSHAKE_EXAMPLE: Final = {
    "version": "0.1",
    "messageType": "initialRequest",
    "identityKey": EXAMPLE_KEY,
    "initialNonce": "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=",
    "requestedCertificates": {"certifiers": [], "types": {}},
}
AUTHRITE_EXAMPLE: Final = {
    "authrite": "0.1",
    "messageType": "initialRequest",
    "identityKey": EXAMPLE_KEY,
    "nonce": "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=",
}


@handshakes.post(
    "/.well-known/auth",
    Operation(
        operation_id="shakeHands",
        tag="identity",
        summary="BRC-104: initialRequest and certificateResponse",
        body=Body(content={JSON_TYPE: HandshakeRequest}, examples={JSON_TYPE: HANDSHAKE_EXAMPLE}),
        answers={200: json_answer("initialResponse, or the certificates taken.", HandshakeMessage)},
        problems=REFUSED,
    ),
)
async def handshake(gate: Gate) -> Response:
    return await gate.open_session()


@handshakes.post(
    "/authrite/initialRequest",
    Operation(
        operation_id="shakeHandsAuthrite",
        tag="identity",
        summary="Legacy BRC-31: initialRequest",
        body=Body(content={JSON_TYPE: AuthriteRequest}, examples={JSON_TYPE: AUTHRITE_EXAMPLE}),
        answers={200: json_answer("initialResponse.", AuthriteMessage)},
        problems=REFUSED,
    ),
)
async def authrite_handshake(gate: Gate) -> Response:
    return await gate.open_authrite_session()


def register(app: Quart, services: Services) -> None:
    """Put the gate around all routes of an app, and add those of its handshakes."""
    gate = Gate(services)
    app.register_blueprint(handshakes.blueprint(services, gate))
    app.before_request(gate.enter)
    app.before_websocket(gate.enter)
    app.after_request(gate.leave)


async def _by_size(size: int, call: Callable[[], T]) -> T:
    """Run what takes as long as a body has bytes, on a thread if that is long."""
    return call() if size <= INLINE_BYTES_MAX else await trio.to_thread.run_sync(call)


def _entropy() -> bytes:
    return secrets.token_bytes(ENTROPY_BYTES)
