"""Whether a node offers itself for announced work: a pure answer to terms, so that it can be explained."""

from typing import TypeAlias

import attrs

from protocols.messages import Level, Role


@attrs.frozen(kw_only=True)
class Announced:
    """What a coordinator asks for.

    Attributes:
        batches: Length of the lease in batches, at least 1.
        price_max: The most it pays per batch and role, in satoshis; 0 for work without pay.
    """

    roles: tuple[Role, ...]
    level: Level
    batches: int
    price_max: int


@attrs.frozen(kw_only=True)
class Capacity:
    """What this node has left.

    Attributes:
        batches_free: Batches it can hold beyond those it has promised to, 0 or more.
    """

    batches_free: int
    draining: bool


@attrs.frozen(kw_only=True)
class Terms:
    """What this node's operator agreed to.

    Attributes:
        roles: The roles this node has advertised.
        level_max: The highest certification level it works for.
        price: What it asks per batch and role, in satoshis.
    """

    roles: tuple[Role, ...]
    level_max: Level
    price: int


@attrs.frozen(kw_only=True)
class Offer:
    """Roles sorted; ``capacity`` in batches, at most what was asked for."""

    roles: tuple[Role, ...]
    capacity: int
    price: int


@attrs.frozen(kw_only=True)
class Decline:
    """A stable reason: ``draining``, ``no-role``, ``level``, ``price`` or ``busy``."""

    reason: str


Answer: TypeAlias = Offer | Decline


def consider(announced: Announced, capacity: Capacity, terms: Terms) -> Answer:
    """Offer the roles asked for that this node holds, or say why not; one role of several is an offer."""
    roles = tuple(sorted(role for role in terms.roles if role in announced.roles))
    if capacity.draining:
        return Decline(reason="draining")
    if not roles:
        return Decline(reason="no-role")
    if announced.level > terms.level_max:
        return Decline(reason="level")
    if terms.price > announced.price_max:
        return Decline(reason="price")
    if capacity.batches_free < 1:
        return Decline(reason="busy")
    return Offer(roles=roles, capacity=min(capacity.batches_free, announced.batches), price=terms.price)
