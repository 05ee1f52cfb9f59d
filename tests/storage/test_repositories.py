"""Batches, events, versions, jobs and counts in a real Postgres."""

import hashlib
from collections.abc import Iterator

import attrs
import orjson
import psycopg
import pytest
import zstandard

from protocols.roles import Role
from storage import auctions, batches, entities, events, jobs, metrics, policies, reputations, sources, templates
from storage.errors import SourceExistsError
from storage.jobs import JobChange
from storage.rows import EvidenceRow, NewBatch, SealedBatch
from storage.templates import StoredTemplate

POLICY = hashlib.sha256(b"{}").digest()
AGENT = b"\x02" + bytes(32)


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres_url) as opened:
        policies.put(opened, POLICY, b"{}")
        row = {"source_id": "s1", "name": "One", "source_type": "webhook", "policy_hash": POLICY}
        sources.create(opened, row)
        opened.commit()
        yield opened


def event_id(key: str) -> str:
    return "event_" + hashlib.sha256(key.encode()).hexdigest()


def new_batch(name: str, keys: list[str], version: int = 1, sequence: int = 1) -> NewBatch:
    batch_id = f"batch_{name}"
    lines = [
        orjson.dumps({"data": {"name": f"{name} {key}"}, "externalId": key, "eventType": "reading"}) for key in keys
    ]
    return NewBatch(
        batch_id=batch_id,
        source_id="s1",
        source_sequence=sequence,
        policy_hash=POLICY,
        level=2,
        quorum=2,
        stateful=False,
        topics=["gitdata.events.iot"],
        manifest=b"manifest",
        payload=zstandard.compress(b"\n".join(lines)),
        received_ms=1_700_000_000_000,
        event_ids=[event_id(key) for key in keys],
        record_hashes=[hashlib.sha256(line).hexdigest() for line in lines],
        versions=[version] * len(keys),
    )


def records_of(batch: NewBatch) -> list[bytes]:
    """The records of a batch that ``new_batch`` made."""
    return zstandard.decompress(batch.payload).split(b"\n")


def keys_of(batch: NewBatch) -> list[str]:
    """The external ids of its events."""
    return [orjson.loads(record)["externalId"] for record in records_of(batch)]


def sealed_batch(batch: NewBatch, invalid: tuple[str, ...] = ()) -> SealedBatch:
    statuses = ["invalid" if key in invalid else "valid" for key in keys_of(batch)]
    return SealedBatch(
        context_out=b"{}",
        batch_id=batch.batch_id,
        certificate=b"certificate",
        outputs=b"outputs",
        valid=statuses.count("valid"),
        invalid=statuses.count("invalid"),
        attempts=1,
        certified_ms=1_700_000_000_250,
        level="enhanced",
        agents=["agent_1", "agent_2"],
        leaves=b"\n".join(
            orjson.dumps(
                {
                    "eventId": event_id,
                    "externalId": key,
                    "eventType": "reading",
                    "status": status,
                    "issues": [{"rule": "bounds"}] if status == "invalid" else [],
                    "contentHash": f"sha256:{digest}",
                    "versionId": f"ver_{digest}",
                    "recordHash": digest,
                }
            )
            for event_id, key, status, digest in zip(
                batch.event_ids, keys_of(batch), statuses, batch.record_hashes, strict=True
            )
        ),
        normalized=b"\n".join([b'{"value":1}'] * len(statuses)),
        evidence=(
            EvidenceRow(
                role="normalize", signer=AGENT, agrees=True, frame=b"f", processing_us=10, events=len(statuses)
            ),
        ),
    )


def test_ingested_events_are_found_at_once_and_pending(connection: psycopg.Connection) -> None:
    batches.insert_ingested(connection, [new_batch("a", ["x", "y"])])
    row = events.get(connection, event_id("y"))
    assert row is not None
    assert (row.validation_status, row.batch_id, row.position, row.external_id) == ("pending", "batch_a", 1, "y")
    assert row.raw_data["data"] == {"name": "a y"}
    assert row.overlay_distribution == {"topics": ["gitdata.events.iot"]}
    assert row.overlay_job_id == "job_normalize_a"
    assert events.get(connection, event_id("z")) is None
    assert jobs.of_batch(connection, "batch_a") == [("job_normalize_a", "normalize", None, "queued", 0)]


