"""Questions about a node's health are answered in time, whatever its probes do. Time is virtual here."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from node.health.monitor import EVERY_S, HealthMonitor
from node.runtime.clock import UTC_MS
from node.runtime.conditions import Condition, Finding, HealthReport, Probe, Severity
from node.runtime.containment import Quarantine
from protocols.errors import ClientFault, WorldFault

DUE_S = 2.0
Look = Callable[[], Awaitable[Sequence[Finding]]]


def condition(code: str, severity: Severity = Severity.BLOCKING) -> Condition:
    return Condition(code=code, severity=severity, remedy=f"mend {code}")


DISK, WALL, SHY = condition("disk"), condition("wall", Severity.WARNING), condition("shy")


async def nothing() -> Sequence[Finding]:
    return []


def probe(name: str, look: Look, *conditions: Condition) -> Probe:
    return Probe(name=name, conditions=conditions, look=look, silent=conditions[0])


@attrs.define
class Watched:
    monitor: HealthMonitor
    quarantine: Quarantine

    async def report(self) -> HealthReport:
        began_s = trio.current_time()
        report = await self.monitor.report()
        assert trio.current_time() - began_s < DUE_S
        return report

    async def found(self) -> dict[str, str]:
        report = await self.report()
        return {each.finding.condition.code: each.finding.detail for part in report.probes for each in part.findings}


@asynccontextmanager
async def watched(*probes: Probe) -> AsyncIterator[Watched]:
    quarantine = Quarantine()
    monitor = HealthMonitor(quarantine, probes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.run)
        yield Watched(monitor=monitor, quarantine=quarantine)
        nursery.cancel_scope.cancel()


async def test_what_is_found_is_told_with_its_severity(autojump_clock: MockClock) -> None:
    async def both() -> Sequence[Finding]:
        return [DISK.found("it is full"), WALL.found("it is damp")]

    async with watched(probe("house", both, DISK, WALL), probe("shyness", nothing, SHY)) as house:
        report = await house.report()
        assert not report.is_ready
        assert [each.finding.detail for each in report.of(Severity.BLOCKING)] == ["it is full"]
        assert [each.finding.detail for each in report.of(Severity.WARNING)] == ["it is damp"]
        assert [each.is_ready for each in report.probes] == [False, True]
        assert house.monitor.held() == {"disk": True, "wall": True, "shy": False}


async def test_warnings_leave_a_node_ready(autojump_clock: MockClock) -> None:
    async def damp() -> Sequence[Finding]:
        return [WALL.found("it is damp")]

    async with watched(probe("house", damp, DISK, WALL)) as house:
        assert (await house.report()).is_ready


async def test_what_was_never_looked_at_is_not_known_to_be_well() -> None:
    monitor = HealthMonitor(Quarantine(), [probe("house", nothing, DISK)])
    assert monitor.held() == {"disk": True}
    assert not monitor.latest().is_ready


async def _sleep() -> Sequence[Finding]:
    await trio.sleep_forever()
    return []


async def _hang() -> Sequence[Finding]:
    """As a call to the system that does not come back: it cannot be cancelled."""
    with trio.CancelScope(shield=True):
        await trio.sleep(600)
    return []


@pytest.mark.parametrize("look", [_sleep, _hang])
async def test_a_probe_that_hangs_is_told_in_time_and_holds_no_other_up(
    look: Look, autojump_clock: MockClock
) -> None:
    damp = False

    async def wall() -> Sequence[Finding]:
        return [WALL.found("it is damp")] if damp else []

    async with watched(probe("house", look, DISK), probe("wall", wall, WALL)) as house:
        for _ in range(5):
            assert list(await house.found()) == ["disk"]
            await trio.sleep(1)
        damp = True
        assert list(await house.found()) == ["disk", "wall"]
        assert house.monitor.held() == {"disk": True, "wall": True}
        with trio.CancelScope() as scope:  # a question that is given up costs the others nothing
            scope.cancel()
            await house.monitor.report()
        assert list(await house.found()) == ["disk", "wall"]


async def test_a_probe_that_answers_again_is_believed(autojump_clock: MockClock) -> None:
    open_again = trio.Event()

    async def look() -> Sequence[Finding]:
        with trio.CancelScope(shield=True):
            await open_again.wait()
        return []

    async with watched(probe("house", look, DISK)) as house:
        assert list(await house.found()) == ["disk"]
        open_again.set()
        await trio.sleep(EVERY_S)
        assert await house.found() == {}


@pytest.mark.parametrize(
    ("error", "told", "contained"),
    [
        (WorldFault("the database went away"), "the database went away", 0),
        (ClientFault("no such table"), "no such table", 0),
        (KeyError("a bug"), "house: no answer", 1),
        (RecursionError(), "house: no answer", 1),
        (ExceptionGroup("two bugs", [ValueError("a bug"), OSError("and another")]), "house: no answer", 1),
    ],
)
async def test_a_probe_that_fails_ends_nothing(
    error: Exception, told: str, contained: int, autojump_clock: MockClock
) -> None:
    async def fail() -> Sequence[Finding]:
        raise error

    async with watched(probe("house", fail, DISK)) as house:
        assert (await house.found())["disk"].startswith(told)
        assert (house.quarantine.counts.get("probe", 0) > 0) is (contained > 0)


async def test_questions_at_once_share_one_look(autojump_clock: MockClock) -> None:
    looks = 0

    async def look() -> Sequence[Finding]:
        nonlocal looks
        looks += 1
        await trio.sleep(0.5)
        return []

    async with watched(probe("house", look, DISK)) as house:
        await house.report()
        await trio.sleep(1)
        before = looks
        async with trio.open_nursery() as questions:
            for _ in range(500):
                questions.start_soon(house.report)
        assert looks == before + 1


async def test_a_question_is_answered_by_a_look_of_now(autojump_clock: MockClock) -> None:
    full = False

    async def look() -> Sequence[Finding]:
        return [DISK.found("it is full")] if full else []

    async with watched(probe("house", look, DISK)) as house:
        assert await house.found() == {}
        await trio.sleep(0.5)
        full = True
        assert await house.found() == {"disk": "it is full"}


async def test_since_when_is_kept_while_it_lasts(autojump_clock: MockClock) -> None:
    UTC_MS.set(lambda: round(1_000 * trio.current_time()))
    full, text = True, "it is full"

    async def look() -> Sequence[Finding]:
        return [DISK.found(text)] if full else []

    async with watched(probe("house", look, DISK)) as house:

        async def since() -> list[int]:
            return [each.since_ms for each in (await house.report()).of(Severity.BLOCKING)]

        first = await since()
        text = "it is fuller"
        await trio.sleep(10)
        assert await since() == first
        full = False
        await trio.sleep(10)
        assert await since() == []
        full = True
        await trio.sleep(10)
        assert (await since())[0] >= first[0] + 20_000


async def test_probes_can_be_added_while_it_runs(autojump_clock: MockClock) -> None:
    async def look() -> Sequence[Finding]:
        return [SHY.found("it hides")]

    async with watched(probe("house", nothing, DISK)) as house:
        assert await house.found() == {}
        house.monitor.add(probe("shyness", look, SHY))
        assert await house.found() == {"shy": "it hides"}
        with pytest.raises(AssertionError, match="finds what another probe finds"):
            house.monitor.add(probe("another", look, SHY))
