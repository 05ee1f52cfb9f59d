"""What a node offers for, and why it declines."""

import attrs
import pytest

from agents.bidder import Announced, Capacity, Decline, Offer, Terms, consider
from protocols.messages import Level, Role

ANNOUNCED = Announced(roles=(Role.NORMALIZE, Role.CERTIFY), level=Level.ENHANCED, batches=50, price_max=10)
CAPACITY = Capacity(batches_free=8, draining=False)
TERMS = Terms(roles=(Role.CERTIFY, Role.VALIDATE, Role.NORMALIZE), level_max=Level.ENHANCED, price=10)


def test_offers_the_roles_in_common() -> None:
    offer = consider(ANNOUNCED, CAPACITY, TERMS)
    assert offer == Offer(roles=(Role.NORMALIZE, Role.CERTIFY), capacity=8, price=10)
    short = consider(attrs.evolve(ANNOUNCED, batches=1), CAPACITY, attrs.evolve(TERMS, roles=(Role.CERTIFY,)))
    assert short == Offer(roles=(Role.CERTIFY,), capacity=1, price=10)


@pytest.mark.parametrize(
    ("capacity", "terms", "reason"),
    [
        ({"draining": True}, {}, "draining"),
        ({"batches_free": 0}, {}, "busy"),
        ({}, {"roles": (Role.VALIDATE,)}, "no-role"),
        ({}, {"level_max": Level.BASIC}, "level"),
        ({}, {"price": 11}, "price"),
    ],
)
def test_declines_with_a_reason(capacity: dict[str, int], terms: dict[str, object], reason: str) -> None:
    answer = consider(ANNOUNCED, attrs.evolve(CAPACITY, **capacity), attrs.evolve(TERMS, **terms))
    assert answer == Decline(reason=reason)
