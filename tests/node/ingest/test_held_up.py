"""Commits that the database holds up or refuses: what their clients are answered, and what becomes of the events."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import trio

from node.ingest.pipeline import RequestFailedError
from node.worker.parsing.admission import Admitted
from node.worker.parsing.bodies import RawEvent
from storage.disk import DiskReserve
from storage.embedded import EmbeddedPostgres
from storage.errors import StatementError, StorageRefusedError
from tests.node.running import Running, running
from tests.outage import set_read_only
from tests.storage.test_database_faults import frozen

PATIENCE_S = 8.0  # on a busy machine; without a watch, a request waits for a minute


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        assert (await started.source()).status_code == 201
        assert (await post(started, "before")).status_code == 202
        yield started


async def post(node: Running, name: str) -> httpx.Response:
    return await node.post({"externalId": name, "eventType": "reading", "data": {"v": 1}})


async def refused(node: Running, name: str) -> dict[str, object]:
    with trio.fail_after(PATIENCE_S):
        answer = await post(node, name)
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0
    problem: dict[str, object] = answer.json()
    assert problem["type"] == "urn:overlay:problem:database-unavailable"
    return problem


async def until_taken(node: Running, *names: str) -> None:
    """Every event once, whether the commit that was held up took it or its repeat."""
    with trio.fail_after(60):
        for name in names:
            while (answer := await post(node, name)).status_code == 503:
                await trio.sleep(0.1)
            assert answer.status_code == 202, answer.text
    assert not node.ingest.trouble
    digests = await node.database.run(
        lambda connection: connection.execute("SELECT event_digest FROM event_index").fetchall()
    )
    assert len(digests) == len(set(digests)) == 1 + len(names)
    assert node.ingest.admission.backlog.unsettled == len(digests)
    assert sum(each.manifest.message.events for each in node.recorder.told) == len(digests), "given to the driver"


async def test_a_locked_table_holds_nobody_up(node: Running, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE batches")
        assert (await refused(node, "first"))["cause"] == "locked"
        assert node.ingest.trouble
        with trio.fail_after(1):
            assert (await post(node, "second")).status_code == 503, "what comes while it lasts is refused at once"
        other.rollback()
    await until_taken(node, "first", "second")


async def test_a_frozen_server_holds_nobody_up(node: Running, postgres: EmbeddedPostgres) -> None:
    with frozen(postgres):
        assert (await refused(node, "first"))["cause"] == "slow"
        await refused(node, "second")
    await until_taken(node, "first", "second")


async def test_a_read_only_database_is_named_and_left_when_it_can_be_written(
    node: Running, postgres_url: str
) -> None:
    set_read_only(postgres_url, "on")
    assert (await refused(node, "first"))["cause"] == "read-only"
    assert (await node.client.get("/overlay/events")).status_code == 200, "reads go on"
    set_read_only(postgres_url, "off")
    await until_taken(node, "first")


async def test_events_are_refused_before_the_disk_is_full(
    node: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = DiskReserve(tmp_path, reserved_bytes=2**60)
    reserve.look()
    monkeypatch.setattr(node.database, "reserve", reserve)
    problem = await refused(node, "first")
    assert (problem["cause"], problem["remedy"]) == (
        "disk-low",
        "free some space on that disk; the request can be repeated",
    )
    assert (await node.client.get("/overlay/sources/s1")).status_code == 200, "reads go on"
    monkeypatch.setattr(node.database, "reserve", DiskReserve(None))
    await until_taken(node, "first")


async def test_a_commit_that_is_slow_alone_is_waited_for(node: Running, postgres_url: str) -> None:
    """The database answers beside it: the machine is busy, and nothing is wrong with the database."""
    with lingering_inserts(postgres_url):
        assert (await post(node, "slow")).status_code == 202


@contextmanager
def lingering_inserts(postgres_url: str) -> Iterator[None]:
    """Commits that take seconds, and wait for nothing."""
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute(
            """CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS
               'BEGIN PERFORM pg_sleep(2.5); RETURN NEW; END'"""
        )
        other.execute("CREATE TRIGGER linger BEFORE INSERT ON batches FOR EACH ROW EXECUTE FUNCTION linger()")
        try:
            yield
        finally:
            other.execute("DROP FUNCTION linger CASCADE")


async def test_another_session_that_waits_for_a_lock_is_no_commit_that_is_held_up(
    node: Running, postgres_url: str
) -> None:
    """Fails where any session counts: a retention that waited for a table refused everybody's slow commits."""
    with psycopg.connect(postgres_url) as holder, lingering_inserts(postgres_url):
        holder.execute("LOCK TABLE event_versions")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_wait_for_table, node)
            await until_waiting(holder)
            assert (await post(node, "slow")).status_code == 202
            holder.rollback()


