"""Changes written behind: merged, put back when the database is away, written at the end."""

from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing
from psycopg import Connection

from node.runtime.write_behind import PART_MAX, WriteBehind
from storage.database import Database
from storage.errors import DatabaseUnavailableError
from tests.lost_replies import lossy_way
from tests.outage import out_of_order

WAIT_S = 30.0


def write(connection: Connection[Any], changes: Mapping[str, int]) -> None:
    """Add counts up in a table of the node's that holds text and numbers by key."""
    connection.cursor().executemany(
        """INSERT INTO reputations (agent, role, agreed) VALUES (%s, 'normalize', %s)
           ON CONFLICT (agent, role) DO UPDATE SET agreed = reputations.agreed + EXCLUDED.agreed""",
        [(key.encode(), value) for key, value in changes.items()],
    )


def add(first: int, second: int) -> int:
    return first + second


def counts(database: Database, **options: Any) -> WriteBehind[str, int]:
    return WriteBehind("counts", database, write=write, merge=add, **options)


async def stored(database: Database) -> dict[str, int]:
    rows = await database.run(
        lambda connection: connection.execute("SELECT agent, agreed FROM reputations").fetchall()
    )
    return {bytes(agent).decode(): int(agreed) for agent, agreed in rows}


async def until_stored(database: Database, expected: dict[str, int]) -> None:
    with trio.fail_after(WAIT_S):
        while await stored(database) != expected:
            await trio.sleep(0.02)


