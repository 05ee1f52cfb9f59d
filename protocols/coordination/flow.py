"""What waits at this coordinator, in which order it goes, and how much of it is in flight.

A batch in LEASING stands in the line of its source, the oldest first; the sources of one lease take turns in its
lane; the lanes take turns. A place in flight becomes free when a batch gets its certificate, or when its attempt is
over. Whoever has the turn gets it, if there is a grant and enough of its agents have room (``accounts``); a lane
without these is passed over. A source that sent more bytes than its share skips turns (deficit round robin), so that
one source's flood costs the others at most one batch of it a round.

Batches are counted where their changes are seen, at the end of each step (``balance``), so that no way into a stage
and none out of it can be forgotten.
"""

from typing import Final

import attrs

from protocols.coordination import accounts, leases, window
from protocols.coordination.accounts import flow_of
from protocols.coordination.workspace import Workspace
from protocols.entities import Batch, Grant, Stage, batch_entity_id
from protocols.load import Flow, Lane, Line, Window, lane_entity_id, line_entity_id
from protocols.roles import WORK_ROLES

QUANTUM: Final = 64 * 1024  # payload bytes that a source may send in each round
EVENT_BYTES: Final = 64  # of an event of a batch whose bytes are not known
TURNS_MAX: Final = 2_000  # that are skipped before somebody sends all the same: bounds the time of a step
FLIGHT: Final = (Stage.PROCESSING, Stage.CERTIFYING)


def wait(work: Workspace, batch: Batch, *, first: bool = False) -> None:
    """Enter a batch in the line of its source: at its end, or ``first`` where it was at an agent already."""
    batch = attrs.evolve(batch, stage=Stage.LEASING)
    work.put(batch)
    manifest = batch.manifest.message
    lane = _lane(work, _lane_id(batch), batch)
    line = work.find(Line, line_entity_id(lane.entity_id, manifest.source_id))
    if line is None:
        line = Line(lane=lane.entity_id, source_id=manifest.source_id)
        work.put(attrs.evolve(lane, sources=lane.sources.added(manifest.source_id)))
    order = line.batches.put_first(batch.batch_id) if first else line.batches.added(batch.batch_id)
    work.put(attrs.evolve(line, batches=order))


def balance(work: Workspace) -> None:
    """Count what this step brought into flight and out of it, and learn from what was answered."""
    flow = known = flow_of(work)
    for before, after in work.changed(Batch):
        flow = count(work, flow, before, after)
    if flow != known:
        work.put(flow)


def count(work: Workspace, flow: Flow, before: Batch | None, after: Batch | None) -> Flow:
    """The flow after one batch changed."""
    flew, flies = _is_in(before, FLIGHT), _is_in(after, FLIGHT)
    waited, waits = _is_in(before, (Stage.LEASING,)), _is_in(after, (Stage.LEASING,))
    if flew and before is not None and after is not None and after.stage is Stage.SEALING and not after.learned:
        flow = attrs.evolve(flow, window=_answered(work, flow, before))
    if flew != flies or waited != waits:
        flow = attrs.evolve(flow, in_flight=flow.in_flight + flies - flew, waiting=flow.waiting + waits - waited)
    known = after or before
    if flew != flies and known is not None:
        flow = attrs.evolve(flow, flying=_flying(flow, _lane_id(known), flies - flew))
    return accounts.moved(flow, before, after)


def next_batch(work: Workspace) -> tuple[Batch, Grant] | None:
    """Take the batch whose turn it is out of its line, with the grant that it goes under.

    None where as many are in flight as may be, or nothing that waits can go: then auctions are held for those that
    lack a grant. Each lane may have ``window_min`` in flight whatever the others have: agents of one that are slow,
    or say that they are at it and are not, do not stop the others.
    """
    flow = flow_of(work)
    flying = dict(flow.flying)
    for lane_id in flow.lanes:
        if flow.in_flight >= flow.window.size and flying.get(lane_id, 0) >= work.rules.window_min:
            continue
        lane = work.find(Lane, lane_id)
        assert lane is not None, "a lane is there while something waits in it"
        grant = leases.in_force(work, lane.level, lane.quorum, lane_id)
        if grant is None or not _has_room(work, flow, lane, grant):
            continue
        batch = _take_turn(work, lane)
        if batch is not None:
            leases.spend(work, lane.level, lane.quorum)
            return batch, grant
    return None


