"""Ballots: whether enough independent agents agree.

The quorum is more than half of the executors, so two different outcomes of one ballot need an agent that
voted for both, and such an agent has signed the proof against itself.
"""

import attrs

from protocols.entities import Ballot
from protocols.messages import Evidence, IdentityKey, Signed


@attrs.frozen(kw_only=True)
class Equivocation:
    """Two different answers of one agent to one question."""

    first: Signed[Evidence]
    second: Signed[Evidence]


def tally(ballot: Ballot, vote: Signed[Evidence]) -> tuple[Ballot, Equivocation | None]:
    """Count a vote. Repeats and strangers change nothing; a second, different answer strikes its signer."""
    assert vote.message.role is ballot.role, "the caller picks the ballot by role"
    if vote.signer not in ballot.executors or vote.signer in ballot.equivocators:
        return ballot, None
    earlier = next((cast for cast in ballot.votes if cast.signer == vote.signer), None)
    if earlier is not None and earlier.message.outcome == vote.message.outcome:
        return ballot, None
    if earlier is not None:
        if earlier.message.question != vote.message.question:
            return ballot, None  # another question has another answer: late news of an earlier attempt
        struck = tuple(sorted({*ballot.equivocators, vote.signer}))
        return attrs.evolve(ballot, equivocators=struck), Equivocation(first=earlier, second=vote)
    votes = tuple(sorted((*ballot.votes, vote), key=lambda cast: cast.signer))
    ballot = attrs.evolve(ballot, votes=votes)
    if ballot.agreed is None and len(supporters(ballot, vote.message.outcome)) >= ballot.quorum:
        ballot = attrs.evolve(ballot, agreed=vote.message.outcome)
    return ballot, None


def supporters(ballot: Ballot, outcome: bytes) -> tuple[Signed[Evidence], ...]:
    """The counted votes for an outcome, sorted by signer."""
    return tuple(
        vote for vote in ballot.votes if vote.message.outcome == outcome and vote.signer not in ballot.equivocators
    )


def dissenters(ballot: Ballot) -> tuple[Signed[Evidence], ...]:
    """The votes against what was agreed; empty while nothing is."""
    if ballot.agreed is None:
        return ()
    return tuple(vote for vote in ballot.votes if vote.message.outcome != ballot.agreed)


def is_hopeless(ballot: Ballot, silent: frozenset[IdentityKey]) -> bool:
    """Whether no outcome can reach the quorum any more, even if all of ``silent`` stay silent.

    What is agreed can lose its quorum, too: a vote for it was struck, or more votes are wanted than were.
    """
    voted = {vote.signer for vote in ballot.votes}
    open_votes = len([key for key in ballot.executors if key not in voted and key not in silent])
    outcomes = {vote.message.outcome for vote in ballot.votes} if ballot.agreed is None else {ballot.agreed}
    best = max((len(supporters(ballot, outcome)) for outcome in outcomes), default=0)
    return best + open_votes < ballot.quorum
