"""Batches and their events: taken in, sealed, marked dead, counted."""

import attrs
import psycopg
import pytest

from storage import batches, events, jobs, merging, metrics
from tests.storage.making import AGENT, CERTIFIED_MS, RECEIVED_MS, event_id, new_batch, sealed_batch


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


def test_a_dead_batch_stays_dead(connection: psycopg.Connection) -> None:
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


@pytest.mark.parametrize("keys", [["x"], ["x", "y", "z"]])
def test_events_count_once_wherever_their_batches_went(connection: psycopg.Connection, keys: list[str]) -> None:
    """Merged with those of another batch, then split: acknowledged is what became of it, and nothing more."""
    made = [new_batch("a", keys), new_batch("b", ["v", "w"], sequence=2)]
    batches.insert_ingested(connection, made)
    whole = new_batch("whole", [*keys, "v", "w"], sequence=3)
    merging.insert_merged(connection, whole, merging.lock_parts(connection, ["batch_a", "batch_b"]))
    found = metrics.stats(connection)
    assert (found.batches, found.acknowledged, found.pending) == (1, len(keys) + 2, len(keys) + 2)
    batches.mark_dead(connection, "batch_whole", ["crashed"])
    dead = batches.dead_to_split(connection, "batch_whole")
    assert dead is not None
    count = len(keys) + 2
    batches.insert_part(connection, new_batch("dead", ["w"], sequence=4), dead.number, [count - 1])
    batches.insert_part(connection, new_batch("rest", [*keys, "v"], sequence=5), dead.number, list(range(count - 1)))
    batches.finish_split(connection, "batch_whole", "batch_dead", "batch_rest", ["crashed"])
    found = metrics.stats(connection)
    assert (found.batches, found.acknowledged, found.pending, found.dead) == (2, count, count - 1, 1)


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


def payload_of(connection: psycopg.Connection, batch_id: str) -> list[str]:
    """External ids and positions as the index shows them."""
    rows = connection.execute(
        """SELECT 'event_' || encode(i.event_digest, 'hex') FROM event_index i JOIN batches b ON b.number = i.batch
           WHERE b.batch_id = %s ORDER BY i.position""",
        (batch_id,),
    )
    return [str(row[0]) for row in rows]


def test_a_batch_is_kept_as_it_was_given(connection: psycopg.Connection) -> None:
    batch = attrs.evolve(new_batch("a", ["x", "y"]), holders=(b"h1", b"h2"), stateful=True, level=3, quorum=4)
    batches.insert_ingested(connection, [batch])
    row = batches.get(connection, "batch_a")
    assert row is not None
    assert (row.events, row.state, row.stateful, row.level, row.quorum) == (2, "pending", True, 3, 4)
    assert (row.topics, row.manifest, row.received_ms) == (["gitdata.events.iot"], b"manifest", RECEIVED_MS)
    assert (row.certificate, row.seal_sequence, row.valid) == (None, None, None)
    assert batches.payload(connection, "batch_a") == batch.payload
    assert batches.pending(connection)[0].holders == (b"h1", b"h2")
    assert batches.outputs(connection, "batch_a") is None
    assert batches.get(connection, "batch_b") is None
    assert batches.payload(connection, "batch_b") is None


def test_outputs_are_shared_only_of_certified_batches_with_topics(connection: psycopg.Connection) -> None:
    public, private = new_batch("a", ["x"]), attrs.evolve(new_batch("b", ["y"], sequence=2), topics=[])
    batches.insert_ingested(connection, [public, private])
    assert batches.outputs_to_share(connection, "batch_a") is None
    batches.seal(connection, sealed_batch(public))
    batches.seal(connection, sealed_batch(private))
    assert batches.outputs_to_share(connection, "batch_a") == b"outputs"
    assert batches.outputs_to_share(connection, "batch_b") is None
    assert batches.outputs(connection, "batch_b") == b"outputs"


