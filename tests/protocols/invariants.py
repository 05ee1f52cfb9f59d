"""What holds for the entities of a node after every step, whatever happened before."""

import itertools
from collections import Counter
from collections.abc import Iterable

from protocols import codec
from protocols.certificate import quorum_problem
from protocols.coordination.attempts import REASONS_MAX
from protocols.coordination.stages import ACCEPTED
from protocols.effects import Effect, RunRole, Send, SetAlarm, SignStatement, WriteBatch
from protocols.entities import (
    ENTITIES,
    Batch,
    Chain,
    Lease,
    Stage,
    Task,
    TaskStage,
    batch_entity_id,
    chain_entity_id,
    lease_entity_id,
    task_entity_id,
)
from protocols.limits import BIDS_PER_AUCTION_MAX
from protocols.load import (
    DESK_ID,
    FLOW_ID,
    AskState,
    Desk,
    Flow,
    Lane,
    Line,
    Window,
    lane_entity_id,
    line_entity_id,
)
from protocols.messages import CertifyOrder, WorkOrder
from protocols.roles import EVIDENCE_ROLES
from protocols.stimuli import AlarmRang
from tests.protocols.model_node import ModelNode
from tests.simulation.answers import truth

ATTEMPT = (Stage.PROCESSING, Stage.CERTIFYING, Stage.SEALING, Stage.SEALED)
AGREED = (Stage.CERTIFYING, Stage.SEALING, Stage.SEALED)
FINISHED = (Stage.SEALING, Stage.SEALED)
UNAGREED = (Stage.ASKING, Stage.LEASING, Stage.PROCESSING, Stage.BACKOFF)
ALARMED = [stage for stage, accepted in ACCEPTED.items() if AlarmRang in accepted]


def check_encodings(node: ModelNode) -> None:
    """Every entity is stored under its own id, and read back as it was."""
    for entity_id, entity in node.entities.items():
        assert entity.entity_id == entity_id
        if isinstance(entity, ENTITIES):
            assert codec.decode_tagged(ENTITIES, codec.encode(entity)) == entity


def check_fields(batch: Batch) -> None:
    """The fields of a batch are those that its stage needs."""
    if batch.stage in AGREED:
        assert batch.statement is not None
        assert batch.agreed
    if batch.stage in FINISHED:
        assert batch.certificate is not None
        assert batch.certificate.statement == batch.statement
    if batch.stage in ATTEMPT and not batch.learned:
        assert batch.awards
        assert [ballot.role for ballot in batch.ballots] == list(EVIDENCE_ROLES)
    if batch.stage is Stage.DEAD:
        assert batch.reasons


def check_votes(batch: Batch) -> None:
    """One vote an executor, no more executors than awards, and everything that peers add to is bounded."""
    agents = [award.agent for award in batch.awards]
    assert len(set(agents)) == len(agents), "an agent is awarded twice"
    assert not set(agents) & {award.agent for award in batch.shadows}, "an executor shadows itself"
    for ballot in batch.ballots:
        signers = [vote.signer for vote in ballot.votes]
        assert len(set(ballot.executors)) == len(ballot.executors)
        assert len(set(signers)) == len(signers)
        assert set(signers) <= set(ballot.executors)
        assert 2 * ballot.quorum > len(ballot.executors), "two outcomes could both be agreed upon"
    assert len({key for key, _ in batch.contexts}) == len(batch.contexts) <= len(agents)
    assert len({key for key, _ in batch.refusals}) == len(batch.refusals)
    assert len({each.signer for each in batch.certifications}) == len(batch.certifications)
    assert len({key for key, _ in batch.confirmed}) == len(batch.confirmed)
    assert len({(vote.signer, vote.message.role) for vote in batch.shadow_votes}) == len(batch.shadow_votes)
    assert len(batch.reasons) <= REASONS_MAX


