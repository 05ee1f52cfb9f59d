"""This node's own view of how agents did: kept in memory, written down once in a while, told to nobody as truth."""

from collections.abc import Mapping
from functools import partial
from typing import Final

import attrs

from node.runtime.clock import clock_ms
from protocols.errors import WorldFault
from protocols.messages import IdentityKey, Role
from protocols.reputation import NEWCOMER, Estimate, Outcome, over_roles
from storage import peers, reputations
from storage.database import Database
from storage.reputations import Blemish, Reputation

ROLES: Final = {role.word: role for role in Role}


class Reputations:
    """Reputations by agent and role. A crash takes a second of counts with it, never a proof."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[tuple[IdentityKey, Role], Reputation] = {}
        self._changed: set[tuple[IdentityKey, Role]] = set()
        self._blemishes: list[Blemish] = []

    async def load(self) -> None:
        for row in await self._database.run(reputations.load):
            self._known[row.agent, ROLES[row.role]] = row
        for agent, word in await self._database.run(peers.equivocators):
            known = self._known.get((agent, ROLES[word])) or Reputation(agent=agent, role=word)
            self._known[agent, ROLES[word]] = attrs.evolve(known, equivocated=max(1, known.equivocated))

    def count(self, agent: IdentityKey, role: Role, outcome: Outcome, batch_id: str) -> None:
        """Take note of how an agent did in a role."""
        now_ms = clock_ms()
        known = self._known.get((agent, role)) or Reputation(agent=agent, role=role.word)
        estimate = _estimate(known).after(outcome, now_ms)
        self._known[agent, role] = attrs.evolve(
            known,
            successes=estimate.successes,
            failures=estimate.failures,
            at_ms=estimate.at_ms,
            **{outcome: getattr(known, outcome) + 1},
        )
        self._changed.add((agent, role))
        if outcome != "agreed":
            self._blemishes.append(
                Blemish(agent=agent, role=role.word, outcome=outcome, batch_id=batch_id, at_ms=now_ms)
            )

    def by_role(self, agent: IdentityKey) -> Mapping[Role, int]:
        """0 to 100 for every role; a stranger starts in the middle, an equivocator is at 0 in all."""
        now_ms = clock_ms()
        found = {
            role: _estimate(known).score(now_ms) if known is not None else NEWCOMER
            for role in Role
            for known in [self._known.get((agent, role))]
        }
        return over_roles(found)

    def overall(self, agent: IdentityKey) -> int:
        """The worst of its roles."""
        return min(self.by_role(agent).values())

    def counts(self, agent: IdentityKey) -> Mapping[Role, Reputation]:
        """What was seen of an agent."""
        return {role: known for (key, role), known in self._known.items() if key == agent}

    async def flush(self) -> None:
        """Write down what changed."""
        if not self._changed:
            return
        changed, self._changed = self._changed, set()
        blemishes, self._blemishes = self._blemishes, []
        rows = [self._known[key] for key in sorted(changed)]
        try:
            await self._database.run(partial(reputations.save, changed=rows, blemishes=blemishes))
        except WorldFault:
            self._changed |= changed
            self._blemishes = [*blemishes, *self._blemishes]
            raise


def _estimate(known: Reputation) -> Estimate:
    return Estimate(
        successes=known.successes, failures=known.failures, at_ms=known.at_ms, equivocated=known.equivocated > 0
    )
