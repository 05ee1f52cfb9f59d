"""Sources that fail, are changed, disabled and deleted while they are read; and the states that are shown."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import structlog
import trio

from agents.timestamps import epoch_ms
from node.runtime.supervisor import RestartPolicy
from node.sources import SourceConnector, SourceFault, SourceIntake, manager
from node.sources import settings as source_settings
from node.sources.settings import SourceSettings
from node.sources.status import ENDPOINTS_MAX, ERROR_CHARS_MAX, EndpointStatuses, SourceStatus
from node.worker.parsing.bodies import RawEvent
from storage import sources
from tests.node.running import Running, running


class ScriptSettings(SourceSettings):
    number: int = 0


@attrs.define
class Script:
    """A connector that does in each run what the test has set for it; then it reads until it is stopped."""

    steps: list[Callable[[SourceIntake], Awaitable[None]]] = attrs.field(factory=list)
    runs: list[SourceIntake] = attrs.field(factory=list)
    reading: int = 0

    async def run(self, intake: SourceIntake) -> None:
        self.runs.append(intake)
        if self.steps:
            await self.steps.pop(0)(intake)
            return
        intake.connected("connected")
        self.reading += 1
        try:
            await trio.sleep_forever()
        finally:
            self.reading -= 1


def failing(error: Exception, *, connected: bool = False) -> Callable[[SourceIntake], Awaitable[None]]:
    async def step(intake: SourceIntake) -> None:
        if connected:
            intake.connected()
        raise error

    return step


@pytest.fixture
def script() -> Script:
    return Script()


@asynccontextmanager
async def reading(
    url: str, script: Script, monkeypatch: pytest.MonkeyPatch, pauses: RestartPolicy | None = None
) -> AsyncIterator[Running]:
    monkeypatch.setitem(source_settings.SETTINGS, "mqtt", ScriptSettings)
    connectors = {"mqtt": SourceConnector(run=script.run)}
    async with running(url, connectors=connectors, pauses=pauses) as node:
        yield node


@pytest.fixture
async def node(postgres_url: str, script: Script, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    async with reading(postgres_url, script, monkeypatch) as started:
        yield started


async def state(node: Running, source_id: str = "s1") -> dict[str, Any] | None:
    found: dict[str, Any] | None = (await node.client.get(f"/overlay/sources/{source_id}")).json()["state"]
    return found


async def until_state(node: Running, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    with trio.fail_after(20):
        while True:
            shown = await state(node)
            if shown is not None and condition(shown):
                return shown
            await trio.sleep(0.01)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.01)


async def add(node: Running, source_id: str = "s1", number: int = 0) -> None:
    made = await node.source(source_id, sourceType="mqtt", configuration={"number": number})
    assert made.status_code == 201, made.text


async def change(node: Running, **members: Any) -> dict[str, Any]:
    answer = await node.client.patch("/overlay/sources/s1", json=members)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_pauses_grow_while_a_source_fails_and_begin_anew_once_it_was_connected(
    postgres_url: str, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = SourceFault("the broker is away")
    script.steps = [failing(away), failing(away), failing(away), failing(away, connected=True), failing(away)]
    pauses = RestartPolicy(delay_s_first=0.01, delay_s_max=0.03, jitter=0.0)
    with structlog.testing.capture_logs() as logs:
        async with reading(postgres_url, script, monkeypatch, pauses) as node:
            await add(node)
            await until(lambda: script.reading == 1)
            shown = await until_state(node, lambda shown: shown["status"] == "running")
            assert (shown["errors"], shown["retryAt"], shown["lastError"]) == (5, None, "the broker is away")
    paused = [entry["delay_s"] for entry in logs if entry["event"] == "source.failing"]
    assert paused == [0.01, 0.02, 0.03, 0.01, 0.02]


@pytest.mark.parametrize(("requested", "least_s", "most_s"), [(30, 29, 31), (10**9, 3_599, 3_601), ("soon", 0, 2)])
async def test_a_source_may_ask_for_a_longer_pause_within_bounds(
    node: Running, script: Script, requested: Any, least_s: float, most_s: float
) -> None:
    script.steps = [failing(SourceFault("later", retryAfter=requested))] * 50
    await add(node)
    shown = await until_state(node, lambda shown: shown["status"] == "failing")
    retry_ms, error_ms = (_milliseconds(shown[name]) for name in ("retryAt", "lastErrorAt"))
    assert 1_000 * least_s <= retry_ms - error_ms <= 1_000 * most_s


def _milliseconds(text: str) -> int:
    found = epoch_ms(text)
    assert found is not None
    return found


async def test_a_change_does_not_wait_for_the_pause_of_the_source_before_it(node: Running, script: Script) -> None:
    script.steps = [failing(SourceFault("later", retryAfter=3_600))]
    await add(node)
    await until_state(node, lambda shown: shown["status"] == "failing")
    changed = await change(node, configuration={"number": 7})
    assert (changed["state"]["lastError"], changed["state"]["status"]) == (None, "starting")
    await until(lambda: script.reading == 1)
    assert script.runs[-1].settings == ScriptSettings.model_validate({"number": 7})
    shown = await until_state(node, lambda shown: shown["status"] == "running")
    assert (shown["errors"], shown["lastError"]) == (0, None), "the state of the source before is gone"


async def test_a_source_is_disabled_in_the_middle_of_its_pause(node: Running, script: Script) -> None:
    script.steps = [failing(SourceFault("later", retryAfter=3_600))]
    await add(node)
    await until_state(node, lambda shown: shown["status"] == "failing")
    await change(node, enabled=False)
    with trio.fail_after(20):
        while await state(node) is not None:
            await trio.sleep(0.01)
    await change(node, enabled=True)
    await until(lambda: script.reading == 1)


async def test_a_source_that_is_deleted_while_it_reads_keeps_what_it_submitted(node: Running, script: Script) -> None:
    submitted, stopped = trio.Event(), trio.Event()

    async def step(intake: SourceIntake) -> None:
        intake.connected()
        events = [RawEvent(data=b"%d" % number, event_type="n", external_id=f"e{number}") for number in range(20)]
        await intake.take(events, position={"at": 20})
        submitted.set()
        try:
            await trio.sleep_forever()
        finally:
            stopped.set()

    script.steps = [step]
    await add(node)
    with trio.fail_after(20):
        await submitted.wait()
        assert (await node.client.delete("/overlay/sources/s1")).status_code == 204
        await stopped.wait()
    assert (await node.client.get("/overlay/sources/s1")).status_code == 404
    count = "SELECT count(*) FROM event_index"
    assert await node.database.run(lambda connection: connection.execute(count.encode()).fetchone()) == (20,)
    await add(node)
    await until(lambda: script.reading == 1)
    assert script.runs[-1].position is None, "what comes back under an id begins anew"
    again = [RawEvent(data=b"0", event_type="n", external_id="e0")]
    assert (await script.runs[-1].take(again)).duplicates == 1


async def test_a_source_that_has_ended_is_read_again_only_when_it_is_changed(node: Running, script: Script) -> None:
    async def step(intake: SourceIntake) -> None:
        intake.connected()

    script.steps = [step]
    await add(node)
    await until_state(node, lambda shown: shown["status"] == "ended")
    await change(node, name="another name")
    await add(node, "s2")
    await until(lambda: script.reading == 1)
    assert [intake.source_id for intake in script.runs] == ["s1", "s2"]
    await change(node, configuration={"number": 1})
    await until(lambda: script.reading == 2)
    assert [intake.source_id for intake in script.runs] == ["s1", "s2", "s1"]


async def test_progress_that_is_deleted_starts_a_source_that_is_paused(node: Running, script: Script) -> None:
    async def step(intake: SourceIntake) -> None:
        await intake.take([], position={"at": 5})
        raise SourceFault("later", retryAfter=3_600)

    script.steps = [step]
    await add(node)
    await until_state(node, lambda shown: shown["status"] == "failing")
    assert (await node.client.delete("/overlay/sources/s1/progress")).status_code == 204
    await until(lambda: script.reading == 1)
    assert script.runs[-1].position is None
    shown = await until_state(node, lambda shown: shown["status"] == "running")
    assert shown["lastError"] is None


async def test_a_row_that_another_process_changed_is_followed(
    postgres_url: str, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "READ_S", 0.05)
    async with reading(postgres_url, script, monkeypatch) as node:
        await add(node)
        await until(lambda: script.reading == 1)
        update = partial(sources.update, source_id="s1", values={"configuration": {"number": 3}})
        await node.database.run(update)
        await until(lambda: len(script.runs) == 2 and script.reading == 1)
        assert script.runs[-1].settings == ScriptSettings.model_validate({"number": 3})


async def test_a_stored_configuration_that_is_no_longer_valid_is_shown_with_the_source(
    node: Running, script: Script
) -> None:
    """As after an upgrade that narrowed a setting."""
    await add(node)
    await until(lambda: script.reading == 1)
    update = partial(sources.update, source_id="s1", values={"configuration": {"number": "seven"}})
    await node.database.run(update)
    await change(node, name="looked at")
    shown = await until_state(node, lambda shown: shown["status"] == "failing")
    assert "/configuration/number" in shown["lastError"]
    assert len(script.runs) == 1


async def test_the_status_of_a_source_that_reads_counts_what_it_submits(node: Running, script: Script) -> None:
    await add(node)
    await until(lambda: script.reading == 1)
    intake = script.runs[0]
    events = [
        RawEvent(data=data, event_type="n", external_id=f"e{at}") for at, data in enumerate((b"1", b"2", b"no"))
    ]
    counts = await intake.take(events)
    assert (counts.accepted, counts.duplicates, counts.rejected) == (2, 0, 1)
    await intake.take(events[:1])
    intake.report_lag(9)
    shown = await until_state(node, lambda shown: shown["lag"] == 9)
    figures = {name: shown[name] for name in ("received", "accepted", "duplicates", "rejected", "errors")}
    assert figures == {"received": 4, "accepted": 2, "duplicates": 1, "rejected": 1, "errors": 0}
    assert shown["lastEventAt"] is not None


def test_an_error_that_is_shown_is_bounded() -> None:
    status = SourceStatus()
    status.fail("x" * 10_000)
    assert status.document().last_error == "x" * ERROR_CHARS_MAX
    status.clear_error()
    shown = status.document()
    assert (shown.last_error, shown.last_error_at, shown.errors) == (None, None, 1)


def test_a_status_changes_its_time_only_with_its_state() -> None:
    status = SourceStatus()
    status.enter("running", "one")
    status.since_ms = 1
    status.enter("running", "one")
    assert status.since_ms == 1
    status.enter("running", "two")
    assert status.since_ms > 1


def test_the_endpoints_that_delivered_last_are_remembered() -> None:
    endpoints = EndpointStatuses()
    for number in range(ENDPOINTS_MAX):
        endpoints.get(f"s{number}").count(1, {"accepted": 1, "duplicates": 0, "rejected": 0})
    endpoints.get("s0")
    endpoints.get("one more")
    assert len(endpoints.states()) == ENDPOINTS_MAX
    assert endpoints.state("s0").accepted == 1, "it delivered since the others"
    assert endpoints.state("s1").accepted == 0, "the one that was silent for longest is forgotten"
    assert endpoints.state("s1").status == "listening"
    endpoints.get("s0").fail("refused")
    endpoints.changed("s0")
    endpoints.changed("unknown")
    assert endpoints.state("s0").last_error is None
    endpoints.forget("s0")
    assert "s0" not in endpoints.states()