def test_manifests_are_found_of_batches_that_are_here(connection: psycopg.Connection) -> None:
    made = [
        attrs.evolve(new_batch(name, [name], sequence=n), manifest=name.encode()) for n, name in enumerate("ab", 1)
    ]
    batches.insert_ingested(connection, made)
    assert sorted(batches.manifests(connection, ["batch_b", "batch_a", "batch_c"])) == [b"a", b"b"]
    assert batches.manifests(connection, []) == []


def test_evidence_is_stored_once_by_batch_role_and_signer(connection: psycopg.Connection) -> None:
    batch = new_batch("a", ["x"])
    batches.insert_ingested(connection, [batch])
    batches.seal(connection, sealed_batch(batch))
    (first,) = batches.evidence(connection, "batch_a")
    again = attrs.evolve(first, agrees=False, frame=b"other")
    dissent = attrs.evolve(first, signer=b"\x03" * 33, agrees=False)
    batches.insert_evidence(connection, "batch_a", [again, dissent, attrs.evolve(first, role="validate")])
    rows = batches.evidence(connection, "batch_a")
    assert [(row.role, row.signer, row.agrees) for row in rows] == [
        ("normalize", AGENT, True),
        ("normalize", b"\x03" * 33, False),
        ("validate", AGENT, True),
    ]
    assert rows[0].frame == b"f"


def test_sealed_batches_of_a_source_are_found_by_time(connection: psycopg.Connection) -> None:
    for number in range(4):
        batch = new_batch(str(number), [str(number)], sequence=number + 1)
        batches.insert_ingested(connection, [batch])
        batches.seal(connection, attrs.evolve(sealed_batch(batch), certified_ms=RECEIVED_MS + 100 + number))

    def between(from_ms: int, to_ms: int, skip: int = 0, limit: int = 9, source_id: str = "s1") -> list[str]:
        rows = batches.sealed_between(
            connection, source_id, from_ms=RECEIVED_MS + from_ms, to_ms=RECEIVED_MS + to_ms, skip=skip, limit=limit
        )
        return [row.batch_id for row in rows]

    assert between(100, 104) == ["batch_3", "batch_2", "batch_1", "batch_0"]
    assert between(101, 103) == ["batch_2", "batch_1"], "from the first time on, before the second"
    assert between(100, 104, skip=1, limit=2) == ["batch_2", "batch_1"]
    assert between(100, 104, source_id="s2") == []


def test_the_batch_sealed_last_is_known(connection: psycopg.Connection) -> None:
    assert (batches.last_sequence(connection), batches.last_sealed(connection)) == (0, None)
    made = [new_batch(name, [name, f"{name}2"], sequence=n) for n, name in enumerate("ab", 1)]
    batches.insert_ingested(connection, made)
    batches.seal(connection, sealed_batch(made[1]))
    batches.seal(connection, sealed_batch(made[0]))
    assert batches.last_sealed(connection) == (2, 2, "batch_a")


def test_the_figures_of_a_distribution_replace_those_of_before(connection: psycopg.Connection) -> None:
    batches.insert_ingested(connection, [new_batch("a", ["x"])])
    batches.record_distribution(connection, "batch_a", 3, 1, 10)
    batches.record_distribution(connection, "batch_a", 3, 2, 20)
    batches.record_distribution(connection, "batch_gone", 3, 2, 20)
    row = batches.get(connection, "batch_a")
    assert row is not None
    assert (row.published, row.confirmed, row.latency_ms) == (3, 2, 20)


def test_batches_that_wait_long_get_rows_the_longest_first(connection: psycopg.Connection) -> None:
    made = [
        attrs.evolve(new_batch(name, [name], sequence=n), received_ms=RECEIVED_MS + n)
        for n, name in enumerate("abc", 1)
    ]
    batches.insert_ingested(connection, made)
    assert batches.materialise(connection, RECEIVED_MS + 3, limit=1) == 1
    assert [row.batch_id for row in events.list_events(connection)] == ["batch_a"]
    assert batches.materialise(connection, RECEIVED_MS + 3) == 1, "the third one has not waited long enough"
    assert sorted(row.batch_id for row in events.list_events(connection)) == ["batch_a", "batch_b"]


