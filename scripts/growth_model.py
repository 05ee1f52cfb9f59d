"""A model of what an event costs a network of any size: C + k A + (N - k) F, from what single nodes spent.

C is what coordinating costs, A the work of each of the k agents, F what every other node spends on a certificate. It
leaves out what no event causes, and what a network of many machines has that one machine has not, such as delays.
"""

from collections.abc import Sequence

import attrs

PER_CORE_US = 1_000_000


@attrs.frozen(kw_only=True)
class Share:
    """What one node did of the whole network's events.

    Attributes:
        cpu_us: Spent for each event of the network.
        coordinated, worked: The parts of the events that it coordinated, and ran the roles over.
        is_agent: Whether it offers roles.
    """

    cpu_us: float
    coordinated: float
    worked: float
    is_agent: bool


@attrs.frozen(kw_only=True)
class Costs:
    """CPU us per event. ``agents``: k, on average."""

    coordinate: float
    work: float
    follow: float
    agents: float

    def event_us(self, machines: int) -> float:
        """Of the whole network."""
        return self.coordinate + self.agents * self.work + (machines - self.agents) * self.follow

    def events_per_s(self, machines: int, cores: int) -> float:
        """Where all cores of all machines are used up, each machine coordinating as much as any other."""
        return machines * cores * PER_CORE_US / self.event_us(machines)

    def limit(self, cores: int) -> float:
        """Events a second that no number of machines exceeds."""
        return cores * PER_CORE_US / self.follow


def costs(shares: Sequence[Share]) -> Costs:
    """F from the nodes that only follow, A from the agents that coordinate nothing, C from what is left.

    Raises:
        ValueError: Of one of these there is none, or no agent that coordinates nothing had work.
    """
    followers = [each for each in shares if not each.is_agent and not each.coordinated]
    agents = [each for each in shares if each.is_agent and not each.coordinated]
    coordinators = [each for each in shares if each.coordinated]
    worked = sum(each.worked for each in agents)
    if not (followers and coordinators and worked):
        raise ValueError("the model needs nodes that only follow, coordinators, and other agents that had work")
    follow = sum(each.cpu_us for each in followers) / len(followers)
    work = sum(each.cpu_us - follow * (1 - each.worked) for each in agents) / worked
    left = sum(each.cpu_us - work * each.worked - follow * (1 - each.worked) for each in coordinators)
    return Costs(
        coordinate=left / sum(each.coordinated for each in coordinators),
        work=work,
        follow=follow,
        agents=sum(each.worked for each in shares),
    )