def test_known_versions_are_listed_oldest_first(connection: psycopg.Connection) -> None:
    first, second = new_batch("a", ["x", "y"]), new_batch("b", ["x"], version=2, sequence=2)
    batches.insert_ingested(connection, [first])
    batches.insert_ingested(connection, [second])
    known = events.find_known(connection, [event_id("x"), event_id("y"), event_id("none")])
    assert [each.record_hash for each in known[event_id("x")]] == [first.record_hashes[0], second.record_hashes[0]]
    assert [each.batch_id for each in known[event_id("y")]] == ["batch_a"]
    assert event_id("none") not in known


def test_a_seal_writes_every_verdict_once(connection: psycopg.Connection) -> None:
    batch = new_batch("a", ["x", "y", "z"])
    batches.insert_ingested(connection, [batch])
    sealed = sealed_batch(batch, invalid=("y",))
    assert batches.seal(connection, sealed) == 1
    assert batches.seal(connection, attrs.evolve(sealed, valid=0)) is None
    statuses = {row.event_id: row.validation_status for row in events.list_events(connection)}
    assert statuses == {event_id("x"): "certified", event_id("y"): "invalid", event_id("z"): "certified"}
    row = events.get(connection, event_id("y"))
    assert row is not None
    assert row.validation_issues == [{"rule": "bounds"}]
    assert row.content_hash == f"sha256:{batch.record_hashes[1]}"
    assert row.processing_agents == ["agent_1", "agent_2"]
    assert row.certification_evidence == {"batchId": "batch_a", "position": 1, "level": "enhanced"}
    assert {role: status for _, role, _, status, _ in jobs.of_batch(connection, "batch_a")} == {
        "normalize": "completed",
        "validate": "completed",
        "certify": "completed",
    }
    assert batches.outputs(connection, "batch_a") == b"outputs"
    assert [row.role for row in batches.evidence(connection, "batch_a")] == ["normalize"]


def test_seal_sequences_have_no_gaps_and_keep_their_order(connection: psycopg.Connection) -> None:
    made = [new_batch(name, [name], sequence=n) for n, name in enumerate("abc", 1)]
    batches.insert_ingested(connection, made)
    assert [batches.seal(connection, sealed_batch(each)) for each in (made[2], made[0], made[1])] == [1, 2, 3]
    found = batches.sealed_since(connection, 1, 10)
    assert [(row.batch_id, row.seal_sequence, outputs) for row, outputs in found] == [
        ("batch_a", 2, b"outputs"),
        ("batch_b", 3, b"outputs"),
    ]
    assert batches.last_sequence(connection) == 3


def test_an_older_version_is_sealed_beside_the_latest(connection: psycopg.Connection) -> None:
    first, second = new_batch("a", ["x", "y"]), new_batch("b", ["x"], version=2, sequence=2)
    batches.insert_ingested(connection, [first])
    batches.insert_ingested(connection, [second])
    batches.seal(connection, sealed_batch(first, invalid=("x",)))
    row = events.get(connection, event_id("x"))
    assert row is not None
    assert (row.version, row.validation_status, row.batch_id) == (2, "pending", "batch_b")
    old = connection.execute("SELECT validation_status, version_id FROM event_versions").fetchall()
    assert old == [("invalid", f"ver_{first.record_hashes[0]}")]
    batches.seal(connection, sealed_batch(second))
    row = events.get(connection, event_id("x"))
    assert row is not None
    assert row.validation_status == "certified"