def test_a_sealed_batch_goes_into_the_metrics_and_the_log(connection: psycopg.Connection) -> None:
    batch = new_batch("a", ["x", "y"])
    batches.insert_ingested(connection, [batch])
    batches.seal(connection, sealed_batch(batch, invalid=("x",)))
    row = connection.execute(
        """SELECT metric_type, source_id, event_count, success_count, error_count, processing_time_ms
           FROM overlay_event_metrics"""
    ).fetchone()
    assert row == ("certification", "s1", 2, 1, 1, CERTIFIED_MS - RECEIVED_MS)
    assert connection.execute("SELECT batch_id, source_id FROM certificate_log").fetchall() == [("batch_a", "s1")]


def test_statistics_of_an_empty_database_are_zero(connection: psycopg.Connection) -> None:
    found = metrics.stats(connection)
    assert (found.batches, found.acknowledged, found.certified, found.pending) == (0, 0, 0, 0)
    assert (found.levels, found.agents, found.dissent, found.equivocations) == ({}, [], 0, 0)
    assert found.latency_ms == {"p50": None, "p95": None, "p99": None, "max": None}


def test_a_dead_batch_is_split_into_the_dead_and_the_rest(connection: psycopg.Connection) -> None:
    whole = new_batch("a", ["x", "y", "z"])
    batches.insert_ingested(connection, [whole])
    assert batches.dead_to_split(connection, "batch_a") is None, "it waits"
    batches.mark_dead(connection, "batch_a", ["crashed"])
    found = batches.dead_to_split(connection, "batch_a")
    assert found is not None
    assert [row.event_id for row in found.index] == [event_id(key) for key in ("x", "y", "z")]
    assert [row.record_hash for row in found.index] == whole.record_hashes
    assert (found.reasons, found.payload) == (["crashed"], whole.payload)
    dead, rest = new_batch("dead", ["y"], sequence=2), new_batch("rest", ["x", "z"], sequence=3)
    batches.insert_part(connection, dead, found.number, [1])
    batches.insert_part(connection, rest, found.number, [0, 2])
    batches.finish_split(connection, "batch_a", "batch_dead", "batch_rest", ["crashed", "split"])
    assert payload_of(connection, "batch_a") == []
    assert payload_of(connection, "batch_dead") == [event_id("y")]
    assert payload_of(connection, "batch_rest") == [event_id("x"), event_id("z")]
    states = {name: batches.get(connection, f"batch_{name}") for name in ("a", "dead", "rest")}
    assert {name: row.state for name, row in states.items() if row is not None} == {
        "a": "split",
        "dead": "dead",
        "rest": "pending",
    }
    statuses = {row.event_id: row.validation_status for row in events.list_events(connection)}
    assert statuses == {event_id("x"): "pending", event_id("y"): "dead", event_id("z"): "pending"}
    assert batches.dead_to_split(connection, "batch_a") is None, "once is enough"
    assert batches.seal(connection, sealed_batch(rest)) == 1


@pytest.mark.parametrize("dead_ones", [("x", "y"), ()])
def test_a_split_can_leave_one_part_empty(connection: psycopg.Connection, dead_ones: tuple[str, ...]) -> None:
    batches.insert_ingested(connection, [new_batch("a", ["x", "y"])])
    batches.mark_dead(connection, "batch_a", ["crashed"])
    found = batches.dead_to_split(connection, "batch_a")
    assert found is not None
    part = new_batch("part", ["x", "y"], sequence=2)
    batches.insert_part(connection, part, found.number, [0, 1])
    dead_id, rest_id = ("batch_part", "") if dead_ones else ("", "batch_part")
    batches.finish_split(connection, "batch_a", dead_id, rest_id, ["crashed"])
    row = batches.get(connection, "batch_part")
    assert row is not None
    assert row.state == ("dead" if dead_ones else "pending")
    assert payload_of(connection, "batch_part") == [event_id("x"), event_id("y")]
