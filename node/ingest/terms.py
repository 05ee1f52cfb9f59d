"""Under what terms requests are certified: by their sources, the sources' policies and the node's own policy.

Runs on a database thread, so it reads facts of policies only and never an operator's code: the levels that level
rules ask for are evaluated before, in a worker process (``pipeline``).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from agents.functions import Declarations
from agents.policy import PolicyFacts, policy_facts
from node.ingest.batching import Terms
from node.ingest.requests import EventLevels, LevelsNeeded, QueuedRequest
from node.worker.parsing.admission import Admitted
from node.worker.plugins import catalogue
from protocols.errors import ClientFault, OverlayError, WorldFault
from protocols.levels import quorum_for, strictest
from protocols.limits import EVENTS_PER_BATCH_MAX
from protocols.messages import IdentityKey, Level
from storage import policies, sources

if TYPE_CHECKING:
    from psycopg import Connection


class UnknownSourceError(ClientFault):
    code = "unknown-source"


class SourceDisabledError(ClientFault):
    code = "source-disabled"


class SourceBoundError(ClientFault):
    """The source takes events of the identity that it is bound to, and of no other."""

    code = "source-bound"


class SourceFunctionMissingError(WorldFault):
    """A function that the source's policy names is not installed on this node any more.

    Fields ``source``; ``name``, ``version`` and ``hash`` of the function; ``remedy``.
    """

    code = "missing-function"


class TooFewHoldersError(WorldFault):
    """A batch cannot be replicated: too few peers that could take it over are connected."""

    code = "too-few-holders"


@attrs.frozen(kw_only=True)
class IngestPolicy:
    """What the node itself decides about how events are certified and batched.

    Attributes:
        batch_events: Most events of a request in one batch. coalesce: requests may share one.
        level_floor: No event is certified below it; None leaves that to requests and sources.
        threshold: EVENT_CONSENSUS_THRESHOLD, for all levels above ``basic``.
        topics: For events whose request and source name none.
        distribute: Off: events go to no topics, whatever requests and sources name. The answer says so.
        replicated: Whether every batch is held by peers before it is acknowledged, or only those that ask for it.
        replicas: By how many.
    """

    batch_events: int = EVENTS_PER_BATCH_MAX
    coalesce: bool = True
    level_floor: Level | None = Level.ENHANCED
    threshold: int = 2
    topics: tuple[str, ...] = ()
    distribute: bool = True
    replicated: bool = False
    replicas: int = 2


@attrs.frozen(kw_only=True)
class ResolvedTerms:
    """The terms of a request, and by which source.

    Attributes:
        base: Of every event that is not in ``raised``.
        raised: Of the events for which the policy asks a higher level, by their row in ``Admitted``.
    """

    base: Terms
    source: sources.Source
    raised: Mapping[int, Terms] = attrs.Factory(dict)


class TermsResolver:
    """Decides the terms of the requests of a group."""

    def __init__(
        self,
        policy: IngestPolicy,
        *,
        quorum_floor: Callable[[Level], int] = lambda level: 0,
        installed: Callable[[], Declarations] = catalogue,
    ) -> None:
        """Args:
        quorum_floor: How many must agree at least at a level, as the operator's job templates ask now.
        installed: The functions that policies may name on this node.
        """
        self._policy = policy
        self._quorum_floor = quorum_floor
        self._installed = installed

    def resolve(
        self, connection: "Connection", requests: Sequence[QueuedRequest], holders: tuple[IdentityKey, ...]
    ) -> list[ResolvedTerms | LevelsNeeded | OverlayError]:
        """The terms of each request; or why it is refused; or that its events' levels must be evaluated first.

        Args:
            holders: Peers that could hold a batch.
        """
        named = sources.get_many(connection, sorted({request.admitted.source_id for request in requests}))
        documents = {source.policy_hash: policies.get(connection, source.policy_hash) for source in named.values()}
        found: list[ResolvedTerms | LevelsNeeded | OverlayError] = []
        for request in requests:
            try:
                source = _source_of(request, named)
                document = documents[source.policy_hash]
                assert document is not None, "a foreign key holds every source's policy"
                found.append(self._resolve_one(request, source, document, holders))
            except OverlayError as refusal:
                found.append(refusal)
        return found

    def _resolve_one(
        self, request: QueuedRequest, source: sources.Source, document: bytes, holders: tuple[IdentityKey, ...]
    ) -> ResolvedTerms | LevelsNeeded:
        facts = policy_facts(document)
        self._check_functions(source, facts)
        base = self._base(request.admitted, source, facts)
        if base.replicated and len(holders) < self._policy.replicas:
            raise TooFewHoldersError(
                f"{self._policy.replicas} peers are to hold each batch, {len(holders)} that could are connected",
                field="/processingOptions/durability",
            )
        strictest_level = facts.strictest_level
        if strictest_level is None or Level[strictest_level.upper()] <= base.level or not request.admitted.lines:
            return ResolvedTerms(base=base, source=source)
        if request.levels is None or request.levels.policy_hash != source.policy_hash:
            return LevelsNeeded(policy_hash=source.policy_hash, policy=document)
        return self._raised(base, source, request.levels)

    def _check_functions(self, source: sources.Source, facts: PolicyFacts) -> None:
        if not facts.functions:
            return
        installed = set(self._installed())
        for function in facts.functions:
            if function not in installed:
                raise SourceFunctionMissingError(
                    f"the policy of the source {source.source_id!r} calls the function {function.name} "
                    f"{function.version}, which is not installed on this node with the hash {function.hash[:16]}...",
                    field="/sourceId",
                    source=source.source_id,
                    name=function.name,
                    version=function.version,
                    hash=function.hash,
                    remedy=f"install the package that brings {function.name} {function.version} and restart the "
                    "node, or give the source a policy without it",
                )

    def _base(self, admitted: Admitted, source: sources.Source, facts: PolicyFacts) -> Terms:
        asked = [Level[word.upper()] for word in (admitted.level, facts.level) if word is not None]
        level = strictest(self._policy.level_floor, *asked)
        topics = admitted.topics
        if topics is None:
            topics = tuple(sorted(set(source.overlay_topics))) or self._policy.topics
        if not self._policy.distribute:
            topics = ()
        return Terms(
            source_id=source.source_id,
            policy_hash=source.policy_hash,
            level=level,
            quorum=self._quorum(level),
            topics=topics,
            stateful=facts.stateful,
            on_conflict=facts.on_conflict,
            replicated=self._policy.replicated or admitted.durability == "replicated",
        )

    def _raised(self, base: Terms, source: sources.Source, asked: EventLevels) -> ResolvedTerms:
        """In a chain of batches all of a request's events go together, at the highest level that one of them asks
        for: apart they would be out of their order.
        """
        raised = {
            row: attrs.evolve(base, level=Level[word.upper()], quorum=self._quorum(Level[word.upper()]))
            for row, word in enumerate(asked.levels)
            if word is not None and Level[word.upper()] > base.level
        }
        if raised and base.stateful:
            highest = max(raised.values(), key=lambda terms: terms.level)
            return ResolvedTerms(base=highest, source=source)
        return ResolvedTerms(base=base, source=source, raised=raised)

    def _quorum(self, level: Level) -> int:
        return quorum_for(level, threshold=self._policy.threshold, floor=self._quorum_floor(level))


def _source_of(request: QueuedRequest, named: Mapping[str, sources.Source]) -> sources.Source:
    source_id = request.admitted.source_id
    source = named.get(source_id)
    if source is None:
        raise UnknownSourceError(f"no source {source_id!r} is registered on this node", field="/sourceId")
    if not source.enabled:
        raise SourceDisabledError(f"the source {source_id!r} is disabled", field="/sourceId")
    is_bound = source.identity_key is not None and request.read is None  # what the node reads comes from its row
    if is_bound and not request.is_of(source.identity_key):
        raise SourceBoundError(
            f"the source {source_id!r} takes events of one identity only",
            field="/sourceId",
            remedy="prove that identity, or post to a source of your own",
        )
    return source
