"""This node's own view of how agents did: kept in memory, written behind, and never shared with other nodes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import attrs

from node.runtime.clock import clock_ms
from node.runtime.write_behind import WriteBehind
from protocols.messages import IdentityKey, Role
from protocols.reputation import NEWCOMER, Estimate, Outcome, over_roles
from storage import peers, reputations
from storage.database import Database
from storage.reputations import INCIDENTS_KEPT, KEPT_MAX, Incident, Reputation

if TYPE_CHECKING:
    from psycopg import Connection

ROLES: Final = {role.word: role for role in Role}
FORGOTTEN_PART: Final = 16


@attrs.frozen(kw_only=True)
class _Change:
    """A reputation as it is now, and the incidents since it was last written."""

    reputation: Reputation
    incidents: tuple[Incident, ...] = ()


class Reputations:
    """Reputations by agent and role. A crash takes a second of counts with it, never a proof."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[tuple[IdentityKey, Role], Reputation] = {}
        self._changes = WriteBehind[tuple[IdentityKey, Role], _Change](
            "reputations", database, write=_write, merge=_merged
        )

    async def load(self) -> None:
        for row in await self._database.run(reputations.load):
            self._known[row.agent, ROLES[row.role]] = row
        for agent, word in await self._database.run(peers.equivocators):
            known = self._known.get((agent, ROLES[word])) or Reputation(agent=agent, role=word)
            self._known[agent, ROLES[word]] = attrs.evolve(known, equivocated=max(1, known.equivocated))

    def count(self, agent: IdentityKey, role: Role, outcome: Outcome, batch_id: str) -> None:
        """Count an outcome for or against an agent in a role."""
        now_ms = clock_ms()
        known = self._known.get((agent, role)) or Reputation(agent=agent, role=role.word)
        estimate = _estimate(known).after(outcome, now_ms)
        if (agent, role) not in self._known:
            self._make_room()
        reputation = self._known[agent, role] = attrs.evolve(
            known,
            successes=estimate.successes,
            failures=estimate.failures,
            at_ms=estimate.at_ms,
            **{outcome: getattr(known, outcome) + 1},
        )
        incident = Incident(agent=agent, role=role.word, outcome=outcome, batch_id=batch_id, at_ms=now_ms)
        incidents = () if outcome == "agreed" else (incident,)
        self._changes.add((agent, role), _Change(reputation=reputation, incidents=incidents))

    def _make_room(self) -> None:
        """Forget the agents that are worth the least, a part of them at once, where as many are known as may be."""
        if len(self._known) < KEPT_MAX:
            return
        ranked = sorted(self._known, key=lambda key: (self._known[key].agreed > 0, self._known[key].at_ms))
        for key in ranked[: KEPT_MAX // FORGOTTEN_PART]:
            del self._known[key]

    def by_role(self, agent: IdentityKey) -> Mapping[Role, int]:
        """0 to 100 for every role; an unknown agent starts in the middle, an equivocator is at 0 in all."""
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
        """The outcomes that were counted, by role."""
        return {role: known for (key, role), known in self._known.items() if key == agent}

    def has_agreed(self, agent: IdentityKey) -> bool:
        """Whether an agent did work here that others confirmed."""
        return any(known.agreed > 0 for role in Role if (known := self._known.get((agent, role))) is not None)

    async def run(self) -> None:
        """Write what changed, again and again, until cancelled."""
        await self._changes.run()

    async def flush(self) -> None:
        """Write what changed so far.

        Raises:
            WorldFault: It is not known to be written, and will be tried again.
        """
        await self._changes.flush()


def _write(connection: "Connection", changes: Mapping[tuple[IdentityKey, Role], _Change]) -> None:
    ordered = [changes[key] for key in sorted(changes)]
    incidents = sorted((each for change in ordered for each in change.incidents), key=lambda each: each.at_ms)
    reputations.save(connection, [change.reputation for change in ordered], incidents)
    reputations.prune(connection)


def _merged(first: _Change, second: _Change) -> _Change:
    incidents = (*first.incidents, *second.incidents)
    return _Change(reputation=second.reputation, incidents=incidents[-INCIDENTS_KEPT:])


def _estimate(known: Reputation) -> Estimate:
    return Estimate(
        successes=known.successes, failures=known.failures, at_ms=known.at_ms, equivocated=known.equivocated > 0
    )
