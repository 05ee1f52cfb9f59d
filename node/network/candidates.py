"""Which nodes could take part in a batch now: as holders of a replica, and as agents of a level."""

from collections.abc import Iterator

from node.coordination.driver import Driver
from node.coordination.reputations import Reputations
from node.network.discovery import Discovery
from node.network.transport import Transport
from protocols.coordination import choose_holders
from protocols.directory import DirectoryEntry
from protocols.levels import shortfall
from protocols.messages import IdentityKey, Level
from protocols.roles import WORK_ROLES
from protocols.templates import JobTemplate


class Candidates:
    """Looks through the directory with the rules of the driver and what is known of each agent."""

    def __init__(
        self,
        *,
        driver: Driver,
        discovery: Discovery,
        transport: Transport,
        reputations: Reputations,
        holders_max: int,
    ) -> None:
        """``holders_max``: how many holders are named for a batch."""
        self._driver = driver
        self._discovery = discovery
        self._transport = transport
        self._reputations = reputations
        self._holders_max = holders_max

    def holders(self) -> tuple[IdentityKey, ...]:
        """Peers to hold a batch: connected, and able to finish it."""
        connected = {peer.identity for peer in self._transport.peers() if peer.connected}
        able = connected.intersection(self._discovery.able(WORK_ROLES))
        return choose_holders(self._transport.identity, able, self._holders_max)

    def shortfall(self, level: Level, quorum: int) -> str:
        """What keeps the network from a level and quorum now; empty if nothing does."""
        return shortfall(level, quorum, list(self._operators(level)))

    def _operators(self, level: Level) -> Iterator[str]:
        """The operator of each agent that could do the whole work of a batch of a level."""
        templates = {role: self._driver.rules.template(role, level) for role in WORK_ROLES}
        entries = self._discovery.directory.entries
        for identity in self._discovery.able(WORK_ROLES):
            entry, known = entries[identity], self._reputations.by_role(identity)
            if all(_meets(entry, known[role], template) for role, template in templates.items()):
                yield entry.advertisement.message.operator


def _meets(entry: DirectoryEntry, reputation: int, template: JobTemplate) -> bool:
    """Whether an agent has what a template requires."""
    offered = {*(role.word for role in entry.roles), *entry.topics}
    return (
        reputation >= template.reputation_min
        and set(template.capabilities) <= offered
        and (not template.regions or entry.advertisement.message.region in template.regions)
    )
