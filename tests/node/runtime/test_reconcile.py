"""Reconciling: what runs follows what is desired, whatever tasks and reads do."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from node.runtime.reconcile import Reconciler, keep_pause, sole_error
from node.runtime.supervisor import RestartPolicy
from protocols.errors import WorldFault

POLICY = RestartPolicy(delay_s_first=1, delay_s_max=4, jitter=0, stable_s=60)
INTERVAL_S = 5.0


@attrs.frozen
class Entry:
    key: str
    version: int = 1


class Tasks:
    """What is desired, and what runs; no two tasks may have one key at a time."""

    def __init__(self, *entries: Entry) -> None:
        self.desired: list[Entry] = list(entries)
        self.running: dict[str, Entry] = {}
        self.starts: list[tuple[float, Entry]] = []
        self.errors: list[Exception] = []  # that the task of "a" raises, one in each run
        self.read_errors: list[Exception] = []
        self.stop_s = 0.0
        self.lasts_s = 0.0
        self.returns = False

    async def read(self) -> Sequence[Entry]:
        await trio.lowlevel.checkpoint()
        if self.read_errors:
            raise self.read_errors.pop(0)
        return list(self.desired)

    async def run(self, entry: Entry) -> None:
        assert entry.key not in self.running, "a task starts after its predecessor has ended"
        self.running[entry.key] = entry
        self.starts.append((trio.current_time(), entry))
        try:
            await trio.sleep(self.lasts_s)
            if self.errors and entry.key == "a":
                raise self.errors.pop(0)
            if not self.returns:
                await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.stop_s)
            del self.running[entry.key]

    def reconciler(self, failed: Callable[[Entry, Exception, float], float] = keep_pause) -> Reconciler[Entry]:
        return Reconciler(
            kind="entry",
            read=self.read,
            run=self.run,
            backoff=POLICY,
            failed=failed,
            interval_s=lambda desired: INTERVAL_S,
        )


@asynccontextmanager
async def reconciling(tasks: Tasks) -> AsyncIterator[Reconciler[Entry]]:
    reconciler = tasks.reconciler()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reconciler.run)
        await wait_all_tasks_blocked()
        yield reconciler
        nursery.cancel_scope.cancel()


async def test_what_is_desired_runs_and_what_is_not_stops(autojump_clock: MockClock) -> None:
    tasks = Tasks(Entry("a"), Entry("b"))
    async with reconciling(tasks) as reconciler:
        assert set(tasks.running) == {"a", "b"} == set(reconciler.running)
        tasks.desired = [Entry("b"), Entry("c")]
        await reconciler.wake().wait()
        await wait_all_tasks_blocked()
        assert set(tasks.running) == {"b", "c"}
        assert [reconciler.is_running(key) for key in "abc"] == [False, True, True]
        assert sorted(entry.key for _, entry in tasks.starts) == ["a", "b", "c"], "an equal entry goes on as it is"
    assert tasks.running == {}, "every task ends with the reconciler"
    assert reconciler.running == []


async def test_a_changed_entry_starts_after_its_predecessor_ended(autojump_clock: MockClock) -> None:
    tasks = Tasks(Entry("a"), Entry("b"))
    tasks.stop_s = 3.0
    async with reconciling(tasks) as reconciler:
        tasks.desired = [Entry("a", 2), Entry("b", 2)]
        started_s = trio.current_time()
        await reconciler.wake().wait()
        assert trio.current_time() - started_s == pytest.approx(3.0), "they stop side by side"
        await wait_all_tasks_blocked()
        assert {entry.version for entry in tasks.running.values()} == {2}


async def test_changes_are_seen_after_the_interval_without_a_wake(autojump_clock: MockClock) -> None:
    tasks = Tasks()
    async with reconciling(tasks):
        tasks.desired = [Entry("a")]
        started_s = trio.current_time()
        while "a" not in tasks.running:
            await trio.sleep(0.1)
        assert trio.current_time() - started_s <= INTERVAL_S + 0.2


async def test_a_wake_in_the_middle_of_a_pass_waits_for_the_next_pass(autojump_clock: MockClock) -> None:
    """The pass under way may have read before the change that the wake is about."""
    tasks = Tasks(Entry("a"))
    tasks.stop_s = 2.0
    async with reconciling(tasks) as reconciler:
        tasks.desired = []
        first = reconciler.wake()
        await wait_all_tasks_blocked()
        tasks.desired = [Entry("b")]
        second = reconciler.wake()
        assert second is not first
        await second.wait()
        assert first.is_set()
        await wait_all_tasks_blocked()
        assert set(tasks.running) == {"b"}


async def test_failures_are_retried_with_growing_pauses_and_cost_the_others_nothing(
    autojump_clock: MockClock,
) -> None:
    tasks = Tasks(Entry("a"))
    tasks.errors = [WorldFault("down"), OSError(), WorldFault("down"), WorldFault("down")]
    async with reconciling(tasks) as reconciler:
        await trio.sleep(0.5)
        tasks.desired.append(Entry("b"))
        reconciler.wake()
        await trio.sleep(20)
        assert set(tasks.running) == {"a", "b"}
    times = [time_s for time_s, entry in tasks.starts if entry.key == "a"]
    assert [round(later - earlier) for earlier, later in pairwise(times)] == [1, 2, 4, 4]


async def test_a_task_that_lasted_starts_again_with_the_first_pause(autojump_clock: MockClock) -> None:
    tasks = Tasks(Entry("a"))
    tasks.lasts_s = 100.0
    tasks.errors = [WorldFault("down")] * 3
    async with reconciling(tasks):
        await trio.sleep(500)
    times = [time_s for time_s, _ in tasks.starts]
    assert [round(later - earlier) for earlier, later in pairwise(times)] == [101, 101, 101]


async def test_who_hears_of_a_failure_sets_the_pause(autojump_clock: MockClock) -> None:
    tasks = Tasks(Entry("a"))
    fault = WorldFault("later")
    tasks.errors = [fault]
    heard: list[tuple[Entry, Exception, float]] = []

    def failed(entry: Entry, error: Exception, pause_s: float) -> float:
        heard.append((entry, error, pause_s))
        return 50.0

    reconciler = tasks.reconciler(failed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reconciler.run)
        await trio.sleep(49)
        assert len(tasks.starts) == 1
        await trio.sleep(2)
        assert len(tasks.starts) == 2
        nursery.cancel_scope.cancel()
    assert heard == [(Entry("a"), fault, 1.0)]


async def test_restart_ends_a_pause(autojump_clock: MockClock) -> None:
    tasks = Tasks(Entry("a"))
    tasks.errors = [WorldFault("down")] * 5
    async with reconciling(tasks) as reconciler:
        await trio.sleep(5)  # in the pause of 4 s
        before = len(tasks.starts)
        tasks.errors = []
        await reconciler.restart("a").wait()
        await wait_all_tasks_blocked()
        assert len(tasks.starts) == before + 1
        assert "a" in tasks.running
        reconciler.restart("nobody")


async def test_a_task_that_returned_runs_again_in_the_next_pass_alone(autojump_clock: MockClock) -> None:
    tasks = Tasks(Entry("a"))
    tasks.returns = True
    async with reconciling(tasks) as reconciler:
        assert not reconciler.is_running("a")
        assert len(tasks.starts) == 1
        await reconciler.wake().wait()
        await wait_all_tasks_blocked()
        assert len(tasks.starts) == 2


async def test_our_own_bugs_leave_and_end_every_task(autojump_clock: MockClock) -> None:
    tasks = Tasks(Entry("a"), Entry("b"))
    tasks.errors = [KeyError("a bug")]
    with pytest.raises(ExceptionGroup) as raised:
        await tasks.reconciler().run()
    assert raised.group_contains(KeyError)
    assert tasks.running == {}


async def test_a_read_that_fails_leaves_and_the_next_run_answers_who_waits(autojump_clock: MockClock) -> None:
    tasks = Tasks(Entry("a"))
    tasks.read_errors = [WorldFault("the database is away")]
    reconciler = tasks.reconciler()
    waited = reconciler.wake()
    with pytest.raises(ExceptionGroup) as raised:
        await reconciler.run()
    assert raised.group_contains(WorldFault)
    assert not waited.is_set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reconciler.run)
        with trio.fail_after(1):
            await waited.wait()
        nursery.cancel_scope.cancel()


def test_a_group_of_one_is_that_one() -> None:
    fault = WorldFault("down")
    assert sole_error(ExceptionGroup("", [ExceptionGroup("", [fault])])) is fault
    assert sole_error(fault) is fault
    both = ExceptionGroup("", [fault, OSError()])
    assert sole_error(ExceptionGroup("", [both])) is both


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from("abcd"), st.integers(1, 3)),
            st.booleans(),
            st.sampled_from(["", *"abcd"]),
        ),
        max_size=8,
    )
)
def test_after_every_pass_what_runs_is_what_was_desired(changes: list[tuple[dict[str, int], bool, str]]) -> None:
    """Whatever changes, restarts and failures come in between."""

    async def follow() -> None:
        tasks = Tasks()
        async with reconciling(tasks) as reconciler:
            for versions, fails, restarted in changes:
                tasks.desired = [Entry(key, version) for key, version in versions.items()]
                if fails:
                    tasks.errors.append(WorldFault("down"))
                if restarted:
                    reconciler.restart(restarted)
                await reconciler.wake().wait()
            await trio.sleep(100)
            assert tasks.running == {entry.key: entry for entry in tasks.desired}

    trio.run(follow, clock=MockClock(autojump_threshold=0))
