"""The HTTP interface over real sockets: ingest, reads, sources, problems, limits."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
import trio

from node.api.services import ApiSettings
from node.ingest.admission_control import IngestLimits
from node.ingest.terms import IngestPolicy
from protocols.identifiers import event_id, job_id
from protocols.merkle import leaf_hash, root_of_leaves
from protocols.messages import Level
from protocols.roles import Role
from protocols.verification import render, verify_document
from tests.node.certified_batches import NETWORK
from tests.node.running import Running, running, until


def reading(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "externalId": f"e{number}",
        "eventType": "reading",
        "timestamp": "2024-01-15T10:30:00Z",
        "data": {"value": number},
        **changes,
    }


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        await started.source(overlayTopics=["t.default"], trustScore=85)
        yield started


def is_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    document: dict[str, Any] = response.json()
    assert document["type"] == f"urn:overlay:problem:{code}"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert document["remedy"]
    return document


async def test_an_accepted_event_is_answered_as_the_specification_says(node: Running) -> None:
    options = {"requireCertification": True, "distributionTopics": ["b", "a"], "consensusLevel": "critical"}
    response = await node.post(reading(), body={"processingOptions": options})
    assert response.status_code == 202
    answer = response.json()
    (told,) = node.recorder.told
    manifest = told.manifest.message
    assert answer["processedEvents"] == [
        {
            "eventId": event_id(NETWORK, "s1", "e1"),
            "externalId": "e1",
            "status": "ingested",
            "overlayJobs": [
                {
                    "jobId": job_id(Role.NORMALIZE, manifest.batch_id),
                    "jobType": "normalize",
                    "assignedAgent": None,
                    "status": "queued",
                }
            ],
            "overlayDistribution": {
                "topics": ["a", "b"],
                "publishedAt": answer["processedEvents"][0]["overlayDistribution"]["publishedAt"],
                "consensusNodes": 4,
            },
        }
    ]
    assert answer["overlayMetadata"]["sourceVerified"] is False
    assert answer["overlayMetadata"]["identityScore"] is None
    assert 0 <= answer["overlayMetadata"]["processingLatency"] < 10_000
    assert answer["overlayMetadata"]["levelReachable"] is False
    assert answer["overlayMetadata"]["levelShortfall"] == (
        "level critical wants 4 agents of distinct operators where 3 must agree, 2 are known"
    )
    assert answer["counts"] == {"accepted": 1, "duplicates": 0, "rejected": 0, "versions": 0}
    share = {"batchId": manifest.batch_id, "count": 1, "durability": "local", "holders": []}
    assert answer["batches"] == [share]
    assert len(answer["receipts"]) == 1
    assert (manifest.level, manifest.quorum, manifest.topics) == (Level.CRITICAL, 3, ("a", "b"))


async def test_what_is_acknowledged_is_in_the_database_with_its_root(node: Running) -> None:
    await node.post(*[reading(number) for number in range(5)])
    (told,) = node.recorder.told
    manifest = told.manifest.message
    stored = (await node.client.get(f"/overlay/batches/{manifest.batch_id}")).json()
    assert stored["state"] == "pending"
    assert stored["counts"] == {"events": 5, "valid": None, "invalid": None}
    assert stored["roots"]["input"] == manifest.input_root.hex()
    assert stored["overlayJobs"][0]["status"] == "queued"
    event = (await node.client.get(f"/overlay/events/{event_id(NETWORK, 's1', 'e3')}")).json()
    assert (event["status"], event["data"], event["batchId"]) == ("pending", {"value": 3}, manifest.batch_id)
    stats = (await node.client.get("/overlay/stats")).json()
    assert (stats["acknowledged"], stats["pending"]) == (5, 5)


async def test_a_repeat_is_a_duplicate_with_the_same_ids(node: Running) -> None:
    first = (await node.post(reading(1), reading(2))).json()
    again = (await node.post(reading(2), reading(1), reading(1), reading(3))).json()
    assert [entry["status"] for entry in again["processedEvents"]] == [
        "duplicate",
        "duplicate",
        "duplicate",
        "ingested",
    ]
    assert again["processedEvents"][1]["eventId"] == first["processedEvents"][0]["eventId"]
    assert again["processedEvents"][1]["overlayJobs"] == first["processedEvents"][0]["overlayJobs"]
    assert again["counts"] == {"accepted": 1, "duplicates": 3, "rejected": 0, "versions": 0}
    assert sum(told.manifest.message.events for told in node.recorder.told) == 3
    only_repeats = (await node.post(reading(1))).json()
    assert (only_repeats["receipts"], only_repeats["batches"]) == ([], [])


async def test_a_different_body_is_a_new_version_that_names_the_one_before(node: Running) -> None:
    await node.post(reading(1), reading(2))
    old = (await node.client.get(f"/overlay/events/{event_id(NETWORK, 's1', 'e1')}")).json()
    second = (await node.post(reading(1, data={"value": 100}))).json()
    assert second["counts"] == {"accepted": 1, "duplicates": 0, "rejected": 0, "versions": 1}
    new = (await node.client.get(f"/overlay/events/{old['eventId']}")).json()
    assert (new["data"], new["version"], new["previousRecordHash"]) == ({"value": 100}, 2, old["recordHash"])
    for body in (reading(1), reading(1, data={"value": 100})):
        repeat = (await node.post(body)).json()
        assert repeat["counts"]["duplicates"] == 1, "every known version is recognised"


async def test_versions_within_one_request_go_into_batches_of_their_own(node: Running) -> None:
    answer = (await node.post(*[reading(1, data=value) for value in (1, 2, 1, 3)])).json()
    assert answer["counts"] == {"accepted": 3, "duplicates": 1, "rejected": 0, "versions": 2}
    assert [batch["count"] for batch in answer["batches"]] == [1, 1, 1]
    event = (await node.client.get(f"/overlay/events/{answer['processedEvents'][0]['eventId']}")).json()
    assert (event["data"], event["version"]) == (3, 3)


async def test_a_conflict_is_rejected_by_index_where_the_policy_says_so(node: Running) -> None:
    await node.source("strict", mappingPolicy={"onConflict": "reject"})
    await node.post(reading(1), source="strict")
    answer = (await node.post(reading(2), reading(1, data=7), source="strict")).json()
    assert answer["rejected"] == [1]
    entry = answer["processedEvents"][1]
    assert (entry["status"], entry["rejection"]["code"]) == ("rejected", "conflict")
    assert answer["counts"] == {"accepted": 1, "duplicates": 0, "rejected": 1, "versions": 0}


async def test_a_bad_event_is_named_and_the_rest_taken(node: Running) -> None:
    answer = (await node.post(reading(1), {"eventType": 7, "data": 1}, reading(2))).json()
    assert [entry["status"] for entry in answer["processedEvents"]] == ["ingested", "rejected", "ingested"]
    rejection = answer["processedEvents"][1]["rejection"]
    assert (rejection["index"], rejection["field"], rejection["code"]) == (1, "/eventType", "invalid-event")
    assert answer["rejected"] == [1]


async def test_prefer_minimal_leaves_the_lists_out(node: Running) -> None:
    response = await node.post(
        *[reading(number) for number in range(250)], 7, headers={"Prefer": 'respond-async, return="minimal"'}
    )
    answer = response.json()
    assert response.headers["Preference-Applied"] == "return=minimal"
    assert set(answer) == {"ingestionId", "counts", "rejected", "rejections", "batches", "receipts"}
    assert [batch["count"] for batch in answer["batches"]] == [250]
    assert len(answer["receipts"]) == 1
    assert answer["rejected"] == [250]
    full = await node.post(*[reading(number) for number in range(250)])
    assert "Preference-Applied" not in full.headers
    assert len(full.json()["processedEvents"]) == 250


async def test_many_small_requests_share_batches(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        await node.source()
        answers: list[dict[str, Any]] = []
        node.recorder.open = trio.Event()  # the first group waits for the driver while the others gather

        async def send(number: int) -> None:
            answers.append((await node.post(reading(number))).json())

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(send, number)
            await until(lambda: node.ingest.admission.backlog.unsettled == 50)
            node.recorder.open.set()
        assert all(answer["counts"]["accepted"] == 1 for answer in answers)
        assert 2 <= len(node.recorder.told) <= 10
        assert sum(told.manifest.message.events for told in node.recorder.told) == 50
        numbers = [told.manifest.message.source_sequence for told in node.recorder.told]
        assert numbers == list(range(1, len(numbers) + 1))


async def test_without_batch_processing_requests_keep_their_own_batches(postgres_url: str) -> None:
    async with running(postgres_url, policy=IngestPolicy(coalesce=False)) as node:
        await node.source()
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(node.post, reading(number))
        assert [told.manifest.message.events for told in node.recorder.told] == [1] * 10


@pytest.mark.parametrize(("distribute", "topics"), [(True, [["a"], ["b"], ["c"]]), (False, [[], [], []])])
async def test_topics_come_from_request_source_or_settings_unless_nothing_is_distributed(
    postgres_url: str, distribute: bool, topics: list[list[str]]
) -> None:
    async with running(postgres_url, policy=IngestPolicy(topics=("c",), distribute=distribute)) as node:
        await node.source()
        await node.source("named", overlayTopics=["b"])
        answers = [
            await node.post(reading(1), source="named", body={"processingOptions": {"distributionTopics": ["a"]}}),
            await node.post(reading(2), source="named"),
            await node.post(reading(3)),
        ]
        told = [answer.json()["processedEvents"][0]["overlayDistribution"]["topics"] for answer in answers]
        signed = [list(stimulus.manifest.message.topics) for stimulus in node.recorder.told]
    assert told == signed == topics


async def test_the_strictest_level_holds_and_the_threshold_raises_the_quorum(postgres_url: str) -> None:
    async with running(postgres_url, policy=IngestPolicy(level_floor=None, threshold=3)) as node:
        await node.source()
        await node.source("high", mappingPolicy={"certification": {"level": "critical"}})
        await node.post(reading(1))
        await node.post(reading(2), body={"processingOptions": {"consensusLevel": "enhanced"}})
        await node.post(reading(3), source="high", body={"processingOptions": {"consensusLevel": "basic"}})
        terms = [(told.manifest.message.level, told.manifest.message.quorum) for told in node.recorder.told]
        assert terms == [(Level.BASIC, 1), (Level.ENHANCED, 3), (Level.CRITICAL, 3)]


async def test_too_many_unsettled_events_are_refused_until_they_settle(postgres_url: str) -> None:
    async with running(postgres_url, limits=IngestLimits(unsettled_max=10)) as node:
        await node.source()
        assert (await node.post(*[reading(number) for number in range(10)])).status_code == 202
        refused = await node.post(reading(99))
        is_problem(refused, 429, "overloaded")
        assert int(refused.headers["Retry-After"]) >= 1
        node.forget_unsettled()
        assert (await node.post(reading(99))).status_code == 202


async def test_bodies_past_the_bound_in_flight_are_refused_before_they_are_read(postgres_url: str) -> None:
    async with running(postgres_url, limits=IngestLimits(bytes_in_flight_max=1_000)) as node:
        await node.source()
        is_problem(await node.post(reading(1, data="x" * 2_000)), 429, "overloaded")
        assert (await node.post(reading(1))).status_code == 202
        assert node.ingest.admission.bytes_in_flight == 0


async def test_disabled_ingestion_and_sources_are_said_so(postgres_url: str) -> None:
    async with running(postgres_url, limits=IngestLimits(enabled=False)) as node:
        is_problem(await node.post(reading()), 503, "ingestion-disabled")
    async with running(postgres_url) as node:
        await node.source("off", enabled=False)
        is_problem(await node.post(reading(), source="off"), 403, "source-disabled")
        is_problem(await node.post(reading(), source="nobody"), 404, "unknown-source")


BAD_REQUESTS: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("POST", "/overlay/events/ingest", {"content": b"{"}, 400, "invalid-json"),
    ("POST", "/overlay/events/ingest", {"content": b"\xff\xfe"}, 400, "invalid-json"),
    ("POST", "/overlay/events/ingest", {"content": b"[" * 200_000}, 400, "invalid-json"),
    ("POST", "/overlay/events/ingest", {"json": {"sourceId": "s1"}}, 400, "invalid-request"),
    ("POST", "/overlay/events/ingest", {"json": {"sourceId": "s1", "events": [1] * 10_001}}, 413, "too-many-events"),
    (
        "POST",
        "/overlay/events/ingest",
        {"content": b"{}", "headers": {"content-type": "text/plain"}},
        415,
        "unsupported-media-type",
    ),
    (
        "POST",
        "/overlay/events/ingest",
        {"content": b"{}", "headers": {"content-encoding": "br"}},
        415,
        "unsupported-media-type",
    ),
    ("GET", "/overlay/events/ingest/x", {}, 404, "not-found"),
    ("DELETE", "/overlay/events/ingest", {}, 405, "method-not-allowed"),
    ("GET", "/nothing", {}, 404, "not-found"),
    ("GET", "/overlay/events/event_none", {}, 404, "unknown-event"),
    ("GET", "/overlay/events/event_none/certification", {}, 404, "unknown-event"),
    ("GET", "/overlay/events/event_none/certificate", {}, 404, "unknown-event"),
    ("GET", "/overlay/batches/batch_none", {}, 404, "unknown-batch"),
    ("GET", "/overlay/policies/xyz", {}, 404, "unknown-policy"),
    ("GET", f"/overlay/policies/{'0' * 64}", {}, 404, "unknown-policy"),
    ("GET", "/overlay/sources/none", {}, 404, "unknown-source"),
    ("GET", "/overlay/sources?limit=0", {}, 400, "invalid-parameter"),
    ("GET", "/overlay/events/stream?topic=a", {}, 400, "invalid-parameter"),
    ("GET", "/overlay/events/stream?since=x", {}, 400, "invalid-parameter"),
    ("GET", "/overlay/events/stream?minCertificationLevel=high", {}, 400, "invalid-parameter"),
    ("PATCH", "/overlay/sources/none", {"json": {"enabled": True}}, 404, "unknown-source"),
    ("PATCH", "/overlay/sources/s1", {"json": {"enabled": "yes"}}, 400, "invalid-request"),
    ("PATCH", "/overlay/sources/s1", {"json": {"colour": "red"}}, 400, "invalid-request"),
    (
        "POST",
        "/overlay/sources",
        {"json": {"sourceId": "s1", "name": "n", "sourceType": "webhook"}},
        409,
        "source-exists",
    ),
    (
        "POST",
        "/overlay/sources",
        {"json": {"sourceId": "a b", "name": "n", "sourceType": "webhook"}},
        400,
        "invalid-request",
    ),
]


@pytest.mark.parametrize(("method", "path", "content", "status", "code"), BAD_REQUESTS)
async def test_what_is_wrong_is_a_problem_document(
    node: Running, method: str, path: str, content: dict[str, Any], status: int, code: str
) -> None:
    if "content" in content:
        content = {**content, "headers": {"content-type": "application/json", **content.get("headers", {})}}
    response = await node.client.request(method, path, **content)
    is_problem(response, status, code)
    assert response.headers["X-Request-Id"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert (await node.client.get("/healthz")).status_code == 200


def memory_peak_bytes() -> int:
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines["VmRSS"].split()[0]) * 1024


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_of_100_mb_is_refused_early_and_not_kept(node: Running, chunked: bool) -> None:
    size, sent = 100 * 1024 * 1024, 0
    before = memory_peak_bytes()
    peak = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal sent, peak
        while sent < size:
            sent += 65_536
            peak = max(peak, memory_peak_bytes())
            yield b" " * 65_536

    headers = {"content-type": "application/json"} | ({} if chunked else {"content-length": str(size)})
    response = await node.client.post("/overlay/events/ingest", content=content(), headers=headers)
    is_problem(response, 413, "body-too-large")
    assert sent < size / 2, "it was refused before it was sent"
    assert peak - before < 24 * 1024 * 1024
    assert (await node.post(reading())).status_code == 202


async def test_sources_are_created_changed_replaced_and_listed(node: Running) -> None:
    policy = {"required": ["value"]}
    rules = {"bounds": [{"field": "value", "min": 0}]}
    made = await node.source("s2", mappingPolicy=policy, validationRules=rules)
    assert (made.status_code, made.headers["Location"]) == (201, "/overlay/sources/s2")
    source = made.json()
    document = (await node.client.get(f"/overlay/policies/{source['policyHash']}")).json()
    assert document == policy | rules
    changed = (await node.client.patch("/overlay/sources/s2", json={"validationRules": {}, "trustScore": 7})).json()
    assert (changed["trustScore"], changed["name"]) == (7, "A source")
    assert changed["policyHash"] != source["policyHash"]
    whole = {"name": "New", "sourceType": "webhook"}
    replaced = (await node.client.put("/overlay/sources/s2", json=whole)).json()
    assert (replaced["name"], replaced["mappingPolicy"], replaced["trustScore"]) == ("New", {}, 50)
    page = (await node.client.get("/overlay/sources?limit=1")).json()
    assert [entry["sourceId"] for entry in page["sources"]] == ["s1"]
    rest = (await node.client.get(f"/overlay/sources?after={page['nextAfter']}")).json()
    assert [entry["sourceId"] for entry in rest["sources"]] == ["s2"]
    assert rest["nextAfter"] is None


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"mappingPolicy": {"required": 7}}, "/mappingPolicy/required"),
        ({"validationRules": {"bounds": [{"field": "x", "min": 2, "max": 1}]}}, "/validationRules/bounds/0"),
        ({"mappingPolicy": {"ruleset": []}}, "/mappingPolicy/ruleset"),
        ({"mappingPolicy": {"required": []}, "validationRules": {"required": []}}, "/validationRules/required"),
    ],
)
async def test_an_unusable_policy_names_its_place(node: Running, fields: dict[str, Any], path: str) -> None:
    problem = is_problem(await node.source("bad", **fields), 422, "invalid-policy")
    assert problem["path"] == path
    is_problem(await node.client.patch("/overlay/sources/s1", json=fields), 422, "invalid-policy")


async def test_certification_goes_from_pending_to_certified(node: Running) -> None:
    answer = (await node.post(reading(1), reading(2))).json()
    path = f"/overlay/events/{answer['processedEvents'][1]['eventId']}"
    pending = (await node.client.get(f"{path}/certification")).json()
    assert pending["certification"]["status"] == "pending"
    assert pending["certification"]["certificates"] == []
    is_problem(await node.client.get(f"{path}/certificate"), 409, "not-certified")
    await node.seal(node.recorder.told[0].manifest)
    done = (await node.client.get(f"{path}/certification")).json()
    said = done["certification"]
    assert (said["status"], said["level"]) == ("certified", "enhanced")
    assert said["contentHash"].startswith("sha256:")
    assert said["versionId"].startswith("ver_")
    assert len(said["certificates"]) == 2
    assert said["certificates"][0]["certificationType"] == "integrity"
    assert said["certificates"][0]["overlayEvidence"] == {"consensusNodes": 2, "agreementRatio": 0.6667}
    assert [entry["step"] for entry in said["processingEvidence"]] == ["normalization"] * 2 + ["validation"] * 2
    assert said["processingEvidence"][2]["validationResult"] == "passed"
    assert said["processingEvidence"][0]["processingTime"] == 5
    assert done["overlayDistribution"] == {
        "topics": ["t.default"],
        "publishedNodes": 0,
        "confirmationCount": 0,
        "networkLatency": None,
    }
    certificate = await node.client.get(f"{path}/certificate")
    report = verify_document(certificate.content, network=NETWORK)
    assert report.ok, render(report)
    batch = (await node.client.get(f"/overlay/batches/{answer['batches'][0]['batchId']}")).json()
    assert (batch["state"], batch["counts"]) == ("certified", {"events": 2, "valid": 2, "invalid": 0})
    assert len(batch["agents"]) == 2


async def test_a_receipt_covers_the_records_that_were_sent(node: Running) -> None:
    answer = (await node.post(reading(1))).json()
    report = verify_document(orjson.dumps(answer["receipts"][0]), network=NETWORK)
    assert report.ok, render(report)
    manifest = node.recorder.told[0].manifest.message
    record = orjson.dumps({**reading(1), "previous": None}, option=orjson.OPT_SORT_KEYS)
    assert manifest.input_root == root_of_leaves([leaf_hash(record)])


async def test_the_network_as_seen(node: Running) -> None:
    assert (await node.client.get("/metrics")).headers["content-type"].startswith("text/plain")
    assert (await node.client.get("/overlay/agents")).json()["agents"][0]["roles"] == ["normalize"]
    assert (await node.client.get("/overlay/peers")).json() == {"peers": []}


async def test_a_slow_body_times_out(postgres_url: str) -> None:
    settings = ApiSettings(network=NETWORK, body_bytes_max=1_000_000, body_timeout_s=0.3)
    async with running(postgres_url, settings=settings) as node:

        async def content() -> AsyncIterator[bytes]:
            yield b"{"
            await trio.sleep(1.5)
            yield b"}"

        response = await node.client.post(
            "/overlay/events/ingest", content=content(), headers={"content-type": "application/json"}
        )
        is_problem(response, 408, "request-timeout")
        assert node.ingest.admission.bytes_in_flight == 0


async def test_a_level_within_reach_is_said_to_be(node: Running) -> None:
    said = (await node.post(reading())).json()["overlayMetadata"]
    assert (said["levelReachable"], said["levelShortfall"]) == (True, None)
