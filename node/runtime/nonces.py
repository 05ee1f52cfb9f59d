"""Spends nonces: concurrent requests share one transaction, and none goes on before it is on disk."""

from functools import partial

import attrs
import structlog
import trio

from node.runtime.clock import clock_ms
from protocols.errors import ClientFault, WorldFault
from storage import nonces
from storage.database import Database
from storage.nonces import Nonce

log = structlog.get_logger(__name__)

WAITING_MAX = 1_024
GROUP_MAX = 256
PRUNE_S = 60.0


class ReplayedError(ClientFault):
    """A request that was signed once came a second time."""

    code = "not-authenticated"


@attrs.define(eq=False, kw_only=True)
class _Waiting:
    nonce: Nonce
    done: trio.Event = attrs.field(factory=trio.Event)
    outcome: bool | WorldFault = False


class NonceLedger:
    """Nonces spent at this node, for as long as their requests could be accepted."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._send, self._receive = trio.open_memory_channel[_Waiting](WAITING_MAX)

    async def spend(self, nonce: Nonce) -> None:
        """Returns once the nonce is on disk.

        Raises:
            ReplayedError: It was spent before.
            WorldFault: It is not known to be spent: the request must not go on.
        """
        waiting = _Waiting(nonce=nonce)
        await self._send.send(waiting)
        await waiting.done.wait()
        if isinstance(waiting.outcome, WorldFault):
            raise waiting.outcome
        if not waiting.outcome:
            raise ReplayedError(
                "the nonce was used before", field="X-Nonce", remedy="sign every request with a nonce of its own"
            )

    async def run(self) -> None:
        """Write groups down until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._prune)
            async for first in self._receive:
                group = [first]
                while len(group) < GROUP_MAX:
                    try:
                        group.append(self._receive.receive_nowait())
                    except trio.WouldBlock:
                        break
                await self._write(group)

    async def _write(self, group: list[_Waiting]) -> None:
        # of equal nonces in one group the first is the one spent
        claims: dict[tuple[bytes, str], _Waiting] = {}
        for waiting in group:
            claims.setdefault((waiting.nonce.identity, waiting.nonce.nonce), waiting)
        try:
            spent = await self._database.run(partial(nonces.spend, nonces=[each.nonce for each in claims.values()]))
        except WorldFault as fault:
            for waiting in group:
                waiting.outcome = fault
        else:
            for key, waiting in claims.items():
                waiting.outcome = key in spent
        for waiting in group:
            waiting.done.set()

    async def _prune(self) -> None:
        while True:
            await trio.sleep(PRUNE_S)
            try:
                await self._database.run(partial(nonces.prune, now_ms=clock_ms()))
            except WorldFault as fault:
                log.warning("nonces.not_pruned", why=str(fault))