def test_a_buried_batch_stays_dead(connection: psycopg.Connection) -> None:
    batch = new_batch("a", ["x"])
    batches.insert_ingested(connection, [batch])
    assert batches.mark_dead(connection, "batch_a", ["one", "two"]) == 1
    assert batches.mark_dead(connection, "batch_a", ["three"]) == 0
    assert batches.seal(connection, sealed_batch(batch)) is None
    row = batches.get(connection, "batch_a")
    assert row is not None
    assert (row.state, row.reasons) == ("dead", ["one", "two"])
    assert jobs.of_batch(connection, "batch_a")[0][3] == "dead"


def test_pending_batches_are_found_for_recovery(connection: psycopg.Connection) -> None:
    one, two = new_batch("a", ["x"]), new_batch("b", ["y"], sequence=2)
    batches.insert_ingested(connection, [one, two])
    batches.seal(connection, sealed_batch(one))
    pending = batches.pending(connection)
    assert [(each.batch_id, each.manifest, each.stateful, each.events) for each in pending] == [
        ("batch_b", b"manifest", False, 1)
    ]


def test_counts_add_up(connection: psycopg.Connection) -> None:
    made = [new_batch("a", ["x", "y"]), new_batch("b", ["z"], sequence=2), new_batch("c", ["w"], sequence=3)]
    batches.insert_ingested(connection, made)
    batches.seal(connection, sealed_batch(made[0], invalid=("x",)))
    batches.mark_dead(connection, "batch_b", ["no quorum"])
    found = metrics.stats(connection)
    assert (found.acknowledged, found.certified, found.invalid, found.dead, found.pending) == (4, 1, 1, 1, 1)
    assert found.latency_ms["p50"] == 250
    assert found.agents == [(AGENT, "normalize", 2, 1)]


def test_jobs_follow_the_batch_until_it_ends(connection: psycopg.Connection) -> None:
    batch = new_batch("a", ["x"])
    batches.insert_ingested(connection, [batch])
    assert batches.materialise(connection, batch.received_ms + 1) == 1
    assert batches.materialise(connection, batch.received_ms + 1) == 0
    change = JobChange(batch_id="batch_a", role=Role.VALIDATE, status="running", agent="agent_1", attempts=1)
    jobs.apply(connection, [change, attrs.evolve(change, role=Role.NORMALIZE)])
    running = {role: (agent, status) for _, role, agent, status, _ in jobs.of_batch(connection, "batch_a")}
    assert running == {"normalize": ("agent_1", "running"), "validate": ("agent_1", "running")}
    waits = attrs.evolve(change, role=Role.NORMALIZE, status="queued", max_attempts=5, next_run_ms=1_700_000_009_000)
    jobs.apply(connection, [waits])
    row = connection.execute(
        """SELECT job_status, max_attempts, extract(epoch FROM next_run_at)::bigint FROM overlay_event_jobs
           WHERE job_type = 'normalize'"""
    ).fetchone()
    assert row == ("queued", 5, 1_700_000_009)
    batches.seal(connection, sealed_batch(batch))
    jobs.apply(connection, [change])
    assert {status for _, _, _, status, _ in jobs.of_batch(connection, "batch_a")} == {"completed"}


def test_entities_are_replaced_and_deleted_in_groups(connection: psycopg.Connection) -> None:
    entities.commit(connection, [("a", b"1"), ("b", b"2")], [])
    entities.commit(connection, [("a", b"3"), ("c", b"4")], ["b", "never"])
    assert [state for _, state in entities.load_all(connection)] == [b"3", b"4"]


def test_sources_are_created_listed_and_changed(connection: psycopg.Connection) -> None:
    row = {"source_id": "s2", "name": "Two", "source_type": "mqtt", "policy_hash": POLICY, "overlay_topics": ["a.b"]}
    made = sources.create(connection, row)
    assert (made.trust_score, made.enabled, made.overlay_topics, made.policy_hash) == (50, True, ["a.b"], POLICY)
    with pytest.raises(SourceExistsError):
        sources.create(connection, row)
    changed = sources.update(connection, "s2", {"name": "Zwei", "mapping_policy": {"unmapped": "drop"}})
    assert changed is not None
    assert (changed.name, changed.mapping_policy, changed.source_type) == ("Zwei", {"unmapped": "drop"}, "mqtt")
    assert sources.update(connection, "s3", {"name": "x"}) is None
    assert [each.source_id for each in sources.list_sources(connection)] == ["s1", "s2"]
    assert [each.source_id for each in sources.list_sources(connection, after="s1", limit=1)] == ["s2"]
    assert sources.take_sequences(connection, "s2", 3) == 1
    assert sources.take_sequences(connection, "s2", 1) == 4


