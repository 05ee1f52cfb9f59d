"""A request that is repeated under its key gets the answer of the first time, also across restarts.

``Idempotency-Key`` follows draft-ietf-httpapi-idempotency-key-header. A request is carried out in a task of its own,
not in that of its connection: a client that gave up waiting finds the answer under its key.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final

import attrs
import structlog
import trio

from node.runtime.clock import clock_ms
from protocols.errors import ClientFault, WorldFault
from storage import idempotency
from storage.database import Database
from storage.idempotency import KeptResponse

log = structlog.get_logger(__name__)

KEPT_MS: Final = 24 * 3600 * 1000
KEYS_MAX: Final = 100_000
BYTES_MAX: Final = 256 * 1024 * 1024  # of the bodies of all answers
PRUNED_TO: Final = 0.9  # share of the bounds that is left after the oldest were deleted
FIND_S: Final = 1.8  # a client waits for it
UNDER_WAY_MAX: Final = 1_024
PRUNE_S: Final = 60.0
KEY: Final = re.compile("[!-~]{1,255}", re.ASCII)
QUOTED: Final = re.compile(r'"(?:[ !#-\[\]-~]|\\["\\])*"', re.ASCII)  # a string of RFC 9651, 3.3.3


class InvalidIdempotencyKeyError(ClientFault):
    code = "invalid-idempotency-key"


class KeyInUseError(ClientFault):
    """The first request with the key is being carried out. Field ``retryAfter``, seconds."""

    code = "idempotency-key-in-use"


class KeyReusedError(ClientFault):
    """The key was used for another request."""

    code = "idempotency-key-reused"


class TooManyKeysError(WorldFault):
    """``UNDER_WAY_MAX`` requests with keys are being carried out."""


@attrs.frozen(kw_only=True)
class KeyedRequest:
    """A request with a key.

    Attributes:
        scope: Digest of the caller, the route and the key, 32 bytes.
        fingerprint: Digest of all that the answer depends on, 32 bytes.
    """

    scope: bytes
    fingerprint: bytes


@attrs.define(eq=False, kw_only=True)
class _UnderWay:
    fingerprint: bytes
    done: trio.Event = attrs.field(factory=trio.Event)
    outcome: KeptResponse | Exception | None = None


def read_key(values: Sequence[str]) -> str:
    """The key in the values of the header: a string of RFC 9651 in quotes, or bare.

    Raises:
        InvalidIdempotencyKeyError: It is not a key, or the header was sent twice.
    """
    text = values[0].strip() if len(values) == 1 else ""
    if QUOTED.fullmatch(text):
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    if KEY.fullmatch(text) is None:
        raise InvalidIdempotencyKeyError(
            "Idempotency-Key: must be sent once, with 1 to 255 visible ASCII characters",
            field="Idempotency-Key",
            remedy="send a UUID, for example",
        )
    return text


def digest(*parts: bytes) -> bytes:
    """SHA-256 over parts with their lengths, so that no two lists of parts have the same input."""
    made = hashlib.sha256()
    for part in parts:
        made.update(len(part).to_bytes(8, "big"))
        made.update(part)
    return made.digest()


class IdempotencyLedger:
    """The answers of this node to requests with keys."""

    def __init__(
        self, database: Database, *, keys_max: int = KEYS_MAX, bytes_max: int = BYTES_MAX, kept_ms: int = KEPT_MS
    ) -> None:
        self._database = database
        self._keys_max = keys_max
        self._bytes_max = bytes_max
        self._kept_ms = kept_ms
        self._under_way: dict[bytes, _UnderWay] = {}
        self._count = 0
        self._bytes = 0
        self._send, self._receive = trio.open_memory_channel[Callable[[], Awaitable[None]]](UNDER_WAY_MAX)

    async def once(
        self, asked: KeyedRequest, carry_out: Callable[[], Awaitable[KeptResponse]]
    ) -> tuple[KeptResponse, bool]:
        """The answer to a request, and whether it was given before.

        Args:
            carry_out: Makes the answer; it runs to its end if the caller is cancelled. Only a 2xx is kept.

        Raises:
            KeyInUseError, KeyReusedError. And what ``carry_out`` raises.
        """
        before = self._under_way.get(asked.scope)
        if before is not None:
            _same(before.fingerprint, asked)
            raise KeyInUseError("the first request with this key is being carried out", retryAfter=1)
        if len(self._under_way) >= UNDER_WAY_MAX:
            raise TooManyKeysError(f"{UNDER_WAY_MAX} requests with keys are being carried out already")
        mine = self._under_way[asked.scope] = _UnderWay(fingerprint=asked.fingerprint)
        with ExitStack() as undo:
            undo.callback(self._under_way.pop, asked.scope)
            find = partial(idempotency.find, scope=asked.scope, since_ms=clock_ms() - self._kept_ms)
            kept = await self._database.run(find, deadline_s=FIND_S)
            undo.pop_all()
        if kept is not None:
            del self._under_way[asked.scope]
            _same(kept.fingerprint, asked)
            return kept, True
        self._send.send_nowait(partial(self._carry_out, asked, mine, carry_out))
        await mine.done.wait()
        if isinstance(mine.outcome, Exception):
            raise mine.outcome
        if mine.outcome is None:
            raise WorldFault("the node is stopping; whether the request was carried out is not known")
        return mine.outcome, False

    async def run(self) -> None:
        """Carry requests out, and delete old answers, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._prune_always)
            async for call in self._receive:
                nursery.start_soon(call)

    async def _carry_out(
        self, asked: KeyedRequest, mine: _UnderWay, carry_out: Callable[[], Awaitable[KeptResponse]]
    ) -> None:
        try:
            mine.outcome = kept = await carry_out()
            if 200 <= kept.status < 300:
                await self._keep(asked, kept)
        except Exception as error:  # noqa: BLE001  # raised where it is waited for, bugs too
            mine.outcome = error
        finally:
            del self._under_way[asked.scope]
            mine.done.set()

    async def _keep(self, asked: KeyedRequest, kept: KeptResponse) -> None:
        """Store an answer. The request was carried out, so an unavailable database is logged and is no error."""
        if len(kept.body) > self._bytes_max:
            return
        try:
            await self._database.run(partial(idempotency.keep, scope=asked.scope, kept=kept, now_ms=clock_ms()))
            self._count += 1
            self._bytes += len(kept.body)
            if self._count > self._keys_max or self._bytes > self._bytes_max:
                await self._prune()
        except WorldFault as fault:
            log.warning("idempotency.not_kept", reason=str(fault))

    async def _prune(self) -> None:
        call = partial(
            idempotency.prune,
            since_ms=clock_ms() - self._kept_ms,
            count_max=int(PRUNED_TO * self._keys_max),
            bytes_max=int(PRUNED_TO * self._bytes_max),
        )
        self._count, self._bytes = await self._database.run(call)

    async def _prune_always(self) -> None:
        while True:
            try:
                await self._prune()
            except WorldFault as fault:
                log.warning("idempotency.not_pruned", reason=str(fault))
            await trio.sleep(PRUNE_S)


def _same(fingerprint: bytes, asked: KeyedRequest) -> None:
    if fingerprint != asked.fingerprint:
        raise KeyReusedError(
            "the key was used for another request",
            field="Idempotency-Key",
            remedy="send each request under its own key, and repeat it unchanged",
        )