def ease(work: Workspace, batch: Batch) -> None:
    """Have less in flight: agents say that they are busy, and a batch has to wait for them."""
    flow = flow_of(work)
    eased = window.eased(flow.window, work.rules, dispatched_ms=batch.dispatched_ms, now_ms=work.now_ms)
    work.put(attrs.evolve(flow, window=eased))


def _answered(work: Workspace, flow: Flow, batch: Batch) -> Window:
    return window.answered(
        flow.window,
        work.rules,
        events=batch.manifest.message.events,
        dispatched_ms=batch.dispatched_ms,
        now_ms=work.now_ms,
        is_limiting=flow.in_flight >= flow.window.size,
    )


def _is_in(batch: Batch | None, stages: tuple[Stage, ...]) -> bool:
    return batch is not None and batch.stage in stages


def _lane_id(batch: Batch) -> str:
    return lane_entity_id(batch.manifest.message.level, batch.manifest.message.quorum)


def _flying(flow: Flow, lane_id: str, more: int) -> tuple[tuple[str, int], ...]:
    counts = dict(flow.flying)
    counts[lane_id] = counts.get(lane_id, 0) + more
    return tuple(sorted(entry for entry in counts.items() if entry[1]))


def _lane(work: Workspace, lane_id: str, batch: Batch) -> Lane:
    lane = work.find(Lane, lane_id)
    if lane is None:
        manifest = batch.manifest.message
        lane = Lane(level=manifest.level, quorum=manifest.quorum)
        flow = flow_of(work)
        work.put(attrs.evolve(flow, lanes=(*flow.lanes, lane_id)))
        work.put(lane)
    return lane


def _has_room(work: Workspace, flow: Flow, lane: Lane, grant: Grant) -> bool:
    """Whether enough agents for a quorum in each role take one more."""
    free = {award.agent for award in grant.awards if accounts.has_room(flow, award.agent, work.now_ms)}
    return all(
        sum(award.agent in free and role in award.roles for award in grant.awards) >= lane.quorum
        for role in WORK_ROLES
    )


def _take_turn(work: Workspace, lane: Lane) -> Batch | None:
    """The batch of the source whose turn it is; None where nothing waits in the lane any more."""
    skipped = 0
    while lane.sources.size:
        source_id, sources = lane.sources.taken()
        line = work.find(Line, line_entity_id(lane.entity_id, source_id))
        assert line is not None, "a source takes turns while it has a line"
        line = _without_gone(work, line)
        lane = attrs.evolve(lane, sources=sources, turns_left=lane.turns_left - 1)
        deficit = min(QUANTUM, line.deficit + QUANTUM)
        batch = None
        if line.batches.size and (deficit > 0 or skipped >= TURNS_MAX):
            batch_id, batches = line.batches.taken()
            batch = work.find(Batch, batch_entity_id(batch_id))
            assert batch is not None, "what is gone was left out"
            deficit -= batch.payload_bytes or EVENT_BYTES * batch.manifest.message.events
            line = attrs.evolve(line, batches=batches)
        if line.batches.size:
            work.put(attrs.evolve(line, deficit=deficit))
            lane = attrs.evolve(lane, sources=lane.sources.added(source_id))
        else:
            work.drop(line.entity_id)
        if batch is not None:
            _end_turn(work, lane)
            return batch
        skipped += 1
    _end_turn(work, lane)
    return None


def _without_gone(work: Workspace, line: Line) -> Line:
    """The line without those at its head that do not wait any more: others finished them."""
    while line.batches.size:
        batch_id, rest = line.batches.taken()
        batch = work.find(Batch, batch_entity_id(batch_id))
        if batch is not None and batch.stage is Stage.LEASING:
            break
        line = attrs.evolve(line, batches=rest)
    return line


def _end_turn(work: Workspace, lane: Lane) -> None:
    """Keep the lane, or drop it where nothing waits; after a round of its sources the next lane has its turn."""
    flow = flow_of(work)
    others = tuple(each for each in flow.lanes if each != lane.entity_id)
    if not lane.sources.size:
        work.drop(lane.entity_id)
        work.put(attrs.evolve(flow, lanes=others))
    elif lane.turns_left <= 0:
        work.put(attrs.evolve(lane, turns_left=lane.sources.size))
        work.put(attrs.evolve(flow, lanes=(*others, lane.entity_id)))
    else:
        work.put(lane)
