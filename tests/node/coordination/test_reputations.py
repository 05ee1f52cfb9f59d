"""What a node thinks of an agent by what it saw: by role, after restarts, and never again well of a proven liar."""

from functools import partial
from typing import Final

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.coordination.observations import Observations
from node.coordination.reputations import Reputations
from node.runtime import clock
from protocols.effects import Effect, RecordAuction, ReportPeer, StoreProof
from protocols.envelope import sign
from protocols.messages import FraudProof, Level, Role
from protocols.proofs import proof_of
from protocols.reputation import LATE_SCORE_MIN, NEWCOMER, Outcome
from protocols.rules import Strategy
from storage import auctions, peers, reputations
from storage.database import Database
from tests.network_of_keys import AGENTS, certified, witness

AGENT, OTHER = (agent.identity for agent in AGENTS[:2])
STATEMENT = certified().certificate.statement
OUTCOMES: Final[tuple[Outcome, ...]] = ("agreed", "dissented", "late", "equivocated")


def unwritten() -> Reputations:
    """Counts in memory, with a database that is never reached."""
    return Reputations(Database("postgresql://nobody@127.0.0.1:1/none"))


def proof() -> FraudProof:
    honest = witness(STATEMENT, Role.NORMALIZE, AGENTS[0])
    return proof_of(honest, sign(AGENTS[0], attrs.evolve(honest.message, output_digest=bytes(32))))


def test_a_stranger_starts_in_the_middle() -> None:
    known = unwritten()
    assert known.by_role(AGENT) == dict.fromkeys(Role, NEWCOMER)
    assert known.overall(AGENT) == NEWCOMER
    assert known.counts(AGENT) == {}


def test_agreement_in_one_role_is_worth_nothing_in_another() -> None:
    known = unwritten()
    for number in range(20):
        known.count(AGENT, Role.NORMALIZE, "agreed", f"batch_{number}")
    scores = known.by_role(AGENT)
    assert scores[Role.NORMALIZE] > 80
    assert scores[Role.VALIDATE] == NEWCOMER
    assert known.overall(AGENT) == NEWCOMER
    assert known.by_role(OTHER)[Role.NORMALIZE] == NEWCOMER


def test_dissent_in_one_role_counts_in_all() -> None:
    known = unwritten()
    for number in range(20):
        known.count(AGENT, Role.NORMALIZE, "agreed", f"batch_{number}")
    known.count(AGENT, Role.VALIDATE, "dissented", "batch_x")
    assert len(set(known.by_role(AGENT).values())) == 1
    assert known.overall(AGENT) < LATE_SCORE_MIN


@given(st.lists(st.sampled_from(OUTCOMES), max_size=60))
def test_scores_stay_in_their_range_and_lateness_alone_ruins_nobody(outcomes: list[Outcome]) -> None:
    known = unwritten()
    for number, outcome in enumerate(outcomes):
        known.count(AGENT, Role.NORMALIZE, outcome, f"batch_{number}")
    scores = known.by_role(AGENT)
    assert all(0 <= score <= 100 for score in scores.values())
    assert known.overall(AGENT) == min(scores.values())
    if set(outcomes) <= {"late", "agreed"}:
        assert known.overall(AGENT) >= LATE_SCORE_MIN
    if "equivocated" in outcomes:
        assert set(scores.values()) == {0}
    counts = known.counts(AGENT)
    assert sum(getattr(each, name) for each in counts.values() for name in OUTCOMES) == len(outcomes)


def test_in_memory_too_agents_that_never_agreed_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where all are kept: every key that a proof is made against stayed for good."""
    monkeypatch.setattr("node.coordination.reputations.KEPT_MAX", 32)
    known = unwritten()
    known.count(AGENT, Role.NORMALIZE, "agreed", "batch")
    for number in range(1_000):
        known.count(b"%d" % number, Role.NORMALIZE, "equivocated", "batch")
    left = [number for number in range(1_000) if known.counts(b"%d" % number)]
    assert len(left) < 32
    assert left[-1] == 999
    assert known.has_agreed(AGENT)


async def test_what_was_counted_outlasts_a_restart(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        known = Reputations(database)
        for outcome in ("agreed", "agreed", "late", "dissented"):
            known.count(AGENT, Role.VALIDATE, outcome, "batch_1")
        await known.flush()
        again = Reputations(database)
        await again.load()
        assert again.by_role(AGENT) == known.by_role(AGENT)
        assert again.counts(AGENT) == known.counts(AGENT)


async def test_a_record_fades_with_time(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = unwritten()
    known.count(AGENT, Role.VALIDATE, "dissented", "batch_1")
    before = known.overall(AGENT)
    later_ms = clock.clock_ms() + 10 * 24 * 3_600_000
    monkeypatch.setattr("node.coordination.reputations.clock_ms", lambda: later_ms)
    assert before < 20 < known.overall(AGENT)


async def test_a_proof_alone_ruins_an_agent_for_good(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        await carry_out(Observations(database, Reputations(database)), StoreProof(proof=proof(), heard_from=OTHER))
        again = Reputations(database)
        await again.load()
        assert again.by_role(AGENT) == dict.fromkeys(Role, 0)
        assert again.counts(AGENT)[Role.NORMALIZE].equivocated == 1


# --- observations --------------------------------------------------------------------------------------------


async def carry_out(observations: Observations, *effects: Effect) -> None:
    for effect in effects:
        await observations.handlers[type(effect)](effect)


async def test_an_outcome_is_counted_and_its_listeners_called(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        known = Reputations(database)
        observations = Observations(database, known)
        first: list[ReportPeer] = []
        second: list[ReportPeer] = []
        observations.on_reported += [first.append, second.append]
        effect = ReportPeer(peer=AGENT, role=Role.NORMALIZE, outcome="dissented", batch_id="batch_1")
        await carry_out(observations, effect)
        assert first == second == [effect]
        assert known.counts(AGENT)[Role.NORMALIZE].dissented == 1
        await observations.flush()
        (occasion,) = await database.run(partial(reputations.incidents_of, agent=AGENT))
        assert (occasion.batch_id, occasion.outcome, occasion.role) == ("batch_1", "dissented", "normalize")


async def test_a_proof_is_kept_with_both_statements(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        observations = Observations(database, Reputations(database))
        effect = StoreProof(proof=proof(), heard_from=None)
        await carry_out(observations, effect, effect)
        (kept,) = await database.run(partial(peers.equivocations, signer=AGENT, limit=10))
        assert (kept.batch_id, kept.role, kept.heard_from) == (STATEMENT.batch_id, "normalize", None)
        assert kept.first != kept.second


async def test_an_auction_without_a_lease_is_recorded_too(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        effect = RecordAuction(
            announcement_id="a1",
            level=Level.CRITICAL,
            quorum=3,
            strategy=Strategy.COST,
            bids=(),
            judged=(),
            lease_id="",
        )
        await carry_out(Observations(database, Reputations(database)), effect)
        (found,) = await database.run(partial(auctions.latest, limit=5))
        assert (found["jobId"], found["leaseId"], found["level"]) == ("a1", None, "critical")
        assert (found["strategy"], found["bids"], found["quorum"]) == ("cost", [], 3)
