"""The estimate: where it starts, what moves it how far, what fades, and what never does."""

from hypothesis import given
from hypothesis import strategies as st

from protocols.messages import Role
from protocols.reputation import EVIDENCE_MAX, HALF_LIFE_MS, LATE_SCORE_MIN, NEWCOMER, Estimate, Outcome, over_roles
from protocols.templates import BUILT_IN

NOW = 1_700_000_000_000
OUTCOMES: tuple[Outcome, ...] = ("agreed", "dissented", "late")
HISTORY = st.lists(st.tuples(st.sampled_from(OUTCOMES), st.integers(0, 10**8), st.integers(1, 1000)), max_size=50)


def lived(history: list[tuple[Outcome, int, int]]) -> tuple[Estimate, int]:
    estimate, now_ms = Estimate(), NOW
    for outcome, later_ms, count in history:
        now_ms += later_ms
        estimate = estimate.after(outcome, now_ms, count)
    return estimate, now_ms


def test_a_stranger_starts_in_the_middle() -> None:
    assert Estimate().score(NOW) == NEWCOMER


def test_agreement_raises_and_the_rest_lowers_dissent_most() -> None:
    known = Estimate().after("agreed", NOW, 20)
    assert known.score(NOW) > 90
    late, dissent = known.after("late", NOW), known.after("dissented", NOW)
    assert dissent.score(NOW) < late.score(NOW) < known.score(NOW)


def test_a_liar_falls_soon_whatever_it_was_before() -> None:
    estimate = Estimate().after("agreed", NOW, 1_000_000)
    assert estimate.after("dissented", NOW, 30).score(NOW) < NEWCOMER


@given(st.integers(0, 1_000), st.integers(1, 1_000))
def test_lateness_alone_shuts_nobody_out(agreed: int, late: int) -> None:
    """Whoever is cut off finds everybody late: it must still find everybody good enough to be asked again."""
    estimate = Estimate().after("agreed", NOW, agreed)
    for _ in range(late):
        estimate = estimate.after("late", NOW)
    assert estimate.score(NOW) >= LATE_SCORE_MIN > max(template.reputation_min for template in BUILT_IN.values())
    assert estimate.score(NOW) <= max(NEWCOMER, Estimate().after("agreed", NOW, agreed).score(NOW))


def test_lateness_redeems_no_liar() -> None:
    liar = Estimate().after("dissented", NOW, 3)
    assert liar.after("late", NOW, 100).score(NOW) == liar.score(NOW) < LATE_SCORE_MIN


def test_who_lies_in_one_role_is_trusted_in_none() -> None:
    liar = {Role.NORMALIZE: 97, Role.VALIDATE: Estimate().after("dissented", NOW).score(NOW), Role.CERTIFY: 50}
    assert set(over_roles(liar).values()) == {liar[Role.VALIDATE]}
    slow = {Role.NORMALIZE: 97, Role.VALIDATE: Estimate().after("late", NOW, 99).score(NOW), Role.CERTIFY: 50}
    assert over_roles(slow) == slow
    assert set(over_roles({Role.NORMALIZE: 97, Role.VALIDATE: 0}).values()) == {0}


def test_a_record_fades_to_the_middle() -> None:
    for outcome in OUTCOMES:
        estimate = Estimate().after(outcome, NOW, 10)
        scores = [abs(estimate.score(NOW + days * HALF_LIFE_MS) - NEWCOMER) for days in range(10)]
        assert scores == sorted(scores, reverse=True)
        assert scores[-1] <= 5


def test_an_equivocation_never_fades() -> None:
    estimate = Estimate().after("agreed", NOW, 100).after("equivocated", NOW)
    assert estimate.score(NOW) == 0
    assert estimate.after("agreed", NOW + 99 * HALF_LIFE_MS, 10_000).score(NOW + 100 * HALF_LIFE_MS) == 0


@given(HISTORY)
def test_scores_stay_in_their_range_and_evidence_in_its_bound(history: list[tuple[Outcome, int, int]]) -> None:
    estimate, now_ms = lived(history)
    assert 0 <= estimate.score(now_ms) <= 100
    assert estimate.successes + estimate.failures <= EVIDENCE_MAX * 1.000001


@given(HISTORY, st.sampled_from(OUTCOMES))
def test_one_more_outcome_never_moves_it_the_wrong_way(
    history: list[tuple[Outcome, int, int]], outcome: Outcome
) -> None:
    estimate, now_ms = lived(history)
    moved = estimate.after(outcome, now_ms).score(now_ms) - estimate.score(now_ms)
    assert moved >= 0 if outcome == "agreed" else moved <= 0


def test_a_clock_that_goes_back_changes_nothing() -> None:
    estimate = Estimate().after("agreed", NOW, 10)
    assert estimate.score(NOW - HALF_LIFE_MS) == estimate.score(NOW)