def check_lease(node: ModelNode, lease: Lease) -> None:
    """Nobody is awarded twice, and whoever waits for the lease will have an auction held."""
    assert len(set(lease.waiting)) == len(lease.waiting)
    if lease.auction is not None:
        bidders = [seen.bid.signer for seen in lease.auction.bids]
        assert len(set(bidders)) == len(bidders) <= BIDS_PER_AUCTION_MAX
    if lease.grant is not None:
        agents = [award.agent for award in lease.grant.awards]
        assert len(set(agents)) == len(agents) == len(lease.grant.operators)
        assert not {each.agent for each in lease.grant.reserves} & set(agents)
        assert not {award.agent for award in lease.grant.shadows} & set(agents)
    if lease.waiting or lease.auction is not None:
        assert has_alarm(node, lease.entity_id), "an auction is never closed, or never held"


def check_progress(node: ModelNode) -> None:
    """No batch is forgotten: an alarm, a lease, or the batch before it will bring it on."""
    for batch in node.batches():
        manifest = batch.manifest.message
        if batch.stage in ALARMED:
            assert has_alarm(node, batch.entity_id), f"nothing wakes a batch in {batch.stage.name}"
        if batch.stage is Stage.LEASING:
            check_place(node, batch)
        if batch.stage is Stage.CHAINED:
            chain = node.entities.get(chain_entity_id(manifest.source_id))
            assert isinstance(chain, Chain)
            assert batch.batch_id in chain.queue, "a batch waits in a queue that it is not in"


def check_place(node: ModelNode, batch: Batch) -> None:
    """A batch that waits stands in its line, and something will come of it: a place, a grant, an agent with room."""
    manifest = batch.manifest.message
    flow = flow_of(node)
    lane_id = lane_entity_id(manifest.level, manifest.quorum)
    line = node.entities[line_entity_id(lane_id, manifest.source_id)]
    assert isinstance(line, Line)
    assert batch.batch_id in itertools.chain(*line.batches.chunks)
    lane = node.entities[lane_id]
    assert isinstance(lane, Lane)
    assert manifest.source_id in itertools.chain(*lane.sources.chunks)
    assert lane_id in flow.lanes
    if flow.in_flight >= flow.window.size and dict(flow.flying).get(lane_id, 0) >= node.rules.window_min:
        return
    lease = node.entities.get(lease_entity_id(manifest.level, manifest.quorum))
    assert isinstance(lease, Lease)
    if lane_id in lease.waiting:
        assert has_alarm(node, lease.entity_id), "a batch waits for a grant, and no auction will be held"
        return
    full = [
        account
        for account in flow.accounts
        if account.outstanding >= account.credit or account.closed_until_ms > node.now_ms
    ]
    assert full or lease.grant is None or lease.grant.expires_ms <= node.now_ms, "a batch waits for nothing"
    for account in full:
        assert account.outstanding or has_alarm(node, flow.entity_id), "an agent is never asked again"


def check_flow(node: ModelNode) -> None:
    """What is counted is what is there."""
    flow = flow_of(node)
    stages = Counter(batch.stage for batch in node.batches())
    assert flow.in_flight == stages[Stage.PROCESSING] + stages[Stage.CERTIFYING]
    assert sum(count for _, count in flow.flying) == flow.in_flight
    assert flow.waiting == stages[Stage.LEASING]
    assert node.rules.window_min <= flow.window.size <= node.rules.window_max
    owed = Counter(
        ask.agent
        for batch in node.batches()
        if batch.stage in (*ATTEMPT, Stage.SEALING, Stage.SEALED)
        for ask in batch.asks
        if ask.state in (AskState.SILENT, AskState.QUEUED, AskState.RUNNING)
    )
    known = {account.agent: account.outstanding for account in flow.accounts if account.outstanding}
    assert known == owed
    for batch in node.batches():
        assert len({ask.agent for ask in batch.asks}) == len(batch.asks)
    waiting = {entity.source_id: entity.batches.size for entity in node.entities.values() if isinstance(entity, Line)}
    assert all(waiting.values()), "an empty line is kept"


