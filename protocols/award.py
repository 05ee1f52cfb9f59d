"""The award function: a total order over bids, the same on every node that knows the same."""

import hashlib
from collections.abc import Sequence

import attrs

from protocols.job import BidSeen, Strategy
from protocols.messages import IdentityKey, Role
from protocols.quorum import LevelRule


@attrs.frozen(kw_only=True)
class Ranked:
    """A bid with its place and what put it there, readable afterwards."""

    bidder: IdentityKey
    scores: tuple[int, ...]
    tie_break: bytes


def rank(bids: Sequence[BidSeen], *, role: Role, strategy: Strategy, seed: str) -> tuple[Ranked, ...]:
    """Order the bids for a role, best first.

    The strategy's own measure comes first, the other two follow, and a hash of seed and bidder breaks ties,
    so nobody wins for having a small key.
    """
    ranked = [
        Ranked(
            bidder=seen.bid.signer,
            scores=_scores(seen, strategy),
            tie_break=hashlib.sha256(seed.encode() + seen.bid.signer).digest(),
        )
        for seen in bids
        if role in seen.bid.message.roles
    ]
    return tuple(sorted(ranked, key=lambda entry: (entry.scores, entry.tie_break)))


def _scores(seen: BidSeen, strategy: Strategy) -> tuple[int, ...]:
    """Smaller is better."""
    reputation, latency, price = -seen.reputation, seen.latency_ms, seen.bid.message.price
    if strategy is Strategy.REPUTATION:
        return reputation, latency, price
    if strategy is Strategy.LATENCY:
        return latency, reputation, price
    return price, reputation, latency


def choose(
    bids: Sequence[BidSeen], *, role: Role, rule: LevelRule, strategy: Strategy, seed: str
) -> tuple[IdentityKey, ...]:
    """The executors of a role: the best, up to what the level wants, one per operator where it must be."""
    operators = {seen.bid.signer: seen.bid.message.operator for seen in bids}
    chosen: list[IdentityKey] = []
    taken: set[str] = set()
    for entry in rank(bids, role=role, strategy=strategy, seed=seed):
        operator = operators[entry.bidder]
        if rule.distinct_operators and (not operator or operator in taken):
            continue
        taken.add(operator)
        chosen.append(entry.bidder)
        if len(chosen) == rule.executors:
            break
    return tuple(chosen)
