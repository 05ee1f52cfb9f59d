"""The award function: which bidders may do a role, in a total order that is the same on every node."""

import hashlib
from collections.abc import Sequence

from protocols.entities import BidDecision, Choice, ReceivedBid
from protocols.levels import LevelRule
from protocols.messages import IdentityKey, Role
from protocols.rules import Strategy
from protocols.templates import JobTemplate

SHADOWS_MAX = 1  # newcomers that do the work beside the executors of a role, to be judged by it


def judge(
    bids: Sequence[ReceivedBid], *, role: Role, template: JobTemplate, rule: LevelRule, strategy: Strategy, seed: str
) -> tuple[BidDecision, ...]:
    """The decision on every bid for a role, best first: executor, shadow, reserve or refused, with the reason.

    The strategy's own measure comes first, the other two follow, and a hash of seed and bidder breaks ties, so
    nobody wins for having a small key. The best are taken, as many as the level wants, one of each operator
    where it must be. A bidder whose reputation is too low to count does the work as a shadow: its evidence
    decides nothing, and is how its reputation grows.
    """
    ranked = sorted(bids, key=lambda seen: (_scores(seen, role, strategy), _tie_break(seen, seed)))
    judged: list[BidDecision] = []
    taken: set[str] = set()
    executors = shadows = 0
    for seen in ranked:
        refusal, probation = _refusal(seen, role, template), seen.reputation_in(role) < template.reputation_min
        operator = seen.bid.message.operator
        choice = Choice.REFUSED
        if refusal:
            pass
        elif probation:
            refusal = f"reputation {seen.reputation_in(role)} is below {template.reputation_min}"
            if seen.reputation_in(role) > 0 and shadows < SHADOWS_MAX:
                choice, shadows = Choice.SHADOW, shadows + 1
        elif rule.distinct_operators and (not operator or operator in taken):
            refusal = "its operator is not named" if not operator else "its operator has an agent in this already"
        elif executors == rule.executors:
            choice = Choice.RESERVE
        else:
            choice, executors = Choice.EXECUTOR, executors + 1
            taken.add(operator)
        scores = _scores(seen, role, strategy)
        judged.append(BidDecision(bidder=seen.bid.signer, role=role, choice=choice, scores=scores, reason=refusal))
    return tuple(judged)


def chosen(judged: Sequence[BidDecision], choice: Choice) -> tuple[IdentityKey, ...]:
    """The bidders with this decision, best first."""
    return tuple(each.bidder for each in judged if each.choice is choice)


def _refusal(seen: ReceivedBid, role: Role, template: JobTemplate) -> str:
    message = seen.bid.message
    if not message.roles:
        return message.reason or "it declined"
    if role not in message.roles:
        return "it does not offer the role"
    missing = set(template.capabilities) - {held.word for held in message.roles} - set(seen.topics)
    if missing:
        return f"it lacks {', '.join(sorted(missing))}"
    if template.regions and message.region not in template.regions:
        return f"it runs in {message.region or 'no named region'}"
    return ""


def _scores(seen: ReceivedBid, role: Role, strategy: Strategy) -> tuple[int, ...]:
    """Smaller is better."""
    reputation, latency, price = -seen.reputation_in(role), seen.latency_ms, seen.bid.message.price
    if strategy is Strategy.REPUTATION:
        return reputation, latency, price
    if strategy is Strategy.LATENCY:
        return latency, reputation, price
    return price, reputation, latency


def _tie_break(seen: ReceivedBid, seed: str) -> bytes:
    return hashlib.sha256(seed.encode() + seen.bid.signer).digest()
