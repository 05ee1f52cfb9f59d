"""The fence: what it keeps in, what it lets through, and what it counts."""

import pytest
import trio
from structlog.testing import capture_logs

from node.runtime.containment import KINDS, LOGGED, ORIGINS_MAX, SAMPLE_BYTES, Failure, Quarantine
from protocols.errors import ClientFault, WorldFault


def fail(quarantine: Quarantine, origin: str = "a", *, kind: str = "frame", sample: bytes = b"") -> list[Failure]:
    found: list[Failure] = []
    with quarantine.contain(kind, origin, sample, found.append):
        raise KeyError("x")
    return found


def counted(quarantine: Quarantine) -> dict[str, int]:
    assert set(KINDS) <= quarantine.counts.keys(), "a series exists from the start"
    return {kind: count for kind, count in quarantine.counts.items() if count}


@pytest.mark.parametrize(
    "error", [KeyError("a"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), RecursionError(), AssertionError("b")]
)
def test_a_bug_stays_with_the_item_that_reached_it(error: Exception) -> None:
    seen: list[Failure] = []
    quarantine = Quarantine(seen.append)
    with capture_logs() as logs, quarantine.contain("record", "farm-1", b"\0" * 200, seen.append):
        raise error
    assert [failure.error for failure in seen] == [type(error).__name__] * 2
    assert counted(quarantine) == {"record": 1}
    (line,) = logs
    assert (line["event"], line["kind"], line["origin"]) == ("item.quarantined", "record", "farm-1")
    assert line["sample"] == "00" * SAMPLE_BYTES
    assert line["exc_info"] is error


@pytest.mark.parametrize("error", [ClientFault("c"), WorldFault("w")])
def test_expected_faults_pass_to_whoever_answers_them(error: Exception) -> None:
    quarantine = Quarantine()
    with pytest.raises(type(error)), quarantine.contain("frame", "a", b""):
        raise error
    assert counted(quarantine) == {}


async def test_cancellation_passes() -> None:
    quarantine = Quarantine()
    with trio.move_on_after(0) as scope, quarantine.contain("frame", "a", b""):
        await trio.sleep(1)
    assert scope.cancelled_caught
    assert counted(quarantine) == {}


async def test_a_failure_while_the_block_is_cancelled_is_kept_and_the_cancellation_passes() -> None:
    quarantine = Quarantine()

    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("a bug")

    with trio.move_on_after(0) as scope, quarantine.contain("connection", "a", b""):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(fail_when_cancelled)
    assert scope.cancelled_caught
    assert counted(quarantine) == {"connection": 1}


async def test_a_group_of_bugs_of_one_item_is_one_failure() -> None:
    quarantine = Quarantine()

    async def crash() -> None:
        raise ValueError("inside a task")

    with quarantine.contain("connection", "192.0.2.1", b"GET /"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash)
            nursery.start_soon(trio.sleep_forever)
    assert counted(quarantine) == {"connection": 1}


def test_two_in_a_row_close_an_origin_and_a_good_item_between_does_not() -> None:
    quarantine = Quarantine()
    assert [fail(quarantine)[0].closes_origin for _ in range(2)] == [False, True]
    assert not fail(quarantine, "b")[0].closes_origin
    with quarantine.contain("frame", "b", b""):
        pass
    assert not fail(quarantine, "b")[0].closes_origin
    assert not fail(quarantine, "b", kind="gossip")[0].closes_origin


def test_a_flood_of_bad_items_does_not_flood_the_log() -> None:
    quarantine = Quarantine()
    with capture_logs() as logs:
        for _ in range(200):
            fail(quarantine)
        fail(quarantine, kind="gossip")
    assert counted(quarantine) == {"frame": 200, "gossip": 1}
    assert LOGGED.burst <= sum(line["kind"] == "frame" for line in logs) < 2 * LOGGED.burst
    assert sum(line["kind"] == "gossip" for line in logs) == 1


def test_origins_are_bounded() -> None:
    quarantine = Quarantine()
    fail(quarantine, "first")
    for number in range(ORIGINS_MAX):
        fail(quarantine, str(number))
    assert not fail(quarantine, "first")[0].closes_origin, "it was forgotten, the oldest first"
    assert counted(quarantine) == {"frame": ORIGINS_MAX + 2}
