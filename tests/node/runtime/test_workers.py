"""Worker processes: bounded, replaced when they crash or hang, lean, and gone when the node is."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from node.runtime import workers as module
from node.runtime.fair_share import Account, WorkersBusyError
from node.runtime.workers import Budget, WorkerCrashedError, Workers, WorkerTimeoutError
from node.worker.metering import TooCostlyError, UnexpectedEndError
from protocols.errors import WorldFault
from tests.node import slow_to_start, work_calls

ROOT = Path(__file__).resolve().parents[3]


async def test_calls_run_elsewhere_and_roles_at_lower_priority() -> None:
    async with Workers(2) as workers:
        front, role = await workers.admit(work_calls.facts), await workers.execute(work_calls.facts)
        again = await workers.execute(work_calls.facts)
    assert len({front["pid"], role["pid"], os.getpid()}) == 3
    assert again["pid"] == role["pid"], "a worker is kept for the next call"
    assert role["niceness"] == min(19, os.nice(0) + module.ROLE_NICENESS)
    assert front["niceness"] == os.nice(0)


async def test_a_worker_imports_neither_the_program_nor_network_nor_database() -> None:
    async with Workers(1) as workers:
        facts = await workers.execute(work_calls.facts)
    assert facts["heavy"] == []
    assert facts["main"] is False, "the main program was imported again"
    assert isinstance(facts["mb"], float)
    assert facts["mb"] < 48


async def test_batches_go_in_and_out_whole() -> None:
    async with Workers(1) as workers:
        assert await workers.execute(partial(work_calls.echo, b"a" * 4_000_000, 8_000_000)) == b"a" * 8_000_000


@pytest.mark.parametrize("pool", ["admit", "execute"])
async def test_errors_come_back_as_themselves(pool: str) -> None:
    async with Workers(1) as workers:
        run = getattr(workers, pool)
        with pytest.raises(work_calls.OddError) as odd:
            await run(work_calls.fail_oddly)
        with pytest.raises(WorldFault) as fault:
            await run(work_calls.fail_by_world)
    assert (str(odd.value), odd.value.index) == ("event 7: no reason", 7)
    assert odd.value.fields == {"index": 7, "why": "no reason"}
    assert (str(fault.value), fault.value.fields) == ("no disk", {"disk": "sda", "left": 0})


async def test_a_call_survives_one_crash_and_not_two(tmp_path: Path) -> None:
    async with Workers(1) as workers:
        assert await workers.execute(partial(work_calls.crash_once, str(tmp_path / "marker"))) == "alive"
        with pytest.raises(WorkerCrashedError) as crashed:
            await workers.execute(work_calls.crash)
        assert crashed.value.code == "worker-crashed"
        assert await workers.execute(partial(work_calls.echo, b"x", 1)) == b"x"


async def test_a_call_that_hangs_is_killed_and_the_next_is_served() -> None:
    async with Workers(1, timeout_s=0.5) as workers:
        with pytest.raises(WorkerTimeoutError, match=r"over 0\.5 s"):
            await workers.execute(work_calls.hang)
        assert await workers.execute(partial(work_calls.echo, b"x", 1)) == b"x"


async def test_the_start_of_a_process_is_not_counted_as_time_of_its_first_call() -> None:
    async with Workers(1, timeout_s=slow_to_start.START_S / 3, levels_s=slow_to_start.START_S / 3) as workers:
        assert await workers.execute(slow_to_start.answer) == "answered"
        assert await workers.decide_levels(slow_to_start.answer) == "answered"


async def test_cancelling_a_call_kills_its_worker_so_that_the_node_can_end() -> None:
    async with Workers(1) as workers:
        pid = (await workers.execute(work_calls.facts))["pid"]
        with trio.move_on_after(0.2):
            await workers.execute(work_calls.hang)
        assert (await workers.execute(work_calls.facts))["pid"] != pid


async def test_waiting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROLES_WAITING_MAX", 2)
    async with Workers(1) as workers, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(workers.execute, work_calls.hang)
        await wait_all_tasks_blocked()
        with pytest.raises(WorkersBusyError):
            await workers.execute(work_calls.hang)
        nursery.cancel_scope.cancel()


CLIENT, OTHER = Account(name="client"), Account(name="other")
SHORT = Budget(floor_s=0.4, per_mb_s=0.0, ceiling_s=0.4)


@pytest.fixture
def short_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_BUDGET", SHORT)
    monkeypatch.setattr(module, "READING_BUDGET", SHORT)


@pytest.mark.usefixtures("short_budget")
@pytest.mark.parametrize("pool", ["admit", "read"])
@pytest.mark.parametrize(
    "compute", [work_calls.compute_for, work_calls.compute_stubbornly, work_calls.compute_and_misreport]
)
async def test_parsing_is_interrupted_when_its_processor_time_is_used_up(
    pool: str, compute: Callable[[float], None]
) -> None:
    async with Workers(1) as workers:
        run = getattr(workers, pool)
        pid = (await run(work_calls.facts, account=OTHER))["pid"]
        with pytest.raises(TooCostlyError, match=r"more than 0\.4 s of processor time"):
            await run(partial(compute, 60.0), account=CLIENT, size=1)
        assert (await run(work_calls.facts, account=OTHER))["pid"] == pid, "its process goes on"
        await run(partial(work_calls.compute_for, 0.1), account=OTHER)


@pytest.mark.usefixtures("short_budget")
async def test_what_is_too_costly_for_the_node_itself_is_no_clients_fault() -> None:
    async with Workers(1) as workers:
        with pytest.raises(WorkerTimeoutError, match="processor time"):
            await workers.admit(partial(work_calls.compute_for, 60.0))


async def test_what_a_library_raises_ends_neither_the_node_nor_the_calls_of_others() -> None:
    async with Workers(1, parsers=2) as workers, trio.open_nursery() as nursery:
        waited: list[str] = []

        async def wait() -> None:
            waited.append(await workers.admit(partial(work_calls.wait, 1.0), account=OTHER))

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        with pytest.raises(UnexpectedEndError, match="SystemExit: a panic"):
            await workers.admit(work_calls.panic, account=CLIENT)
        assert await workers.admit(partial(work_calls.wait, 0.0), account=CLIENT) == "waited"
    assert waited == ["waited"]


async def test_a_parser_that_is_killed_costs_its_own_client_alone() -> None:
    """Neither who waits nor who is parsed beside it notices, and one that is killed between calls is replaced."""
    async with Workers(1, parsers=2) as workers:
        results: list[str] = []

        async def wait(account: Account) -> None:
            results.append(await workers.admit(partial(work_calls.wait, 0.5), account=account))

        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for number in range(6):
                    nursery.start_soon(wait, Account(name=f"client {number}"))
                with pytest.raises(WorkerCrashedError):
                    await workers.admit(work_calls.crash, account=CLIENT)
        assert results == ["waited"] * 12
        pid = await workers.admit(os.getpid, account=OTHER)
        os.kill(pid, signal.SIGKILL)
        await trio.sleep(0.5)
        assert await workers.admit(os.getpid, account=OTHER) != pid


async def test_calls_are_refused_plainly_while_the_pools_close() -> None:
    """Those that run, those that wait, and those that come later: the rest of the node is still ending."""
    refused: list[str] = []
    workers = Workers(1, parsers=2)

    async def call(account: Account) -> None:
        try:
            await workers.admit(partial(work_calls.wait, 30.0), account=account)
        except WorkerCrashedError as error:
            refused.append(str(error))

    async with trio.open_nursery() as nursery:
        async with workers:
            for number in range(4):
                nursery.start_soon(call, Account(name=f"client {number}"))
            await wait_all_tasks_blocked()
        assert await workers.parsers_answer(1.0)
        assert await workers.workers_answer(1.0)
        await call(OTHER)
        for later in (workers.execute, workers.decide_levels):
            with pytest.raises(WorkerCrashedError, match="the node stops"):
                await later(work_calls.facts)
    assert len(refused) == 5
    assert all("the node stops" in reason for reason in refused)


async def test_parsers_whose_clients_left_are_not_taken_for_silent() -> None:
    """Their calls go on, and while one of them is free it is asked."""
    async with Workers(1, parsers=2) as workers:
        await workers.admit(work_calls.facts)
        for account in (CLIENT, OTHER):
            with trio.move_on_after(0.5):
                await workers.admit(partial(work_calls.wait, 3.0), account=account)
        began_s = trio.current_time()
        assert await workers.parsers_answer(60.0), "calls are under way, and not for long"
        assert trio.current_time() - began_s < 0.5, "nothing was asked that waits for a place"


@pytest.mark.slow
@pytest.mark.usefixtures("short_budget")
async def test_parsing_that_does_not_come_back_from_a_library_is_ended() -> None:
    async with Workers(1) as workers:
        with pytest.raises(TooCostlyError):
            await workers.admit(work_calls.compute_in_a_library, account=CLIENT)
        assert (await workers.admit(partial(work_calls.echo, b"x", 1), account=OTHER)) == b"x"


@pytest.mark.usefixtures("short_budget")
async def test_time_on_the_clock_is_not_counted() -> None:
    """On a busy machine a call takes long and uses little."""
    async with Workers(1) as workers:
        assert await workers.admit(partial(work_calls.wait, 1.0), account=CLIENT) == "waited"


def test_a_budget_is_in_proportion_to_the_size_between_a_floor_and_a_ceiling() -> None:
    budget = Budget(floor_s=1.0, per_mb_s=2.0, ceiling_s=9.0)
    sizes = (0, module.MB // 2, module.MB, 3 * module.MB, 100 * module.MB, None)
    assert [budget.seconds(size) for size in sizes] == [1.0, 2.0, 3.0, 7.0, 9.0, 9.0]
    assert [budget.is_long(size) for size in sizes] == [False, False, False, True, True, True]


@pytest.mark.parametrize("pool", ["admit", "read"])
async def test_what_an_outsider_sent_is_tried_once(pool: str, tmp_path: Path) -> None:
    async with Workers(1) as workers:
        run = getattr(workers, pool)
        call = partial(work_calls.crash_once, str(tmp_path / "marker"))
        with pytest.raises(WorkerCrashedError):
            await run(call, account=CLIENT)
        assert await run(call, account=CLIENT) == "alive", "there was no second attempt"
        assert await run(partial(work_calls.crash_once, str(tmp_path / "other"))) == "alive", "the node's own is"


async def test_a_client_that_leaves_ends_no_worker() -> None:
    """Its call goes on: each worker that had to be started again would cost more than the request."""
    async with Workers(1, parsers=2) as workers:
        pid = (await workers.admit(work_calls.facts, account=CLIENT))["pid"]
        for _ in range(3):
            with trio.move_on_after(0.05):
                await workers.admit(partial(work_calls.compute_for, 0.3), account=CLIENT)
        assert (await workers.admit(work_calls.facts, account=CLIENT))["pid"] == pid


async def test_one_clients_long_calls_leave_a_process_for_others() -> None:
    async with Workers(1, parsers=3) as workers, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(partial(workers.admit, work_calls.hang, account=CLIENT))
        await wait_all_tasks_blocked()
        with trio.fail_after(120):
            for _ in range(3):
                assert await workers.admit(partial(work_calls.echo, b"x", 1), account=OTHER, size=1) == b"x"
        nursery.cancel_scope.cancel()


async def test_large_bodies_of_many_clients_leave_a_process_for_small_ones() -> None:
    async with Workers(1, parsers=2) as workers, trio.open_nursery() as nursery:
        for number in range(3):
            large = partial(workers.admit, account=Account(name=f"client {number}"), size=8 * module.MB)
            nursery.start_soon(large, partial(work_calls.wait, 120.0))
        await wait_all_tasks_blocked()
        with trio.fail_after(60):
            for _ in range(3):
                assert await workers.admit(partial(work_calls.echo, b"x", 1), account=OTHER, size=1_000) == b"x"
        nursery.cancel_scope.cancel()


async def test_parsers_are_as_many_as_the_machine_allows_and_never_one() -> None:
    assert module.PARSERS_MIN <= module.parsers_of_machine() <= module.PARSERS_MAX
    assert module.PARSERS_MIN >= 2, "one client never has them all"


async def test_an_idle_worker_retires() -> None:
    async with Workers(1, idle_s=0.1) as workers:
        pid = (await workers.execute(work_calls.facts))["pid"]
        with trio.fail_after(10):
            while not _ended(int(str(pid))):  # another process says nothing when it ends
                await trio.sleep(0.05)
        assert (await workers.execute(work_calls.facts))["pid"] != pid


PARENT = """
import sys
import trio
from node.runtime.workers import Workers
from tests.node import work_calls

async def main():
    async with Workers(1) as workers, trio.open_nursery() as nursery:
        for run in (workers.admit, workers.execute):
            print((await run(work_calls.facts))["pid"], flush=True)
        nursery.start_soon(workers.execute, work_calls.hang)
        await trio.sleep_forever()

trio.run(main)
"""


def test_workers_end_with_a_killed_node_idle_or_busy() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    assert not any(_ended(pid) for pid in pids)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while not all(_ended(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker outlived its node"
        time.sleep(0.05)


def _ended(pid: int) -> bool:
    """Gone, or a zombie that nobody has asked about yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
