"""The agent's side of an auction: weigh an announcement, offer what is held here, or decline and say why."""

from protocols.coordination.workspace import Workspace
from protocols.effects import Send
from protocols.entities import Task, TaskStage
from protocols.messages import Announcement, Bid
from protocols.rules import Rules
from protocols.stimuli import AnnouncementReceived

GRACE_MS = 60_000  # clocks differ


def on_announcement(work: Workspace, stimulus: AnnouncementReceived) -> None:
    """Answer an announcement of roles that this node holds."""
    message = stimulus.announcement.message
    rules = work.rules
    roles = tuple(role for role in message.roles if role in rules.roles)
    if not roles or message.closes_ms + GRACE_MS < work.now_ms:
        return
    others = stimulus.announcement.signer != rules.self_key
    free = max(0, rules.capacity - under_way(work)) if others else rules.capacity
    reason = consider(message, rules, free)
    bid = Bid(
        network=rules.network,
        announcement_id=message.announcement_id,
        roles=() if reason else roles,
        capacity=free,
        price=rules.price,
        operator=rules.operator,
        region=rules.region,
        reason=reason,
    )
    work.emit(Send(to=stimulus.announcement.signer, message=bid))


def consider(announcement: Announcement, rules: Rules, free: int) -> str:
    """Why this node declines, empty if it offers: ``price`` or ``capacity``.

    Args:
        free: How many more batches of others it can take.
    """
    if rules.price > announcement.price_max:
        return "price"
    return "" if free else "capacity"


def under_way(work: Workspace) -> int:
    """Batches of others that this node computes or is about to."""
    return sum(
        task.stage is TaskStage.RUNNING and task.order.signer != work.rules.self_key for task in work.every(Task)
    )
