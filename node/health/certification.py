"""Whether events that are taken in come to their certificates: by enough agents, and in time."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs
import trio

from agents.policy import policy_facts
from node.coordination.driver import Driver
from node.ingest.admission_control import AdmissionControl
from node.ingest.terms import IngestPolicy
from node.runtime.clock import clock_ms
from node.runtime.conditions import Condition, Finding, Probe, Severity
from protocols.entities import Batch, Stage
from protocols.errors import WorldFault
from protocols.levels import Level, quorum_for, strictest
from protocols.messages import Manifest
from storage import policies
from storage.database import Database

if TYPE_CHECKING:
    from psycopg import Connection

READ_S: Final = 10.0  # a source that was added or changed counts after so long
READ_DEADLINE_S: Final = 1.0
POLICIES_MAX: Final = 200  # read at a time
ENDED: Final = (Stage.SEALED, Stage.DEAD)
NO_QUORUM_REMEDY: Final = (
    "connect to members whose agents reach the level (OVERLAY_BOOTSTRAP); a node that is alone on purpose certifies "
    "at level basic with EVENT_CONSENSUS_REQUIRED=false"
)

NO_QUORUM: Final = Condition(code="no-quorum", severity=Severity.WARNING, remedy=NO_QUORUM_REMEDY)
QUORUM_NEEDED: Final = attrs.evolve(NO_QUORUM, severity=Severity.BLOCKING)  # OVERLAY_READY_NEEDS_QUORUM
EVENTS_WAIT: Final = Condition(
    code="events-wait",
    severity=Severity.WARNING,
    remedy="look for agents at GET /overlay/agents and for the reasons of attempts at GET /overlay/batches/{batchId}",
)
BACKLOG_FULL: Final = Condition(
    code="backlog-full",
    severity=Severity.WARNING,
    remedy="wait until events are certified, see the other reasons, or raise OVERLAY_UNSETTLED_EVENTS_MAX",
)


@attrs.frozen(kw_only=True)
class Unfinished:
    """Batches of this node that have neither a certificate nor died."""

    oldest_s: float
    levels: frozenset[tuple[Level, int]]


Heads: TypeAlias = Callable[[], Sequence[Manifest]]
"""Of the batches that the driver does not have yet, those that wait longest."""


def unfinished(driver: Driver, heads: Heads = tuple) -> Unfinished:
    """What the driver has of this node's own batches, and what waits for it."""
    manifests = [
        *heads(),
        *(
            entity.manifest.message
            for entity in driver.entities()
            if isinstance(entity, Batch) and entity.claim is None and entity.stage not in ENDED
        ),
    ]
    oldest_ms = min((manifest.received_ms for manifest in manifests), default=None)
    return Unfinished(
        oldest_s=0.0 if oldest_ms is None else max(0, clock_ms() - oldest_ms) / 1_000,
        levels=frozenset((manifest.level, manifest.quorum) for manifest in manifests),
    )


def pending_probe(
    driver: Driver, admission: AdmissionControl, age_max_s: Callable[[], float], heads: Heads = tuple
) -> Probe:
    async def look() -> Sequence[Finding]:
        found, oldest_s = [], unfinished(driver, heads).oldest_s
        if oldest_s > age_max_s():
            found.append(EVENTS_WAIT.found(f"the oldest event waits for its certificate for {oldest_s:.0f} s"))
        if admission.backlog.unsettled >= admission.limits.unsettled_max:
            found.append(
                BACKLOG_FULL.found(f"{admission.backlog.unsettled} events wait, as many as may: new ones are refused")
            )
        return found

    return Probe(name="pending", conditions=(EVENTS_WAIT, BACKLOG_FULL), look=look, silent=EVENTS_WAIT)


class QuorumProbe:
    """Whether the network could certify at each level that is in use: the node's own floor, those that the policies
    of sources ask for, and those of batches that wait.
    """

    def __init__(
        self,
        *,
        database: Database,
        driver: Driver,
        policy: IngestPolicy,
        shortfall: Callable[[Level, int], str],
        is_needed: Callable[[], bool],
        heads: Heads = tuple,
    ) -> None:
        """Args:
        shortfall: What keeps the network from a level and quorum now; empty if nothing does.
        is_needed: Whether a node that misses a quorum is not ready.
        """
        self._database = database
        self._driver = driver
        self._policy = policy
        self._shortfall = shortfall
        self._heads = heads
        self._is_needed = is_needed
        self._read_s = -READ_S
        self._by_policy: dict[bytes, frozenset[Level]] = {}

    def probe(self) -> Probe:
        return Probe(name="quorum", conditions=(NO_QUORUM, QUORUM_NEEDED), look=self._look, silent=NO_QUORUM)

    async def _look(self) -> Sequence[Finding]:
        if trio.current_time() - self._read_s >= READ_S:
            await self._read_policies()
        asked = {self._asked(level) for level in self._levels()} | unfinished(self._driver, self._heads).levels
        shortfalls = filter(None, (self._shortfall(level, quorum) for level, quorum in sorted(asked)))
        missing = "; ".join(dict.fromkeys(shortfalls))
        condition = QUORUM_NEEDED if self._is_needed() else NO_QUORUM
        return [condition.found(missing)] if missing else []

    def _levels(self) -> Iterable[Level]:
        floor = strictest(self._policy.level_floor)
        return {floor}.union(*self._by_policy.values())

    def _asked(self, level: Level) -> tuple[Level, int]:
        level = strictest(self._policy.level_floor, level)
        floor = self._driver.rules.quorum_floor(level)
        return level, quorum_for(level, threshold=self._policy.threshold, floor=floor)

    async def _read_policies(self) -> None:
        """While the database does not answer, the levels that were read last stay in use."""
        read = partial(_levels_in_use, known=dict(self._by_policy))
        try:
            self._by_policy = await self._database.run(read, deadline_s=READ_DEADLINE_S)
        except WorldFault:
            return
        self._read_s = trio.current_time()


def _levels_in_use(
    connection: "Connection", *, known: dict[bytes, frozenset[Level]]
) -> dict[bytes, frozenset[Level]]:
    """The levels that each policy of an enabled source asks for, by its hash; policies never change."""
    used = policies.in_use(connection)
    found = {each: known[each] for each in used if each in known}
    for each in [each for each in used if each not in known][:POLICIES_MAX]:
        document = policies.get(connection, each)
        assert document is not None, "a foreign key holds every source's policy"
        facts = policy_facts(document)
        words = filter(None, (facts.level, *facts.raised_levels))
        found[each] = frozenset(Level[word.upper()] for word in words)
    return found
