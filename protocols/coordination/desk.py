"""An agent's work in hand: how much it takes in, whose turn it is, what it drops, and what it says of the rest.

An order has a place from when it is taken in until it is answered. Each coordinator has an equal share of the places
and bytes, and at least one place; what is beyond is refused at once. Workers are given a little more than they can
compute at once, so that they never wait for this node's loop; everything else waits here, where it can still be
dropped: the certificate came, or the time is over in which somebody waits for it. The next turn is that of the
coordinator that was served least. A coordinator is told where its order is once that takes long, not before.
"""

from typing import Final

import attrs

from protocols.coordination.workspace import Workspace
from protocols.effects import RunRole, Send
from protocols.entities import Task, TaskStage, task_entity_id
from protocols.load import DESK_ID, Desk, Place, Turn
from protocols.messages import IdentityKey, Signed, WorkOrder, WorkPhase, WorkStatus

SEEN_MS: Final = 10_000  # a coordinator has a share for so long after its last order
COORDINATORS_MAX: Final = 256  # that have a share at once
AHEAD: Final = 1  # batches that workers have beside those they compute
AHEAD_EVENTS: Final = 1_000  # or as many more as have so many events together: a worker is soon done with them
HANDED_MAX: Final = 64
BATCH_COST: Final = 50  # of a batch whatever its size, in events
STATUS_MS: Final = 1_000  # after which a coordinator is told where its order is, if it did not say when
WAIT_MS_MIN: Final = 50