async def _wait_for_table(node: Running) -> None:
    await node.database.run(lambda connection: connection.execute("SELECT FROM event_versions").rowcount)


async def until_waiting(watching: psycopg.Connection) -> None:
    with trio.fail_after(30):
        while not watching.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
            await trio.sleep(0.02)


async def test_a_request_that_reaches_a_bug_costs_no_others(node: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bug is put in here: none is known."""

    def failing(connection: psycopg.Connection, admitted: Admitted, *others: Any) -> None:
        raise KeyError(admitted.source_id)

    monkeypatch.setattr("node.ingest.group_commit.record_read", failing)
    statuses: list[int] = []

    async def good(number: int) -> None:
        statuses.append((await post(node, f"good-{number}")).status_code)

    async def bad(number: int) -> None:
        with pytest.raises(RequestFailedError, match="KeyError") as caught:
            await node.ingest.submit_read("s1", [RawEvent(data=b"1", event_type="reading")], {})
        assert caught.value.__context__ is None, "the errors of other requests are none of its own"

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(good, number)
            nursery.start_soon(bad, number)
    assert statuses == [202] * 6
    assert node.ingest.admission.backlog.unsettled == 7


async def test_a_wrong_statement_refuses_every_request_and_is_shown(
    node: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is acknowledged and nothing lost; no client can end the node by way of a statement of ours."""

    def wrong(connection: psycopg.Connection, rows: object) -> None:
        connection.execute("INSERT INTO batches VALUES (1, 2) ON CONFLICT (no_such_column) DO NOTHING, 3")

    with monkeypatch.context() as broken:
        broken.setattr("storage.batches.insert_ingested", wrong)
        with trio.fail_after(60):
            while not isinstance(node.ingest.trouble, StatementError) or await is_ready(node, "statement-wrong"):
                for name in ("first", "second"):
                    answer = await post(node, name)
                    assert answer.status_code in (500, 503), (
                        "503 where the machine is too busy to find it out in time"
                    )
        assert node.quarantine.counts["record"] >= 2
    await until_taken(node, "first", "second")


async def is_ready(node: Running, reason: str) -> bool:
    """Whether nothing keeps the node from being ready for this reason."""
    answer = await node.client.get("/readyz")
    return reason not in [each["code"] for each in answer.json()["reasons"]]


async def test_what_the_database_refuses_of_one_request_does_not_cost_the_others(node: Running) -> None:
    statuses: list[int] = []

    async def good(number: int) -> None:
        statuses.append((await post(node, f"good-{number}")).status_code)

    async def bad(number: int) -> None:
        events = [RawEvent(data=b"1", event_type="reading", external_id=f"bad-{number}")]
        with pytest.raises(StorageRefusedError):
            await node.ingest.submit_read("s1", events, {"position": "\x00"})

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(good, number)
            nursery.start_soon(bad, number)
    assert statuses == [202] * 8
    assert node.ingest.admission.backlog.unsettled == 9, "what was refused is not waited for"
