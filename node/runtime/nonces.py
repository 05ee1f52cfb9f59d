"""Spends nonces: concurrent requests share a transaction, and each waits until its nonce is on disk.

This node alone writes its nonces, one group after the other. So what one attempt at a group found unspent, and the
next one finds spent, was spent by the first: its commit counted, though its answer was lost.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import structlog
import trio

from node.runtime.channels import waiting
from node.runtime.clock import clock_ms
from protocols.errors import ClientFault, WorldFault
from storage import nonces
from storage.database import Database
from storage.errors import DatabaseUnavailableError
from storage.nonces import Nonce

if TYPE_CHECKING:
    from psycopg import Connection

log = structlog.get_logger(__name__)

WAITING_MAX: Final = 1_024
GROUP_MAX: Final = 256
PRUNE_S: Final = 60.0
UNANSWERED_MAX: Final = 4_096

NonceKey: TypeAlias = tuple[bytes, str]
"""Identity and nonce."""


class ReplayedError(ClientFault):
    """A signed request was sent a second time."""

    code = "not-authenticated"


@attrs.define(eq=False, kw_only=True)
class _Claim:
    nonce: Nonce
    done: trio.Event = attrs.field(factory=trio.Event)
    outcome: bool | WorldFault = False
    is_given_up: bool = False  # its request is refused, and may be sent again


class NonceLedger:
    """Nonces spent at this node, kept while the signatures of their requests are valid."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._send, self._receive = trio.open_memory_channel[_Claim](WAITING_MAX)
        # found unspent by an attempt whose outcome is not known: their requests were refused, and may be sent again
        self._unanswered: OrderedDict[NonceKey, None] = OrderedDict()

    async def spend(self, nonce: Nonce) -> None:
        """Return once the nonce is on disk.

        Raises:
            ReplayedError: It was spent before.
            WorldFault: It may not be on disk: the request must be refused.
        """
        claim = _Claim(nonce=nonce)
        try:
            with self._database.awaited():
                await self._send.send(claim)
                await claim.done.wait()
        except DatabaseUnavailableError:
            claim.is_given_up = True
            raise
        if isinstance(claim.outcome, WorldFault):
            raise claim.outcome.anew()
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
        claims: dict[NonceKey, _Claim] = {}
        for claim in group:
            if not claim.is_given_up:
                claims.setdefault((claim.nonce.identity, claim.nonce.nonce), claim)
        if not claims:
            return
        accepted = claims.keys() & self._unanswered.keys()
        try:
            await self._database.run(partial(_spend, [each.nonce for each in claims.values()], accepted))
        except WorldFault as fault:
            for claim in group:
                claim.outcome = fault
            self._remember(accepted)
        else:
            for key, claim in claims.items():
                claim.outcome = key in accepted
                self._unanswered.pop(key, None)
                if claim.is_given_up and claim.outcome:
                    self._remember({key})
        for claim in group:
            claim.done.set()

    def _remember(self, unanswered: set[NonceKey]) -> None:
        self._unanswered.update(dict.fromkeys(unanswered))
        while len(self._unanswered) > UNANSWERED_MAX:
            self._unanswered.popitem(last=False)

    async def _prune(self) -> None:
        while True:
            await trio.sleep(PRUNE_S)
            try:
                await self._database.run(partial(nonces.prune, now_ms=clock_ms()))
            except WorldFault as fault:
                log.warning("nonces.not_pruned", why=str(fault))


def _spend(group: Sequence[Nonce], accepted: set[NonceKey], connection: "Connection") -> None:
    """Write nonces, and add those that were unspent; what earlier attempts added stays."""
    accepted |= nonces.spend(connection, group)