def credit(work: Workspace, coordinator: IdentityKey) -> int:
    """How many batches of a coordinator are taken in at once; 0 where too many others have a share."""
    desk = _desk(work)
    others = sum(turn.coordinator != coordinator for turn in desk.turns if _has_share(work, turn, desk))
    return max(1, work.rules.capacity // (others + 1)) if others < COORDINATORS_MAX else 0


def take_in(work: Workspace, order: Signed[WorkOrder], payload_bytes: int) -> bool:
    """Give an order a place, and begin it when its turn comes. False where there is no room for it."""
    desk, coordinator, now_ms = _desk(work), order.signer, work.now_ms
    manifest = order.message.manifest.message
    mine = [place for place in desk.places if place.coordinator == coordinator]
    share = credit(work, coordinator)
    bytes_max = work.rules.capacity_bytes * share // max(work.rules.capacity, share)
    held = sum(place.payload_bytes for place in mine)
    if not share:  # it gets one when another's runs out: were it noted, as many as ask would shrink those of all
        return False
    if len(mine) >= share or (mine and held + payload_bytes > bytes_max):
        work.put(_seen(desk, coordinator, now_ms))
        return False
    place = Place(
        batch_id=manifest.batch_id,
        coordinator=coordinator,
        events=manifest.events,
        payload_bytes=payload_bytes,
        accepted_ms=now_ms,
        until_ms=_until_ms(work, order),
        status_due_ms=now_ms + (order.message.status_ms or STATUS_MS),
    )
    desk = _seen(desk, coordinator, now_ms)
    _keep(work, attrs.evolve(desk, places=(*desk.places, place)))
    begin_next(work)
    return True


def ask_again(work: Workspace, order: Signed[WorkOrder]) -> None:
    """An order is repeated that has a place: it is wanted for longer, and its sender is told where it is."""
    desk, batch_id = _desk(work), order.message.manifest.message.batch_id
    for ahead, place in enumerate(desk.places):
        if place.batch_id == batch_id:
            wanted = attrs.evolve(place, coordinator=order.signer, until_ms=_until_ms(work, order))
            wanted = _say_where(work, desk, ahead, wanted)
            _keep(work, attrs.evolve(desk, places=(*desk.places[:ahead], wanted, *desk.places[ahead + 1 :])))
            return


def leave(work: Workspace, batch_id: str, *, is_done: bool = False) -> None:
    """Free the place of an order, and begin what has the next turn. ``is_done``: it was computed."""
    desk = _desk(work)
    place = next((each for each in desk.places if each.batch_id == batch_id), None)
    if place is None:
        return
    if is_done and place.began_ms:
        took_us = 1_000 * max(0, work.now_ms - max(place.began_ms, desk.finished_ms))
        pace_us = (7 * desk.pace_us + took_us) // 8 if desk.pace_us else took_us
        desk = attrs.evolve(desk, pace_us=pace_us, finished_ms=work.now_ms)
    work.put(attrs.evolve(desk, places=tuple(each for each in desk.places if each is not place)))
    begin_next(work)


def begin_next(work: Workspace) -> None:
    """Give workers what has the next turn, as far as they take it; drop what nobody waits for any more."""
    desk = _desk(work)
    while _takes_more(work, desk):
        place = _next(work, desk)
        if place is None:
            break
        task = work.find(Task, task_entity_id(place.batch_id))
        places = tuple(each for each in desk.places if each is not place)
        if task is None or task.stage is not TaskStage.QUEUED:
            desk = attrs.evolve(desk, places=places)
        elif place.until_ms <= work.now_ms:
            reason = "it had no turn in the time in which it was wanted"
            say(work, task.order.signer, place.batch_id, WorkPhase.DROPPED, reason=reason)
            work.drop(task.entity_id)
            desk = attrs.evolve(desk, places=places)
        else:
            began = attrs.evolve(place, began_ms=work.now_ms)
            desk = attrs.evolve(desk, places=tuple(began if each is place else each for each in desk.places))
            desk = _served(desk, place)
            work.put(attrs.evolve(task, stage=TaskStage.RUNNING))
            work.emit(RunRole(order=task.order, roles=task.roles))
    work.put(desk)


def on_alarm(work: Workspace, desk: Desk) -> None:
    """Tell coordinators where their orders are that take long."""
    if work.now_ms < desk.alarm_ms:
        return  # an earlier one; that of ``alarm_ms`` was set with it, and to set it again each time adds up
    places = tuple(
        _say_where(work, desk, ahead, place) if place.status_due_ms <= work.now_ms else place
        for ahead, place in enumerate(desk.places)
    )
    _keep(work, attrs.evolve(desk, places=places, alarm_ms=0))
    begin_next(work)


def no_room(work: Workspace, order: Signed[WorkOrder]) -> None:
    """Refuse an order for lack of room, and say when there may be some."""
    desk = _desk(work)
    sharing = max(1, sum(_has_share(work, turn, desk) for turn in desk.turns))
    wait_ms = max(WAIT_MS_MIN, sharing * desk.pace_us // 1_000)
    say(work, order.signer, order.message.manifest.message.batch_id, WorkPhase.NO_ROOM, wait_ms=wait_ms)


def say(
    work: Workspace,
    to: IdentityKey,
    batch_id: str,
    phase: WorkPhase,
    *,
    ahead: int = 0,
    running_ms: int = 0,
    wait_ms: int = 0,
    reason: str = "",
) -> None:
    """Send the coordinator of an order a WorkStatus."""
    status = WorkStatus(
        network=work.rules.network,
        batch_id=batch_id,
        phase=phase,
        ahead=ahead,
        running_ms=running_ms,
        wait_ms=wait_ms,
        credit=credit(work, to),
        reason=reason[:500],
    )
    work.emit(Send(to=to, message=status))


def _desk(work: Workspace) -> Desk:
    return work.find(Desk, DESK_ID) or Desk()


def _keep(work: Workspace, desk: Desk) -> None:
    """Put the desk back, and have it looked at when the next coordinator is to be told something."""
    due_ms = min((place.status_due_ms for place in desk.places), default=0)
    if due_ms and not work.now_ms < desk.alarm_ms <= due_ms:
        desk = attrs.evolve(desk, alarm_ms=max(due_ms, work.now_ms + 1))
        work.alarm(DESK_ID, desk.alarm_ms)
    work.put(desk)


def _until_ms(work: Workspace, order: Signed[WorkOrder]) -> int:
    return work.now_ms + (order.message.wanted_ms or work.rules.task_ttl_ms)


def _say_where(work: Workspace, desk: Desk, ahead: int, place: Place) -> Place:
    """Tell a coordinator where its order is. The place, with the time at which it is told again."""
    task = work.find(Task, task_entity_id(place.batch_id))
    if task is not None and place.began_ms:
        running_ms = max(0, work.now_ms - place.began_ms)
        say(work, task.order.signer, place.batch_id, WorkPhase.RUNNING, running_ms=running_ms)
    elif task is not None:
        wait_ms = (ahead + 1) * desk.pace_us // 1_000
        say(work, task.order.signer, place.batch_id, WorkPhase.QUEUED, ahead=ahead, wait_ms=wait_ms)
    return attrs.evolve(place, status_due_ms=work.now_ms + work.rules.status_ms)


def _takes_more(work: Workspace, desk: Desk) -> bool:
    """Whether workers take one more: they have room, or are soon done with what they have."""
    handed = [place for place in desk.places if place.began_ms]
    few = sum(place.events for place in handed) < AHEAD_EVENTS and len(handed) < HANDED_MAX
    return len(handed) < work.rules.workers + AHEAD or few


def _next(work: Workspace, desk: Desk) -> Place | None:
    """The oldest order of the coordinator that was served least."""
    first: dict[IdentityKey, Place] = {}
    for place in desk.places:
        if not place.began_ms:
            first.setdefault(place.coordinator, place)
    served = {turn.coordinator: turn.served for turn in desk.turns}
    return min(first.values(), key=lambda place: (served.get(place.coordinator, 0), place.coordinator), default=None)


def _served(desk: Desk, place: Place) -> Desk:
    turns = tuple(
        attrs.evolve(turn, served=turn.served + BATCH_COST + place.events)
        if turn.coordinator == place.coordinator
        else turn
        for turn in desk.turns
    )
    return attrs.evolve(desk, turns=turns)


def _has_share(work: Workspace, turn: Turn, desk: Desk) -> bool:
    return work.now_ms - turn.seen_ms < SEEN_MS or any(each.coordinator == turn.coordinator for each in desk.places)


def _seen(desk: Desk, coordinator: IdentityKey, now_ms: int) -> Desk:
    """The desk after an order of a coordinator came. Who was away comes back no better off than the least served."""
    with_work = {place.coordinator for place in desk.places}
    kept = [turn for turn in desk.turns if turn.coordinator in with_work or now_ms - turn.seen_ms < SEEN_MS]
    floor = min((turn.served for turn in kept if turn.coordinator in with_work), default=0)
    mine = next((turn for turn in kept if turn.coordinator == coordinator), None)
    served = floor if mine is None or (coordinator not in with_work and mine.served < floor) else mine.served
    others = (turn for turn in kept if turn.coordinator != coordinator)
    turns = (*others, Turn(coordinator=coordinator, served=served, seen_ms=now_ms))
    return attrs.evolve(desk, turns=tuple(sorted(turns, key=lambda turn: turn.coordinator)))
