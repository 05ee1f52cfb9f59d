"""Places are shared among accounts first, then in the order of arrival, under a clock of the test's own."""

import random
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from node.runtime.fair_share import OWN_ACCOUNT, Account, AllowanceUsedError, FairShare, WorkersBusyError
from node.runtime.token_bucket import Rate

A, B, C = (Account(name=name) for name in "abc")
MANY = Account(name="a proxy", is_metered=False)


class Office:
    """Places, and the order in which they were had."""

    def __init__(
        self, places: int, *, waiting_max: int = 100, account_max: int | None = None, long_max: int | None = None
    ) -> None:
        self.now_s = 0.0
        self.share = FairShare(
            places,
            name="test",
            waiting_max=waiting_max,
            allowance=Rate(per_s=0.5, burst=10.0),
            account_max=account_max,
            long_max=long_max,
            clock=lambda: self.now_s,
        )
        self.had: list[str] = []
        self.refused: list[str] = []

    async def come(self, account: Account, label: str = "") -> None:
        """Wait for a place and keep it."""
        try:
            await self.share.take(account)
        except AllowanceUsedError:
            self.refused.append(label or account.name)
        else:
            self.had.append(label or account.name)


async def test_one_account_is_served_in_the_order_of_arrival_and_never_has_all_places() -> None:
    office = Office(3, account_max=2)
    async with trio.open_nursery() as nursery:
        for label in ("a1", "a2", "a3", "a4"):
            nursery.start_soon(office.come, A, label)
            await wait_all_tasks_blocked()
        assert office.had == ["a1", "a2"]
        assert office.share.has_room
        await office.come(B)
        for _ in range(2):
            office.share.give_back(A, 0.1)
            await wait_all_tasks_blocked()
    assert office.had == ["a1", "a2", "b", "a3", "a4"]


