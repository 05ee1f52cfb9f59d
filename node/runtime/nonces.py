"""Spends nonces: concurrent requests share a transaction, and each waits until its nonce is on disk."""

from functools import partial
from itertools import islice

import attrs
import structlog
import trio

from node.runtime.channels import waiting
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
    """A signed request was sent a second time."""

    code = "not-authenticated"


@attrs.define(eq=False, kw_only=True)
class _Claim:
    nonce: Nonce
    done: trio.Event = attrs.field(factory=trio.Event)
    outcome: bool | WorldFault = False


class NonceLedger:
    """Nonces spent at this node, kept while the signatures of their requests are valid."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._send, self._receive = trio.open_memory_channel[_Claim](WAITING_MAX)

    async def spend(self, nonce: Nonce) -> None:
        """Return once the nonce is on disk.

        Raises:
            ReplayedError: It was spent before.
            WorldFault: It may not be on disk: the request must be refused.
        """
        claim = _Claim(nonce=nonce)
        await self._send.send(claim)
        await claim.done.wait()
        if isinstance(claim.outcome, WorldFault):
            raise claim.outcome
        if not claim.outcome:
            raise ReplayedError(
                "the nonce was used before", field="X-Nonce", remedy="sign every request with a nonce of its own"
            )

    async def run(self) -> None:
        """Write groups of nonces until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._prune)
            async for first in self._receive:
                await self._write([first, *islice(waiting(self._receive), GROUP_MAX - 1)])

    async def _write(self, group: list[_Claim]) -> None:
        # of equal nonces in one group only the first is accepted
        claims: dict[tuple[bytes, str], _Claim] = {}
        for claim in group:
            claims.setdefault((claim.nonce.identity, claim.nonce.nonce), claim)
        try:
            spent = await self._database.run(partial(nonces.spend, nonces=[each.nonce for each in claims.values()]))
        except WorldFault as fault:
            for claim in group:
                claim.outcome = fault
        else:
            for key, claim in claims.items():
                claim.outcome = key in spent
        for claim in group:
            claim.done.set()

    async def _prune(self) -> None:
        while True:
            await trio.sleep(PRUNE_S)
            try:
                await self._database.run(partial(nonces.prune, now_ms=clock_ms()))
            except WorldFault as fault:
                log.warning("nonces.not_pruned", why=str(fault))
