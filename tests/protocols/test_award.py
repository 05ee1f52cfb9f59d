"""Who may do a role, in which order, and what is said to the others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.award import chosen, judge
from protocols.entities import BidDecision, Choice, ReceivedBid
from protocols.levels import LEVELS
from protocols.messages import Bid, Level, Role, Signed
from protocols.rules import Strategy
from protocols.templates import BUILT_IN, JobTemplate

KEYS = [b"\x02" + bytes([n]) * 32 for n in range(8)]
TEMPLATE = BUILT_IN[Role.NORMALIZE, Level.ENHANCED]


def seen(
    key: bytes,
    *,
    reputation: int = 50,
    latency_ms: int = 5,
    price: int = 0,
    operator: str = "",
    region: str = "",
    roles: tuple[Role, ...] = (Role.NORMALIZE,),
    reason: str = "",
    topics: tuple[str, ...] = (),
) -> ReceivedBid:
    bid = Bid(
        network="n",
        announcement_id="a",
        roles=roles,
        capacity=1,
        price=price,
        operator=operator,
        region=region,
        reason=reason,
    )
    signed = Signed(message=bid, signer=key, signature=b"")
    return ReceivedBid(bid=signed, latency_ms=latency_ms, reputations=((Role.NORMALIZE, reputation),), topics=topics)


def judged(
    bids: list[ReceivedBid],
    *,
    strategy: Strategy = Strategy.REPUTATION,
    seed: str = "s",
    level: Level = Level.ENHANCED,
    template: JobTemplate = TEMPLATE,
    role: Role = Role.NORMALIZE,
) -> tuple[BidDecision, ...]:
    return judge(bids, role=role, template=template, rule=LEVELS[level], strategy=strategy, seed=seed)


BIDS = [
    seen(KEYS[0], reputation=90, latency_ms=50, price=9),
    seen(KEYS[1], reputation=80, latency_ms=1, price=8),
    seen(KEYS[2], reputation=70, latency_ms=20, price=1),
]


@pytest.mark.parametrize(
    ("strategy", "best"),
    [(Strategy.REPUTATION, KEYS[0]), (Strategy.LATENCY, KEYS[1]), (Strategy.COST, KEYS[2])],
)
def test_the_strategy_decides_who_is_best(strategy: Strategy, best: bytes) -> None:
    assert chosen(judged(BIDS, strategy=strategy), Choice.EXECUTOR)[0] == best


@given(st.permutations([seen(key) for key in KEYS]), st.text(max_size=5))
def test_ties_are_broken_by_the_seed_alone(bids: list[ReceivedBid], seed: str) -> None:
    assert judged(bids, seed=seed) == judged([seen(key) for key in KEYS], seed=seed)


def test_different_seeds_choose_differently() -> None:
    winners = {judged([seen(key) for key in KEYS], seed=str(n))[0].bidder for n in range(50)}
    assert len(winners) > 4


def test_the_best_execute_and_the_rest_stand_by() -> None:
    found = judged([seen(key, reputation=90 - n) for n, key in enumerate(KEYS)])
    assert chosen(found, Choice.EXECUTOR) == tuple(KEYS[:3])
    assert chosen(found, Choice.RESERVE) == tuple(KEYS[3:])


def test_critical_takes_one_agent_an_operator() -> None:
    bids = [seen(key, operator=f"operator {n // 2}", reputation=90 - n) for n, key in enumerate(KEYS)]
    found = judged(bids, level=Level.CRITICAL)
    assert chosen(found, Choice.EXECUTOR) == (KEYS[0], KEYS[2], KEYS[4], KEYS[6])
    assert {each.reason for each in found if each.choice is Choice.REFUSED} == {
        "its operator has an agent in this already"
    }
    nameless = judged([seen(key) for key in KEYS], level=Level.CRITICAL)
    assert chosen(nameless, Choice.EXECUTOR) == ()


@pytest.mark.parametrize(
    ("bid", "reason"),
    [
        (seen(KEYS[0], roles=(), reason="price"), "price"),
        (seen(KEYS[0], roles=(Role.CERTIFY,)), "it does not offer the role"),
        (seen(KEYS[0], region="mars"), "it runs in mars"),
        (seen(KEYS[0]), "it runs in no named region"),
        (seen(KEYS[0], region="eu"), "it lacks gpu"),
        (seen(KEYS[0], region="eu", topics=("gpu",), reputation=0), "reputation 0 is below 40"),
    ],
)
def test_who_is_refused_is_told_why(bid: ReceivedBid, reason: str) -> None:
    template = JobTemplate(
        template_id="t",
        role=Role.NORMALIZE,
        regions=("eu",),
        reputation_min=40,
        capabilities=("normalize", "gpu") if "gpu" in reason or bid.topics else (),
    )
    (found,) = judged([bid], template=template)
    assert (found.choice, found.reason) == (Choice.REFUSED, reason)


def test_a_newcomer_shadows_until_its_reputation_counts() -> None:
    template = JobTemplate(template_id="t", role=Role.NORMALIZE, reputation_min=70)
    bids = [seen(key, reputation=80) for key in KEYS[:3]] + [seen(key, reputation=50) for key in KEYS[3:5]]
    found = judged(bids, template=template)
    assert set(chosen(found, Choice.EXECUTOR)) == set(KEYS[:3])
    assert len(chosen(found, Choice.SHADOW)) == 1
    assert "below 70" in next(each.reason for each in found if each.choice is Choice.SHADOW)


def test_an_equivocator_does_not_even_shadow() -> None:
    assert chosen(judged([seen(KEYS[0], reputation=0)]), Choice.SHADOW) == ()