async def test_changes_of_one_key_are_merged_and_written_once(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        ledger = counts(database)
        for _ in range(3):
            ledger.add("a", 1)
        ledger.add("b", 5)
        assert len(ledger) == 2
        assert await stored(database) == {}
        await ledger.flush()
        assert await stored(database) == {"a": 3, "b": 5}
        assert len(ledger) == 0
        await ledger.flush()
        assert await stored(database) == {"a": 3, "b": 5}


async def test_entries_that_the_database_refuses_cost_no_others(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        ledger = counts(database)
        for key, value in (("a", 1), ("b", 2**63), ("c", 3), ("d", 2**70), ("e", 5)):
            ledger.add(key, value)
        await ledger.flush()
        assert await stored(database) == {"a": 1, "c": 3, "e": 5}
        assert (len(ledger), ledger.dropped) == (0, 2)
        ledger.add("b", 7)
        await ledger.flush()
        assert await stored(database) == {"a": 1, "b": 7, "c": 3, "e": 5}


async def test_what_failed_to_be_written_is_written_with_the_next_flush(postgres_url: str) -> None:
    with Database(postgres_url, attempts_max=1) as database:
        ledger = counts(database)
        ledger.add("a", 1)
        ledger.add("b", 2)
        with out_of_order(postgres_url):
            with pytest.raises(DatabaseUnavailableError):
                await ledger.flush()
            ledger.add("a", 10)
            ledger.add("c", 3)
            assert len(ledger) == 4
            with pytest.raises(DatabaseUnavailableError):
                await ledger.flush()
        await ledger.flush()
        assert await stored(database) == {"a": 11, "b": 2, "c": 3}


async def test_values_are_merged_the_earlier_one_first(postgres_url: str) -> None:
    written: list[str] = []

    def keep(connection: Connection[Any], changes: Mapping[str, str]) -> None:
        connection.execute("SELECT 1")
        written.extend(changes.values())

    with Database(postgres_url, attempts_max=1) as database:
        ledger = WriteBehind[str, str]("texts", database, write=keep, merge=lambda first, second: first + second)
        ledger.add("k", "1")
        ledger.add("k", "2")
        with out_of_order(postgres_url), pytest.raises(DatabaseUnavailableError):
            await ledger.flush()
        ledger.add("k", "3")
        ledger.add("k", "4")
        await ledger.flush()
    assert written == ["12", "34"]


@pytest.mark.parametrize("attempts_max", [1, 3])
@pytest.mark.parametrize("carried_out", [True, False])
async def test_a_part_whose_commit_was_not_answered_is_written_once(
    postgres_url: str, carried_out: bool, attempts_max: int
) -> None:
    """Fails where it is simply written again: what is counted up counted twice."""
    with lossy_way(postgres_url) as way, Database(way.url, attempts_max=attempts_max) as database:
        ledger = counts(database)
        for round_number in range(1, 4):
            ledger.add("a", 1)
            ledger.add(f"only in {round_number}", 5)
            way.lose("INSERT INTO reputations", carried_out=carried_out)
            if attempts_max == 1:
                with pytest.raises(DatabaseUnavailableError):
                    await ledger.flush()
            else:
                await ledger.flush()
            ledger.add("a", 10)
        await ledger.flush()
        assert way.lost == 3
        assert await stored(database) == {"a": 33, "only in 1": 5, "only in 2": 5, "only in 3": 5}


async def test_many_entries_are_written_in_parts(postgres_url: str) -> None:
    sizes: list[int] = []

    def measured(connection: Connection[Any], changes: Mapping[str, int]) -> None:
        sizes.append(len(changes))
        write(connection, changes)

    with Database(postgres_url) as database:
        ledger = WriteBehind[str, int]("counts", database, write=measured, merge=add)
        for number in range(2 * PART_MAX + 7):
            ledger.add(f"{number:05}", 1)
        await ledger.flush()
        assert sizes == [PART_MAX, PART_MAX, 7]
        assert len(await stored(database)) == 2 * PART_MAX + 7


async def test_of_many_entries_those_refused_are_found_though_the_database_goes_away_meanwhile(
    postgres_url: str,
) -> None:
    with lossy_way(postgres_url) as way, Database(way.url, attempts_max=1) as database:
        ledger = counts(database)
        for number in range(20):
            ledger.add(f"{number:02}", 2**70 if number in (3, 11) else 1)
        for _ in range(3):
            way.lose("INSERT INTO reputations")
            with pytest.raises(DatabaseUnavailableError):
                await ledger.flush()
            ledger.add("00", 1)
        await ledger.flush()
        expected = {f"{number:02}": 1 for number in range(20) if number not in (3, 11)} | {"00": 4}
        assert await stored(database) == expected
        assert (len(ledger), ledger.dropped) == (0, 2)


async def test_a_ledger_that_runs_writes_by_itself_and_again_after_an_outage(postgres_url: str) -> None:
    with Database(postgres_url, attempts_max=1) as database:
        ledger = counts(database, flush_s=0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.run)
            ledger.add("a", 1)
            await until_stored(database, {"a": 1})
            with out_of_order(postgres_url):
                ledger.add("a", 1)
                await trio.sleep(0.1)  # a write or two fail; the ledger goes on
                ledger.add("b", 1)
            with trio.fail_after(WAIT_S):
                while len(ledger):
                    await trio.sleep(0.02)
            assert await stored(database) == {"a": 2, "b": 1}
            nursery.cancel_scope.cancel()


async def test_a_flush_by_another_task_does_not_stop_a_ledger_that_runs(postgres_url: str) -> None:
    """The ledger waits for the next change while somebody else flushes what there is, or nothing."""
    with Database(postgres_url) as database:
        ledger = counts(database, flush_s=0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.run)
            for count in (1, 2):
                await trio.testing.wait_all_tasks_blocked(0.05)
                await ledger.flush()
                ledger.add("a", 1)
                await until_stored(database, {"a": count})
            nursery.cancel_scope.cancel()


async def test_what_is_left_is_written_when_a_ledger_is_cancelled(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        ledger = counts(database, flush_s=3_600.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.run)
            await trio.testing.wait_all_tasks_blocked()
            ledger.add("a", 4)
            nursery.cancel_scope.cancel()
        assert await stored(database) == {"a": 4}


async def test_a_cancelled_ledger_ends_though_the_database_is_away(postgres_url: str) -> None:
    with Database(postgres_url, attempts_max=1) as database:
        ledger = counts(database, flush_s=3_600.0)
        with trio.fail_after(WAIT_S), out_of_order(postgres_url):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ledger.run)
                await trio.testing.wait_all_tasks_blocked()
                ledger.add("a", 4)
                nursery.cancel_scope.cancel()
        assert len(ledger) == 1


async def test_a_flush_that_is_cancelled_before_it_began_loses_nothing(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        ledger = counts(database)
        ledger.add("a", 4)
        with trio.CancelScope() as scope:
            scope.cancel()
            await ledger.flush()
        assert len(ledger) == 1
        await ledger.flush()
        assert await stored(database) == {"a": 4}


async def test_past_the_bound_new_keys_are_dropped_and_known_ones_go_on(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        ledger = counts(database, entries_max=2)
        for key in ("a", "b", "c", "a", "d"):
            ledger.add(key, 1)
        assert (len(ledger), ledger.dropped) == (2, 2)
        await ledger.flush()
        ledger.add("c", 1)
        await ledger.flush()
        assert await stored(database) == {"a": 2, "b": 1, "c": 1}


async def test_a_discarded_change_is_not_written(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        ledger = counts(database)
        ledger.add("a", 1)
        ledger.add("b", 1)
        ledger.discard("a")
        ledger.discard("never there")
        await ledger.flush()
        assert await stored(database) == {"b": 1}


async def test_an_entry_that_the_database_refuses_takes_no_other_along(postgres_url: str) -> None:
    with Database(postgres_url) as database:
        ledger = counts(database)
        ledger.add("a", 1)
        ledger.add("b", 2**70)  # out of the column's range
        ledger.add("c", 2)
        await ledger.flush()
        assert await stored(database) == {"a": 1, "c": 2}
        assert len(ledger) == 0
