"""Token buckets: so many at once, so many a second over time. Pure but for the clock that is given."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import attrs

K = TypeVar("K", bound=Hashable)


@attrs.frozen(kw_only=True)
class Rate:
    """What a bucket allows: ``burst`` at once, ``per_s`` a second over time."""

    per_s: float
    burst: float

    def __attrs_post_init__(self) -> None:
        assert self.per_s > 0, "a bucket fills up again"
        assert self.burst >= 1, "a full bucket lets one through"


class TokenBucket:
    """The tokens of one party; it begins with a full bucket."""

    def __init__(self, rate: Rate, clock: Callable[[], float]) -> None:
        """``clock``: seconds, never going back."""
        self._rate = rate
        self._clock = clock
        self._tokens = rate.burst
        self._counted_s = clock()

    @property
    def level(self) -> float:
        """How many tokens there are; negative after a charge that was more than there were."""
        now_s = self._clock()
        self._tokens = min(self._rate.burst, self._tokens + (now_s - self._counted_s) * self._rate.per_s)
        self._counted_s = now_s
        return self._tokens

    @property
    def empty_for_s(self) -> float:
        """How long it takes until there is more than nothing; 0 while there is."""
        return max(0.0, -self.level / self._rate.per_s)

    def take(self) -> bool:
        """Take a token. False where none is left now: nothing is taken then."""
        if self.level < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def charge(self, tokens: float) -> None:
        """Take what was used already, whether it is there or not."""
        self._tokens = self.level - tokens


class TokenBuckets(Generic[K]):
    """A bucket for each of many parties. Past ``parties_max`` the one that asked longest ago is forgotten."""

    def __init__(self, rate: Rate, clock: Callable[[], float], parties_max: int) -> None:
        assert parties_max >= 1, "the party that asks is kept"
        self._rate = rate
        self._clock = clock
        self._parties_max = parties_max
        self._buckets: OrderedDict[K, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, party: K) -> bool:
        """Take a token of a party's. False where it has none left now."""
        return self.bucket(party).take()

    def bucket(self, party: K) -> TokenBucket:
        """A party's bucket; it counts as asked for."""
        bucket = self._buckets.get(party)
        if bucket is None:
            bucket = self._buckets[party] = TokenBucket(self._rate, self._clock)
            if len(self._buckets) > self._parties_max:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(party)
        return bucket