async def test_a_newcomer_is_served_before_the_queue_of_another() -> None:
    office = Office(1)
    await office.come(A)
    office.share.give_back(A, 0.001)
    await office.come(A)
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(office.come, A, f"a{number}")
            await wait_all_tasks_blocked()
        nursery.start_soon(office.come, B)
        await wait_all_tasks_blocked()
        office.share.give_back(A, 0.0)
        await wait_all_tasks_blocked()
        assert office.had == ["a", "a", "b"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("costly", [A, MANY])
async def test_who_used_the_least_is_served_first_and_use_is_forgotten_with_time(costly: Account) -> None:
    office = Office(1)
    await office.share.take(costly)
    office.share.give_back(costly, 6.0)
    await office.come(C)
    async with trio.open_nursery() as nursery:
        for account in (costly, B, B):
            nursery.start_soon(office.come, account)
            await wait_all_tasks_blocked()
        for account in (C, B, B):
            office.share.give_back(account, 1.0)
            await wait_all_tasks_blocked()
    assert office.had == ["c", "b", "b", costly.name]


async def test_an_account_that_used_up_its_allowance_is_told_when_to_come_again() -> None:
    office = Office(2)
    await office.share.take(A)
    office.share.give_back(A, 13.2)
    with pytest.raises(AllowanceUsedError) as refused:
        await office.share.take(A)
    assert refused.value.fields["retryAfter"] == 7, "3.2 s too much, at half a second each second"
    await office.share.take(B)
    office.now_s = 6.3
    with pytest.raises(AllowanceUsedError):
        await office.share.take(A)
    office.now_s = 6.5
    await office.share.take(A)


async def test_an_allowance_that_is_used_up_while_others_wait_refuses_those_too() -> None:
    office = Office(1)
    await office.come(A, "a1")
    async with trio.open_nursery() as nursery:
        for account, label in ((A, "a2"), (A, "a3"), (B, "b1")):
            nursery.start_soon(office.come, account, label)
            await wait_all_tasks_blocked()
        office.share.give_back(A, 11.0)
        await wait_all_tasks_blocked()
        assert office.had == ["a1", "b1"]
        office.share.give_back(B, 0.0)
    assert sorted(office.refused) == ["a2", "a3"]
    await office.come(C)


async def test_who_stands_for_many_is_never_refused_for_its_use() -> None:
    office = Office(1)
    for _ in range(3):
        await office.share.take(MANY)
        office.share.give_back(MANY, 1_000.0)


async def test_long_work_of_many_leaves_a_place_for_short_work() -> None:
    office = Office(2, long_max=1)
    async with trio.open_nursery() as nursery:
        for account in (A, B):
            nursery.start_soon(partial(office.share.take, account, is_long=True))
            await wait_all_tasks_blocked()
        assert office.share.has_room
        await office.come(C)
        office.share.give_back(C, 0.1)
        await office.come(C)
        office.share.give_back(C, 0.1)
        office.share.give_back(A, 5.0, is_long=True)
        await wait_all_tasks_blocked()
        with trio.move_on_after(0.01) as patience:
            await office.share.take(A, is_long=True)
        assert patience.cancelled_caught, "it is B's now"
        office.share.give_back(B, 5.0, is_long=True)
        await office.share.take(A, is_long=True)
        await office.come(B)
    assert office.had == ["c", "c", "b"]


async def test_who_is_never_refused_is_in_debt_for_its_recent_use_alone() -> None:
    office = Office(1)
    await office.share.take(MANY)
    office.share.give_back(MANY, 1_000.0)
    await office.share.take(B)
    office.share.give_back(B, 9.0)
    office.now_s = 24.0
    await office.share.take(B)
    office.share.give_back(B, 8.5)
    await office.come(C)
    async with trio.open_nursery() as nursery:
        for account in (B, MANY):
            nursery.start_soon(office.come, account)
            await wait_all_tasks_blocked()
        for account in (C, MANY):
            office.share.give_back(account, 0.0)
            await wait_all_tasks_blocked()
    assert office.had == ["c", MANY.name, "b"], "20 s of debt are paid back in 40 s, not in 2,000"


async def test_accounts_without_end_do_not_keep_the_node_from_its_own_work() -> None:
    """Each of them is new and used nothing yet."""
    office = Office(1)
    await office.share.take(OWN_ACCOUNT)
    office.share.give_back(OWN_ACCOUNT, 30.0)
    await office.come(A)
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(office.come, Account(name=f"stranger {number}"))
        await wait_all_tasks_blocked()
        nursery.start_soon(office.come, OWN_ACCOUNT)
        await wait_all_tasks_blocked()
        office.share.give_back(A, 0.1)
        await wait_all_tasks_blocked()
        assert office.had == ["a", "node"]
        nursery.cancel_scope.cancel()


async def test_waiting_is_bounded_and_leaves_room_for_others() -> None:
    office = Office(1, waiting_max=8)
    await office.come(A)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(office.come, A, "another a")
            await wait_all_tasks_blocked()
        assert office.refused == ["another a"] * 14, "6 wait, three times as many as still may"
        for account in (B, C):
            nursery.start_soon(office.come, account)
            await wait_all_tasks_blocked()
        with pytest.raises(WorkersBusyError):
            await office.share.take(Account(name="d"))
        nursery.cancel_scope.cancel()


async def test_whoever_leaves_takes_no_place_along() -> None:
    """Tasks are cancelled while they wait, as they get a place, and after; the places stay as many."""
    rng = random.Random(3)
    office = Office(3, account_max=2)
    inside: dict[str, int] = {}

    async def visit(account: Account) -> None:
        await office.share.take(account)
        inside[account.name] = inside.get(account.name, 0) + 1
        assert sum(inside.values()) <= 3
        assert inside[account.name] <= 2
        try:
            await trio.lowlevel.checkpoint()
        finally:
            inside[account.name] -= 1
            office.share.give_back(account, 0.001)

    async def visit_and_leave(account: Account) -> None:
        with trio.CancelScope() as scope:
            if rng.random() < 0.5:
                scope.deadline = trio.current_time() + rng.random() / 1_000
            await visit(account)

    with trio.fail_after(60):
        for _ in range(30):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(visit_and_leave, rng.choice((A, B, C, MANY)))
    for account in (A, B, C):
        await office.come(account)
    assert (office.had, office.share.has_room) == (["a", "b", "c"], False)