def check_desk(node: ModelNode) -> None:
    """An agent has a place for each order that it has not answered, and takes in no more than it may."""
    desk = node.entities.get(DESK_ID)
    places = desk.places if isinstance(desk, Desk) else ()
    at_it = {
        entity.batch_id
        for entity in node.entities.values()
        if isinstance(entity, Task) and entity.stage is TaskStage.QUEUED
    }
    placed = Counter(place.batch_id for place in places)
    assert max(placed.values(), default=1) == 1, "an order has two places"
    assert at_it <= {place.batch_id for place in places if not place.began_ms}, (
        "an order waits for a turn that never comes"
    )
    mine = Counter(place.coordinator for place in places)
    assert max(mine.values(), default=0) <= node.rules.capacity


def flow_of(node: ModelNode) -> Flow:
    flow = node.entities.get(FLOW_ID)
    return flow if isinstance(flow, Flow) else Flow(window=Window(size=node.rules.window_first, threshold=256))


def has_alarm(node: ModelNode, entity_id: str) -> bool:
    return any(key == entity_id for key, _ in node.alarms)


def check_chains(node: ModelNode) -> None:
    """At most one batch of a source runs without an agreement, and it is the one that the chain says."""
    for chain in node.entities.values():
        if not isinstance(chain, Chain):
            continue
        assert len({chain.running, *chain.queue}) == 1 + len(chain.queue), "a batch stands in its chain twice"
        running = [
            batch.batch_id
            for batch in node.batches()
            if batch.stateful
            and batch.manifest.message.source_id == chain.source_id
            and batch.stage in UNAGREED
            and not batch.agreed
        ]
        assert running in ([], [chain.running])


def check_effects(node: ModelNode, effects: Iterable[Effect]) -> None:
    """What leaves the node: only what quorums back, and nothing for a batch that has ended."""
    for effect in effects:
        match effect:
            case SetAlarm(at_ms=at_ms):
                assert at_ms >= node.now_ms, "an alarm in the past"
            case WriteBatch(certificate=certificate, manifest=manifest, context=context):
                assert quorum_problem(certificate) == ""
                assert certificate.statement.output_root == truth(manifest.batch_id, context).output_root
            case Send(message=WorkOrder() as order):
                check_alive(node, order.manifest.message.batch_id, (Stage.PROCESSING, Stage.CERTIFYING))
            case Send(message=CertifyOrder() as order):
                check_alive(node, order.statement.batch_id, (Stage.CERTIFYING,))
            case RunRole(order=order):
                assert task_entity_id(order.message.manifest.message.batch_id) in node.entities, "work without a task"
            case SignStatement(statement=statement):
                assert task_entity_id(statement.batch_id) in node.entities, "a signature without a task"


def check_alive(node: ModelNode, batch_id: str, stages: tuple[Stage, ...]) -> None:
    batch = node.entities.get(batch_entity_id(batch_id))
    assert isinstance(batch, Batch), "work is ordered for a batch that has ended"
    assert batch.stage in stages


def check_statements(node: ModelNode) -> None:
    """A batch is never certified from two contexts, nor over two results, across attempts and crashes."""
    orders = sorted((order.statement.batch_id, order.statement.digest) for _, order in node.certify_orders)
    for _, group in itertools.groupby(orders, key=lambda entry: entry[0]):
        assert len(set(group)) == 1, "two statements of one batch left the node"


def check_all(node: ModelNode) -> None:
    check_encodings(node)
    for batch in node.batches():
        check_fields(batch)
        check_votes(batch)
    for entity in node.entities.values():
        if isinstance(entity, Lease):
            check_lease(node, entity)
    check_progress(node)
    check_flow(node)
    check_desk(node)
    check_chains(node)
    check_statements(node)
    check_effects(node, node.effects)