def test_job_rows_of_a_batch_whose_events_have_no_rows_yet_come_with_the_seal(connection: psycopg.Connection) -> None:
    batch = new_batch("a", ["x"])
    batches.insert_ingested(connection, [batch])
    jobs.apply(
        connection, [JobChange(batch_id="batch_a", role=Role.VALIDATE, status="running", agent="a", attempts=1)]
    )
    assert jobs.of_batch(connection, "batch_a") == []
    batches.seal(connection, sealed_batch(batch))
    assert len(jobs.of_batch(connection, "batch_a")) == 3


def test_a_later_version_that_is_sealed_first_stays_the_latest(connection: psycopg.Connection) -> None:
    first, second = new_batch("a", ["x", "y"]), new_batch("b", ["x"], version=2, sequence=2)
    batches.insert_ingested(connection, [first])
    batches.insert_ingested(connection, [second])
    batches.seal(connection, sealed_batch(second))
    batches.seal(connection, sealed_batch(first, invalid=("x",)))
    row = events.get(connection, event_id("x"))
    assert row is not None
    assert (row.version, row.validation_status) == (2, "certified")
    old = connection.execute("SELECT version, validation_status FROM event_versions").fetchall()
    assert old == [(1, "invalid")]


def test_reputations_are_kept_as_they_are_and_blemishes_to_a_bound(connection: psycopg.Connection) -> None:
    row = reputations.Reputation(agent=AGENT, role="validate", agreed=8, successes=7.5, failures=0.25, at_ms=9)
    blemishes = [
        reputations.Incident(agent=AGENT, role="validate", outcome="late", batch_id=f"batch_{n}", at_ms=n)
        for n in range(reputations.INCIDENTS_KEPT + 7)
    ]
    reputations.save(connection, [row], blemishes[:30])
    later = attrs.evolve(row, agreed=9, late=1)
    reputations.save(connection, [later], blemishes[30:])
    assert reputations.load(connection) == [later]
    assert reputations.incidents_of(connection, AGENT) == blemishes[: -reputations.INCIDENTS_KEPT - 1 : -1]


def test_of_the_versions_of_a_template_the_latest_is_in_use(connection: psycopg.Connection) -> None:
    first, second = (
        StoredTemplate(digest=bytes([n]) * 32, template_id="t", job_type="validate", level="basic", document=b"{}")
        for n in (1, 2)
    )
    templates.put(connection, first)
    templates.put(connection, second)
    assert templates.in_use(connection) == [second]
    templates.put(connection, first)
    assert templates.in_use(connection) == [first]
    assert templates.withdraw(connection, first.digest)
    assert templates.in_use(connection) == [second]
    kept = templates.get(connection, first.digest)
    assert kept is not None
    assert kept.withdrawn
    assert [each.digest for each in templates.versions(connection, template_id="t", limit=9)] == [
        first.digest,
        second.digest,
    ]


def test_an_auction_is_found_by_job_and_by_lease(connection: psycopg.Connection) -> None:
    auctions.put(connection, announcement_id="job_1", lease_id="lease_1", record={"bids": []}, at_ms=1)
    auctions.put(connection, announcement_id="job_1", lease_id="lease_1", record={"bids": [1]}, at_ms=2)
    assert auctions.get(connection, "job_1") == auctions.get(connection, "lease_1") == {"bids": []}
    assert auctions.get(connection, "job_2") is None
    assert auctions.latest(connection, 5) == [{"bids": []}]
