"""Votes, levels and awards: the outcome may not depend on the order of arrival, nor on who shouts loudest."""

import hashlib

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.entities import Ballot
from protocols.levels import LEVELS, is_enough, rule_for
from protocols.messages import Evidence, Level, Role, Signed
from protocols.quorum import dissenters, is_hopeless, supporters, tally

KEYS = tuple(b"\x02" + hashlib.sha256(b"%d" % n).digest() for n in range(7))
TRUE, LIE = hashlib.sha256(b"true").digest(), hashlib.sha256(b"lie").digest()
ZERO = bytes(32)


def says(key: bytes, output: bytes, batch: str = "b") -> Signed[Evidence]:
    message = Evidence(
        network="n",
        batch_id=batch,
        role=Role.NORMALIZE,
        policy_hash=ZERO,
        input_digest=ZERO,
        context_in=ZERO,
        output_digest=output,
        context_out=ZERO,
        valid=1,
        invalid=0,
        build="",
        finished_ms=0,
        processing_us=0,
    )
    return Signed(message=message, signer=key, signature=b"")


def ballot(executors: int, quorum: int) -> Ballot:
    return Ballot(role=Role.NORMALIZE, executors=KEYS[:executors], quorum=quorum)


@given(st.permutations([says(key, TRUE) for key in KEYS[:5]] * 2 + [says(key, LIE) for key in KEYS[5:]]))
def test_two_liars_of_seven_change_nothing(votes: list[Signed[Evidence]]) -> None:
    current = ballot(7, 5)
    for vote in votes:
        current, equivocation = tally(current, vote)
        assert equivocation is None
    assert current.agreed == says(KEYS[0], TRUE).message.outcome
    assert {vote.signer for vote in dissenters(current)} == set(KEYS[5:])
    assert tuple(vote.signer for vote in current.votes) == tuple(sorted(KEYS))


@given(st.permutations([says(KEYS[0], TRUE), says(KEYS[0], LIE), says(KEYS[1], TRUE), says(KEYS[2], TRUE)]))
def test_an_equivocator_is_struck_whatever_came_first(votes: list[Signed[Evidence]]) -> None:
    current, proofs = ballot(3, 2), []
    for vote in votes:
        current, proof = tally(current, vote)
        proofs += [proof] if proof else []
    assert current.equivocators == (KEYS[0],)
    assert [{proof.first.signer, proof.second.signer} for proof in proofs] == [{KEYS[0]}]
    assert proofs[0].first.message.outcome != proofs[0].second.message.outcome
    backing = {vote.signer for vote in supporters(current, says(KEYS[1], TRUE).message.outcome)}
    assert backing == {KEYS[1], KEYS[2]}


def test_strangers_have_no_vote() -> None:
    current, _ = tally(ballot(2, 2), says(KEYS[5], TRUE))
    assert current.votes == ()


def test_another_question_s_answer_is_no_equivocation() -> None:
    current, _ = tally(ballot(3, 2), says(KEYS[0], TRUE))
    current, proof = tally(current, says(KEYS[0], LIE, batch="other"))
    assert proof is None
    assert current.equivocators == ()


def test_time_and_duration_are_no_difference() -> None:
    first = says(KEYS[0], TRUE)
    later = attrs.evolve(first, message=attrs.evolve(first.message, finished_ms=9, processing_us=9, build="x"))
    assert first.message.outcome == later.message.outcome


@pytest.mark.parametrize(
    ("votes", "silent", "hopeless"),
    [
        ([], [], False),
        ([says(KEYS[0], TRUE)], [], False),
        ([says(KEYS[0], TRUE), says(KEYS[1], LIE)], [], False),
        ([says(KEYS[0], TRUE), says(KEYS[1], LIE)], [KEYS[2]], True),
        ([says(KEYS[0], TRUE)], [KEYS[1]], False),
        ([says(KEYS[0], TRUE)], [KEYS[1], KEYS[2]], True),
        ([], [KEYS[0], KEYS[1]], True),
        ([says(KEYS[0], TRUE), says(KEYS[1], TRUE)], [KEYS[2]], False),
        ([says(KEYS[0], TRUE), says(KEYS[1], TRUE), says(KEYS[0], LIE)], [], False),
        ([says(KEYS[0], TRUE), says(KEYS[1], TRUE), says(KEYS[0], LIE)], [KEYS[2]], True),
        ([says(KEYS[0], TRUE), says(KEYS[1], TRUE), says(KEYS[2], LIE), says(KEYS[0], LIE)], [], True),
    ],
)
def test_when_no_quorum_is_possible_any_more(
    votes: list[Signed[Evidence]], silent: list[bytes], hopeless: bool
) -> None:
    current = ballot(3, 2)
    for vote in votes:
        current, _ = tally(current, vote)
    assert is_hopeless(current, frozenset(silent)) is hopeless


@pytest.mark.parametrize(
    ("level", "quorum", "executors", "enough"),
    [
        (Level.BASIC, 1, 1, True),
        (Level.BASIC, 1, 2, False),
        (Level.ENHANCED, 2, 3, True),
        (Level.ENHANCED, 2, 2, True),
        (Level.ENHANCED, 2, 1, False),
        (Level.ENHANCED, 1, 1, False),
        (Level.ENHANCED, 2, 4, False),
        (Level.CRITICAL, 3, 4, True),
        (Level.CRITICAL, 3, 3, False),
        (Level.CRITICAL, 3, 5, False),
        (Level.CRITICAL, 4, 5, True),
    ],
)
def test_levels_are_never_lowered(level: Level, quorum: int, executors: int, enough: bool) -> None:
    assert is_enough(level, quorum, executors) is enough


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("quorum", range(1, 12))
def test_a_raised_quorum_keeps_two_quorums_overlapping(level: Level, quorum: int) -> None:
    rule = rule_for(level, quorum)
    assert rule.quorum >= max(quorum, LEVELS[level].quorum)
    assert 2 * rule.quorum > rule.executors
    assert is_enough(level, rule.quorum, rule.executors)
