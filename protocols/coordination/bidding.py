"""The agent's side of an auction: weigh an announcement, offer what is held here, or decline and say why."""

from protocols.coordination import desk
from protocols.coordination.workspace import Workspace
from protocols.effects import Send
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
    credit = desk.credit(work, stimulus.announcement.signer)
    reason = consider(message, rules, credit)
    bid = Bid(
        network=rules.network,
        announcement_id=message.announcement_id,
        roles=() if reason else roles,
        capacity=credit,
        price=rules.price,
        operator=rules.operator,
        region=rules.region,
        reason=reason,
    )
    work.emit(Send(to=stimulus.announcement.signer, message=bid))


def consider(announcement: Announcement, rules: Rules, credit: int) -> str:
    """Why this node declines, empty if it offers: ``price`` or ``capacity``.

    Args:
        credit: How many batches of the coordinator it takes in at once.
    """
    if rules.price > announcement.price_max:
        return "price"
    return "" if credit else "capacity"
