"""Auctions as the API shows them: bids, scores, the choice and its reasons."""

from typing import Any

from node.runtime.clock import clock_ms
from protocols.certificate import agent_id, rfc3339
from protocols.effects import RecordAuction


def auction_document(effect: RecordAuction) -> dict[str, Any]:
    """JSON values only. Scores are the ranking's, smaller being better, in the order that the strategy weighs."""
    bids = {seen.bid.signer: seen for seen in effect.bids}
    return {
        "jobId": effect.announcement_id,
        "leaseId": effect.lease_id or None,
        "level": effect.level.word,
        "quorum": effect.quorum,
        "strategy": effect.strategy.name.lower(),
        "closedAt": rfc3339(clock_ms()),
        "bids": [
            {
                "agentId": agent_id(signer),
                "roles": [role.word for role in seen.bid.message.roles],
                "price": seen.bid.message.price,
                "capacity": seen.bid.message.capacity,
                "operator": seen.bid.message.operator,
                "region": seen.bid.message.region,
                "latencyMs": seen.latency_ms,
                "reputation": {role.word: score for role, score in seen.reputations},
                "declined": seen.bid.message.reason if not seen.bid.message.roles else None,
            }
            for signer, seen in bids.items()
        ],
        "ranking": [
            {
                "agentId": agent_id(each.bidder),
                "role": each.role.word,
                "choice": each.choice.name.lower(),
                "scores": list(each.scores),
                "reason": each.reason or None,
            }
            for each in effect.judged
        ],
    }
