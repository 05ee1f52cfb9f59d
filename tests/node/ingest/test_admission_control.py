"""What the node takes in: bytes of bodies, with a bound."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from node.ingest.admission_control import (
    AdmissionControl,
    ByteBudget,
    IngestionDisabledError,
    IngestLimits,
)
from node.ingest.backlog import OverloadedError

BYTES_MAX = 100


def control(**limits: int | bool) -> AdmissionControl:
    return AdmissionControl(IngestLimits(**{"bytes_in_flight_max": BYTES_MAX, "unsettled_max": 10, **limits}))  # type: ignore[arg-type]


def test_bytes_are_given_back_when_a_request_ends() -> None:
    admission = control()
    with admission.budget("a") as budget:
        budget.take(60)
        budget.take(40)
        assert admission.bytes_in_flight == 100
    assert admission.bytes_in_flight == 0


def test_bytes_are_given_back_when_a_request_fails() -> None:
    admission = control()
    with pytest.raises(OverloadedError), admission.budget("a") as budget:
        _take_too_much(budget)
    assert admission.bytes_in_flight == 0


def _take_too_much(budget: ByteBudget) -> None:
    budget.take(60)
    budget.take(BYTES_MAX)


def test_what_does_not_fit_is_refused_and_counts_for_nothing() -> None:
    admission = control()
    with admission.budget("a") as first, admission.budget("b") as second:
        first.take(90)
        with pytest.raises(OverloadedError) as refused:
            second.take(11)
        assert refused.value.fields["retryAfter"] == 1
        second.take(10)
        assert admission.bytes_in_flight == 100


def filled(admission: AdmissionControl, origin: str) -> int:
    """Open bodies of a byte each until one is refused; how many there are."""
    for number in range(10_000):
        try:
            admission.budget(origin).take(1)
        except OverloadedError:
            return number
    pytest.fail("nothing was refused")


def test_whatever_others_take_a_newcomer_finds_room() -> None:
    admission = control(bytes_in_flight_max=1_000)
    assert [filled(admission, origin) for origin in "abc"] == [750, 187, 47]
    admission.budget("d").take(16)
    assert admission.bytes_in_flight == 1_000
    with pytest.raises(OverloadedError, match="in all"):
        admission.budget("e").take(1)


def test_one_body_may_take_all_there_is() -> None:
    admission = control()
    with admission.budget("a") as budget:
        budget.take(BYTES_MAX)
    assert admission.bytes_in_flight == 0


def test_a_budget_is_resized_up_and_down() -> None:
    admission = control()
    with admission.budget("a") as budget:
        budget.resize(70)
        budget.resize(30)
        assert admission.bytes_in_flight == 30
        with pytest.raises(OverloadedError):
            budget.resize(101)
        assert admission.bytes_in_flight == 30, "the budget is as it was"
        budget.resize(0)
        assert admission.bytes_in_flight == 0


def test_transferred_bytes_outlive_the_first_budget() -> None:
    admission = control()
    with admission.budget("a") as first:
        first.take(50)
        second = first.transfer()
    assert admission.bytes_in_flight == 50
    with second:
        pass
    assert admission.bytes_in_flight == 0


async def test_a_node_that_takes_nothing_in_says_so_first() -> None:
    admission = control(enabled=False)
    admission.backlog.enter("all there may be", 10)
    with pytest.raises(IngestionDisabledError):
        admission.budget("a")


class Budgets(RuleBasedStateMachine):
    """Whatever budgets do, their bytes add up and stay within the bound."""

    budgets = Bundle("budgets")

    def __init__(self) -> None:
        super().__init__()
        self.admission = control()
        self.taken: dict[ByteBudget, int] = {}
        self.origins: dict[ByteBudget, str] = {}

    @rule(target=budgets, origin=st.sampled_from("ab"))
    def open(self, origin: str) -> ByteBudget:
        budget = self.admission.budget(origin)
        self.taken[budget], self.origins[budget] = 0, origin
        return budget

    @rule(budget=budgets, count=st.integers(0, 60))
    def take(self, budget: ByteBudget, count: int) -> None:
        try:
            budget.take(count)
        except OverloadedError:
            self.is_refused_for_a_reason(budget, count)
        else:
            self.taken[budget] += count

    @rule(budget=budgets, count=st.integers(0, 120))
    def resize(self, budget: ByteBudget, count: int) -> None:
        try:
            budget.resize(count)
        except OverloadedError:
            self.is_refused_for_a_reason(budget, count - self.taken[budget])
        else:
            self.taken[budget] = count

    def is_refused_for_a_reason(self, budget: ByteBudget, more: int) -> None:
        """It does not fit, or its origin holds another body: who holds nothing else has all that is free."""
        of_origin = [other for other in self.taken if self.origins[other] == self.origins[budget]]
        fits = self.admission.bytes_in_flight + more <= BYTES_MAX
        assert not fits or any(self.taken[other] for other in of_origin if other is not budget)

    @rule(target=budgets, budget=consumes(budgets))
    def transfer(self, budget: ByteBudget) -> ByteBudget:
        other = budget.transfer()
        self.taken[other], self.origins[other] = self.taken.pop(budget), self.origins[budget]
        with budget:
            pass
        return other

    @rule(budget=consumes(budgets))
    def close(self, budget: ByteBudget) -> None:
        with budget:
            pass
        del self.taken[budget]

    @invariant()
    def bytes_add_up(self) -> None:
        assert self.admission.bytes_in_flight == sum(self.taken.values()) <= BYTES_MAX


TestBudgets = Budgets.TestCase
