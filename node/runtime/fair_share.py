"""A few places shared fairly: among accounts first, then in the order of arrival.

An account is whoever work is done for: a client, a source, the node itself. The next place goes to the account that
has the fewest, of those to the node's own, then to the one that used the least lately. None may have all of them, so
that one account's long work leaves a place for the others' short work. What is used is charged afterwards, in seconds
of processor time; an account that is metered and has used up its allowance is refused until it has some again.

Long work never has all places either, whoever it is for: short work waits for short work alone.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Final

import attrs
import trio

from node.runtime.token_bucket import Rate, TokenBucket, TokenBuckets
from protocols.errors import ClientFault, WorldFault

ACCOUNTS_MAX: Final = 8_192
QUEUE_SHARE: Final = 3
"""What one metered account may have waiting, as a multiple of what may still come in: alone three quarters."""


class WorkersBusyError(WorldFault):
    """Too many calls wait already."""

    code = "workers-busy"


class AllowanceUsedError(ClientFault):
    """A client used up its share of processor time. Field ``retryAfter``: seconds until it has some again."""

    code = "allowance-used"


@attrs.frozen(kw_only=True)
class Account:
    """Whom work is done for.

    Attributes:
        is_metered: It is refused once its allowance is used up. Those that stand for many others are not.
    """

    name: str
    is_metered: bool = True


OWN_ACCOUNT: Final = Account(name="node", is_metered=False)


@attrs.define(eq=False)
class _Waiter:
    is_long: bool
    answered: trio.Event = attrs.field(factory=trio.Event)
    has_place: bool = False
    refusal: AllowanceUsedError | None = None


@attrs.define(eq=False)
class _Line:
    """What one account has waiting and running."""

    account: Account
    bucket: TokenBucket
    waiters: deque[_Waiter] = attrs.field(factory=deque)
    running: int = 0


class FairShare:
    """The places and who waits for them."""

    def __init__(
        self,
        places: int,
        *,
        name: str,
        waiting_max: int,
        allowance: Rate,
        account_max: int | None = None,
        long_max: int | None = None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """Args:
        waiting_max: More are refused.
        allowance: Seconds of processor time that a metered account may use.
        account_max: Places that one account may have; None: all.
        long_max: Places that long work may have; None: all.
        """
        self._free = places
        self._account_max = places if account_max is None else account_max
        self._long_free = places if long_max is None else long_max
        self._name = name
        self._waiting_max = waiting_max
        self._waiting = 0
        self._lines: dict[str, _Line] = {}
        self._buckets = TokenBuckets[str](allowance, clock, ACCOUNTS_MAX)
        self._debt_max_s = allowance.burst  # of who is never refused, who would come last for ever

    @property
    def has_room(self) -> bool:
        """Whether a place is free."""
        return self._free > 0

    async def take(self, account: Account, *, is_long: bool = False) -> None:
        """Wait for a place, to be given back by ``give_back`` with the same ``is_long``.

        Raises:
            WorkersBusyError: Too many wait. AllowanceUsedError: The account used up its allowance.
        """
        line = self._lines.get(account.name) or _Line(account, self._buckets.bucket(account.name))
        self._refuse_if_full(line)
        if (refusal := _refusal(line)) is not None:
            raise refusal
        self._lines[account.name] = line
        waiter = _Waiter(is_long)
        line.waiters.append(waiter)
        self._waiting += 1
        self._hand_out()
        try:
            await waiter.answered.wait()
        except trio.Cancelled:
            if waiter.has_place:
                self.give_back(account, 0.0, is_long=is_long)
            elif waiter.refusal is None:
                line.waiters.remove(waiter)
                self._waiting -= 1
                self._forget(line)
            raise
        if waiter.refusal is not None:
            raise waiter.refusal

    def give_back(self, account: Account, spent_s: float, *, is_long: bool = False) -> None:
        """Give a place back, after it was used for so many seconds of processor time."""
        line = self._lines[account.name]
        line.bucket.charge(spent_s if account.is_metered else min(spent_s, line.bucket.level + self._debt_max_s))
        line.running -= 1
        self._free += 1
        self._long_free += is_long
        self._forget(line)
        self._hand_out()

    def _refuse_if_full(self, line: _Line) -> None:
        free = self._waiting_max - self._waiting
        if free <= 0:
            raise WorkersBusyError(
                f"{self._waiting_max} calls are waiting for a worker already, the most that may", pool=self._name
            )
        if line.account.is_metered and len(line.waiters) >= QUEUE_SHARE * free:
            raise AllowanceUsedError(
                f"{len(line.waiters)} of your requests are waiting already; at most {QUEUE_SHARE * free} may now, "
                f"{QUEUE_SHARE} times as many as there is room for",
                retryAfter=1,
            )

    def _hand_out(self) -> None:
        while self._free and (line := self._next()) is not None:
            waiter = line.waiters.popleft()
            self._waiting -= 1
            waiter.refusal = _refusal(line)
            if waiter.refusal is None:
                waiter.has_place = True
                line.running += 1
                self._free -= 1
                self._long_free -= waiter.is_long
            waiter.answered.set()
            self._forget(line)

    def _next(self) -> _Line | None:
        """Whose turn it is."""
        return min(filter(self._is_ready, self._lines.values()), key=_precedence, default=None)

    def _is_ready(self, line: _Line) -> bool:
        if not line.waiters or line.running >= self._account_max:
            return False
        return self._long_free > 0 or not line.waiters[0].is_long

    def _forget(self, line: _Line) -> None:
        if not line.waiters and not line.running:
            self._lines.pop(line.account.name, None)


def _precedence(line: _Line) -> tuple[int, bool, float]:
    """The least is served first. New accounts cost nothing to make: they must not keep the node from its own work."""
    return line.running, line.account != OWN_ACCOUNT, -line.bucket.level


def _refusal(line: _Line) -> AllowanceUsedError | None:
    wait_s = line.bucket.empty_for_s
    if not line.account.is_metered or wait_s <= 0:
        return None
    return AllowanceUsedError(
        "reading your requests took more processor time than your share of it", retryAfter=max(1, math.ceil(wait_s))
    )
