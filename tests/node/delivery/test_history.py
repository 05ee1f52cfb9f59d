"""Events, batches and figures as they are read from the database, in every state that a batch can be in."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest

from node.delivery import history
from node.delivery.history import (
    EventDeadError,
    NotCertifiedError,
    UnknownBatchError,
    UnknownEventError,
    validation_rules,
)
from protocols.canonical import canonical_json
from protocols.messages import Level
from protocols.verification import verify_document
from storage import batches
from tests.node.certified_batches import NETWORK
from tests.node.operator_packages import install, rule_policy
from tests.node.running import Running, running

T = TypeVar("T")


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        await started.source(overlayTopics=["t.one"], validationRules={"bounds": [{"field": "v", "max": 10}]})
        yield started


async def ingest(node: Running, *values: int, source: str = "s1", prefix: str = "e") -> list[str]:
    """Ingest a batch. Returns the ids of its events."""
    events = [
        {"externalId": f"{prefix}{index}", "eventType": "reading", "data": {"v": value}}
        for index, value in enumerate(values)
    ]
    answer = (await node.post(*events, source=source)).json()
    return [event["eventId"] for event in answer["processedEvents"]]


def last_batch(node: Running) -> str:
    return node.recorder.told[-1].manifest.message.batch_id


async def read(node: Running, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    return await node.database.run(lambda connection: function(connection, *arguments, **options))


async def page(node: Running, **options: Any) -> dict[str, Any]:
    defaults = {"status": "any", "source_id": None, "external_id": None, "after": "", "limit": 100}
    return await read(node, partial(history.page, **{**defaults, **options}))


# --- pages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 7])
async def test_pages_follow_one_another_without_gap_and_repeat(node: Running, limit: int) -> None:
    """Pages that end with the last event included."""
    ids = await ingest(node, 1, 2, 3, 4, 5, 6)
    await node.seal(node.recorder.told[-1].manifest)
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        got = await page(node, after=after, limit=limit)
        assert len(got["events"]) <= limit
        found += [event["eventId"] for event in got["events"]]
        after = got["nextAfter"]
    assert found == sorted(ids)


async def test_pages_are_narrowed_by_source_external_id_and_status(node: Running) -> None:
    await node.source("s2")
    first, second = await ingest(node, 1, 99), await ingest(node, 1, source="s2", prefix="x")
    for told in list(node.recorder.told):
        await node.seal(told.manifest)

    async def ids(**options: Any) -> set[str]:
        return {event["eventId"] for event in (await page(node, **options))["events"]}

    assert await ids() == {*first, *second}
    assert await ids(source_id="s2") == set(second)
    assert await ids(external_id="e1") == {first[1]}
    assert await ids(external_id="e1", source_id="s2") == set()
    assert await ids(status="certified", source_id="s1") == set(first)
    assert await ids(status="pending") == set()
    assert await ids(source_id="nobody") == set()


# --- events --------------------------------------------------------------------------------------------------------


async def test_an_event_that_waits_has_a_receipt_and_no_certificate(node: Running) -> None:
    [event_id] = await ingest(node, 1)
    document = await read(node, history.certification, event_id, network=NETWORK)
    assert document["certification"]["certificates"] == []
    assert document["certification"]["processingEvidence"] == []
    assert document["overlayDistribution"]["topics"] == ["t.one"]
    assert document["overlayDistribution"]["networkLatency"] is None
    with pytest.raises(NotCertifiedError) as waiting:
        await read(node, history.certificate_document, event_id, network=NETWORK)
    assert waiting.value.fields == {"batchId": last_batch(node), "retryAfter": 1}


async def test_a_certificate_proves_each_event_of_its_batch(node: Running) -> None:
    ids = await ingest(node, 1, 99, 3)
    await node.seal(node.recorder.told[-1].manifest)
    for event_id in ids:
        document = await read(node, history.certificate_document, event_id, network=NETWORK)
        assert verify_document(orjson.dumps(document), network=NETWORK).ok
        assert document["event"]["eventId"] == event_id


async def test_certification_lists_agents_and_the_rules_that_were_checked(node: Running) -> None:
    [event_id] = await ingest(node, 1)
    await node.seal(node.recorder.told[-1].manifest, Level.ENHANCED)
    found = (await read(node, history.certification, event_id, network=NETWORK))["certification"]
    assert found["level"] == "enhanced"
    assert len({each["agentId"] for each in found["certificates"]}) == 2
    assert {each["certificationType"] for each in found["certificates"]} == {"integrity"}
    by_step = {each["step"]: each for each in found["processingEvidence"]}
    assert by_step["validation"]["validationRules"] == ["bounds"]
    assert by_step["validation"]["validationResult"] == "passed"
    assert all("validationRules" not in each for step, each in by_step.items() if step != "validation")


async def test_a_dead_event_says_why(node: Running) -> None:
    [event_id] = await ingest(node, 1)
    reasons = ["no agent answered", "the attempt ran out of time"]
    await read(node, batches.mark_dead, last_batch(node), reasons)
    with pytest.raises(EventDeadError, match="no agent answered; the attempt ran out of time") as dead:
        await read(node, history.certificate_document, event_id, network=NETWORK)
    assert dead.value.fields == {"batchId": last_batch(node)}
    document = await read(node, history.batch_document, last_batch(node), network=NETWORK)
    assert (document["state"], document["reasons"]) == ("dead", reasons)


@pytest.mark.parametrize("event_id", ["", "event_00", "e" * 10_000, "\u0661"])
async def test_unknown_events_are_named_in_bounded_words(node: Running, event_id: str) -> None:
    for function in (history.event_document_of, partial(history.certification, network=NETWORK)):
        with pytest.raises(UnknownEventError) as unknown:
            await read(node, function, event_id)
        assert len(str(unknown.value)) < 200
    with pytest.raises(UnknownEventError):
        await read(node, history.versions_document, event_id, limit=5)


async def test_versions_are_limited_from_the_latest_on(node: Running) -> None:
    for value in (1, 2, 3):
        [event_id] = await ingest(node, value)
        await node.seal(node.recorder.told[-1].manifest)
    for limit, expected in ((1, [3]), (2, [3, 2]), (3, [3, 2, 1]), (9, [3, 2, 1])):
        document = await read(node, history.versions_document, event_id, limit=limit)
        assert [each["version"] for each in document["versions"]] == expected
    assert {each["status"] for each in document["versions"]} == {"certified"}
    hashes = {each["recordHash"]: each for each in document["versions"]}
    assert [each["previousRecordHash"] in hashes for each in document["versions"]] == [True, True, False]


# --- batches -------------------------------------------------------------------------------------------------------


async def test_a_batch_from_its_receipt_to_its_certificate(node: Running) -> None:
    await ingest(node, 1, 2)
    waiting = await read(node, history.batch_document, last_batch(node), network=NETWORK)
    assert waiting["state"] == "pending"
    assert waiting["roots"]["output"] is None
    assert waiting["agents"] == waiting["evidence"] == waiting["dissent"] == []
    assert waiting["objects"]["certificate"] is None
    assert waiting["receipt"] is not None
    assert [(job["jobType"], job["status"]) for job in waiting["overlayJobs"]] == [("normalize", "queued")]
    await node.seal(node.recorder.told[-1].manifest)
    done = await read(node, history.batch_document, last_batch(node), network=NETWORK)
    assert (done["state"], done["counts"]) == ("certified", {"events": 2, "valid": 2, "invalid": 0})
    assert done["roots"]["input"] == waiting["roots"]["input"]
    assert done["roots"]["output"] is not None
    assert len(done["agents"]) == 2
    assert {each["step"] for each in done["evidence"]} == {"normalization", "validation"}
    assert done["objects"]["certificate"].startswith("XU")


async def test_unknown_batches_are_named_in_bounded_words(node: Running) -> None:
    with pytest.raises(UnknownBatchError) as unknown:
        await read(node, history.batch_document, "b" * 10_000, network=NETWORK)
    assert len(str(unknown.value)) < 200


async def test_pages_of_sealed_batches_are_in_the_order_of_their_seal(node: Running) -> None:
    for number in range(4):
        await ingest(node, number, prefix=f"p{number}")
    for told in reversed(node.recorder.told):
        await node.seal(told.manifest)
    whole = await read(node, history.sealed_since, sequence=0, limit=10)
    assert [each.sequence for each in whole] == [1, 2, 3, 4]
    assert [each.certificate.statement.batch_id for each in whole] == [
        told.manifest.message.batch_id for told in reversed(node.recorder.told)
    ]
    assert [each.sequence for each in await read(node, history.sealed_since, sequence=1, limit=2)] == [2, 3]
    assert await read(node, history.sealed_since, sequence=4, limit=2) == []


async def test_figures_count_events_by_what_became_of_them(node: Running) -> None:
    await ingest(node, 1, 2)
    await node.seal(node.recorder.told[-1].manifest)
    await ingest(node, 3, prefix="waits")
    await ingest(node, 4, 5, 6, prefix="dies")
    await read(node, batches.mark_dead, last_batch(node), ["no agent answered"])
    found = await read(node, history.node_stats)
    counts = {name: found[name] for name in ("acknowledged", "certified", "invalid", "pending", "dead", "batches")}
    assert counts == {"acknowledged": 6, "certified": 2, "invalid": 0, "pending": 1, "dead": 3, "batches": 3}
    assert found["dissent"] == 0
    assert {each["role"] for each in found["agents"]} == {"normalize", "validate"}


# --- policies ------------------------------------------------------------------------------------------------------


def test_the_kinds_of_rules_of_a_policy() -> None:
    assert validation_rules(canonical_json({})) == []
    document = {
        "bounds": [{"field": "v", "max": 1}],
        "required": ["v"],
        "rules": [{"name": "r", "check": "data.v > 0"}],
    }
    assert set(validation_rules(canonical_json(document))) == {"bounds", "required", "rule"}


def test_rules_are_listed_though_a_function_they_name_is_not_installed(tmp_path: Path) -> None:
    """An event keeps its history when the package that checked it is removed."""
    entry = install(tmp_path, "gone_checks", "def f(value):\n    return True\n")
    assert validation_rules(rule_policy(entry)) == ["rule"]
