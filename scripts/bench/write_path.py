"""Ways to write an event, measured side by side: what each costs Postgres and its client, with the indexes of
the specification. Batches of 500 weather readings, acknowledged and sealed in turn on one connection.

A   rows inserted pending at acknowledgement, updated when sealed
B   at acknowledgement the batch and a narrow index of its events; the row written once, when sealed,
      from columns (unnest), from JSON arrays that Postgres takes apart, or by COPY
C   one INSERT and one UPDATE per event: the baseline
node   what the node does: B from JSON arrays, with the rows of batch, jobs, evidence and metrics

scripts/bench/run write_path
"""

import argparse
import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import orjson
import psutil
import psycopg
import zstandard

from storage import batches, policies
from storage.connections import connect
from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate
from storage.rows import EvidenceRow, NewBatch, SealedBatch

EVENTS = 500
POLICY = bytes(32)
FRAME = hashlib.shake_256(b"signed").digest(300)
TOPICS = ["gitdata.events.weather"]
AGENTS = ["agent_0123456789abcdef", "agent_123456789abcdef0"]
SETUP = """
    CREATE TABLE bench_events (LIKE overlay_events INCLUDING ALL,
        FOREIGN KEY (source_id) REFERENCES overlay_event_sources(source_id));
    CREATE TABLE bench_batches (number BIGSERIAL PRIMARY KEY, batch_id TEXT UNIQUE, payload BYTEA, outputs BYTEA);
    ALTER TABLE bench_batches ALTER COLUMN payload SET STORAGE EXTERNAL, ALTER COLUMN outputs SET STORAGE EXTERNAL;
    CREATE TABLE bench_index (event_digest BYTEA NOT NULL, version INTEGER NOT NULL, batch BIGINT NOT NULL,
        position INTEGER NOT NULL, record_hash BYTEA NOT NULL, PRIMARY KEY (event_digest, version));
    CREATE INDEX bench_index_batch ON bench_index (batch)"""
INSERT_BATCH = "INSERT INTO bench_batches (batch_id, payload) VALUES (%s, %b)"
SEAL_BATCH = "UPDATE bench_batches SET outputs = %b WHERE batch_id = %s"
COLUMNS = """event_id, source_id, external_id, event_type, raw_data, normalized_data, validation_status,
    validation_issues, content_hash, version_id, overlay_job_id, processing_agents, certification_evidence,
    overlay_distribution, ingested_at, processed_at, certified_at, batch_id, position, record_hash, version"""


@attrs.frozen(kw_only=True)
class Batch:
    """All values of a batch's events, as columns in batch order."""

    number: int
    batch_id: str
    job_id: str
    packed: bytes
    event_ids: list[str]
    digests: list[bytes]
    external_ids: list[str]
    types: list[str]
    records: list[str]
    hashes: list[bytes]
    normalized: list[str]
    leaves: list[str]
    content_hashes: list[str]
    version_ids: list[str]


def make(number: int) -> Batch:
    hours = [f"2013-01-01T{position % 24:02}:00:00Z" for position in range(EVENTS)]
    data = [
        {
            "dewp": 26.06,
            "humid": 59.37,
            "origin": "EWR",
            "pressure": 1012.0 + number % 9,
            "temp": 39.02,
            "time_hour": hour,
            "visib": 10,
            "wind_dir": 270,
            "wind_speed": 10.357019999999999,
        }
        for hour in hours
    ]
    names = [f"EWR-{number}-{position}" for position in range(EVENTS)]
    digests = [hashlib.sha256(name.encode()).digest() for name in names]
    records = [
        {"data": each, "eventType": "weather.observation", "externalId": name, "previous": None, "timestamp": hour}
        for each, name, hour in zip(data, names, hours, strict=True)
    ]
    lines = [orjson.dumps(record) for record in records]
    event_ids = [f"event_{digest.hex()}" for digest in digests]
    contents = [f"sha256:{hashlib.sha256(line).hexdigest()}" for line in lines]
    versions = [f"ver_{digest.hex()}" for digest in digests]
    leaves = [
        {
            "contentHash": content,
            "eventId": event_id,
            "eventType": "weather.observation",
            "externalId": name,
            "issues": [],
            "recordHash": digest.hex(),
            "status": "valid",
            "timestamp": hour,
            "versionId": version,
        }
        for content, event_id, name, digest, hour, version in zip(
            contents, event_ids, names, digests, hours, versions, strict=True
        )
    ]
    identity = hashlib.sha256(b"%d" % number).hexdigest()
    return Batch(
        number=number,
        batch_id=f"batch_{identity}",
        job_id=f"job_normalize_{identity}",
        packed=zstandard.compress(b"\n".join(lines)),
        event_ids=event_ids,
        digests=digests,
        external_ids=names,
        types=["weather.observation"] * EVENTS,
        records=[line.decode() for line in lines],
        hashes=[hashlib.sha256(b"\0" + line).digest() for line in lines],
        normalized=[orjson.dumps(each).decode() for each in data],
        leaves=[orjson.dumps(leaf).decode() for leaf in leaves],
        content_hashes=contents,
        version_ids=versions,
    )


# --- A -------------------------------------------------------------------------------------------------------

A_INSERT = """
    INSERT INTO bench_events (event_id, source_id, external_id, event_type, raw_data, overlay_job_id,
                              overlay_distribution, batch_id, position, record_hash)
    SELECT event_id, 'bench', external_id, event_type, record::jsonb, %(job_id)s,
           (SELECT jsonb_build_object('topics', %(topics)b::text[])), %(batch_id)s, place - 1, record_hash
    FROM unnest(%(event_ids)b::text[], %(external_ids)b::text[], %(types)b::text[], %(records)b::text[],
                %(hashes)b::bytea[])
         WITH ORDINALITY AS t(event_id, external_id, event_type, record, record_hash, place)"""
A_UPDATE = """
    UPDATE bench_events e SET normalized_data = normalized::jsonb, validation_status = 'certified',
        validation_issues = issues::jsonb, content_hash = t.content_hash, version_id = t.version_id,
        processing_agents = %(agents)s,
        certification_evidence = (SELECT jsonb_build_object('batchId', %(batch_id)s::text, 'level', 'enhanced')),
        processed_at = now(), certified_at = now()
    FROM unnest(%(event_ids)b::text[], %(normalized)b::text[], %(issues)b::text[], %(content_hashes)b::text[],
                %(version_ids)b::text[]) AS t(event_id, normalized, issues, content_hash, version_id)
    WHERE e.event_id = t.event_id AND e.batch_id = %(batch_id)s"""


def a_acknowledge(connection: psycopg.Connection, batch: Batch, conflict: str = "") -> None:
    with connection.pipeline():
        connection.execute(INSERT_BATCH, (batch.batch_id, batch.packed))
        connection.execute((A_INSERT + conflict).encode(), parameters(batch))


def a_acknowledge_do_nothing(connection: psycopg.Connection, batch: Batch) -> None:
    a_acknowledge(connection, batch, " ON CONFLICT DO NOTHING")


def a_seal(connection: psycopg.Connection, batch: Batch) -> None:
    with connection.pipeline():
        connection.execute(SEAL_BATCH, (batch.packed, batch.batch_id))
        connection.execute(A_UPDATE, parameters(batch))


# --- B -------------------------------------------------------------------------------------------------------

B_INDEX = """
    INSERT INTO bench_index (event_digest, version, batch, position, record_hash)
    SELECT digest, 1, currval('bench_batches_number_seq'), place - 1, record_hash
    FROM unnest(%(digests)b::bytea[], %(hashes)b::bytea[]) WITH ORDINALITY AS t(digest, record_hash, place)"""
B_CONSTANT = """%(job_id)s, %(agents)s::text[],
    (SELECT jsonb_build_object('batchId', %(batch_id)s::text, 'level', 'enhanced')),
    (SELECT jsonb_build_object('topics', %(topics)b::text[])), now(), now(), now(), %(batch_id)s"""
B_UNNEST = f"""
    INSERT INTO bench_events ({COLUMNS})
    SELECT event_id, 'bench', external_id, event_type, record::jsonb, normalized::jsonb, 'certified', issues::jsonb,
           content_hash, version_id, {B_CONSTANT}, place - 1, record_hash, 1
    FROM unnest(%(event_ids)b::text[], %(external_ids)b::text[], %(types)b::text[], %(records)b::text[],
                %(hashes)b::bytea[], %(normalized)b::text[], %(issues)b::text[], %(content_hashes)b::text[],
                %(version_ids)b::text[])
         WITH ORDINALITY AS t(event_id, external_id, event_type, record, record_hash, normalized, issues,
                              content_hash, version_id, place)"""
B_JSON = f"""
    INSERT INTO bench_events ({COLUMNS})
    SELECT leaf->>'eventId', 'bench', leaf->>'externalId', leaf->>'eventType', record, normalized,
           CASE leaf->>'status' WHEN 'valid' THEN 'certified' ELSE 'invalid' END, leaf->'issues',
           leaf->>'contentHash', leaf->>'versionId', {B_CONSTANT}, place - 1, decode(leaf->>'recordHash', 'hex'), 1
    FROM ROWS FROM (jsonb_array_elements(%(records_json)s::jsonb), jsonb_array_elements(%(leaves_json)s::jsonb),
                    jsonb_array_elements(%(normalized_json)s::jsonb))
         WITH ORDINALITY AS t(record, leaf, normalized, place)"""


def b_acknowledge(connection: psycopg.Connection, batch: Batch) -> None:
    with connection.pipeline():
        connection.execute(INSERT_BATCH, (batch.batch_id, batch.packed))
        connection.execute(B_INDEX, {"digests": batch.digests, "hashes": batch.hashes})


def b_seal_unnest(connection: psycopg.Connection, batch: Batch) -> None:
    with connection.pipeline():
        connection.execute(SEAL_BATCH, (batch.packed, batch.batch_id))
        connection.execute(B_UNNEST.encode(), parameters(batch))


def b_seal_json(connection: psycopg.Connection, batch: Batch) -> None:
    values = parameters(batch)
    for name, lines in (("records", batch.records), ("leaves", batch.leaves), ("normalized", batch.normalized)):
        values[f"{name}_json"] = f"[{','.join(lines)}]"
    with connection.pipeline():
        connection.execute(SEAL_BATCH, (batch.packed, batch.batch_id))
        connection.execute(B_JSON.encode(), values)


def b_seal_copy(connection: psycopg.Connection, batch: Batch) -> None:
    connection.execute(SEAL_BATCH, (batch.packed, batch.batch_id))
    evidence = f'{{"batchId":"{batch.batch_id}","level":"enhanced"}}'
    agents, topics, now = "{" + ",".join(AGENTS) + "}", orjson.dumps({"topics": TOPICS}).decode(), "2024-01-01"
    rows = zip(
        batch.event_ids,
        batch.external_ids,
        batch.records,
        batch.normalized,
        batch.content_hashes,
        batch.version_ids,
        batch.hashes,
        strict=True,
    )
    text = "".join(
        f"{event_id}\tbench\t{external}\tweather.observation\t{record}\t{normalized}\tcertified\t[]\t{content}\t"
        f"{version}\t{batch.job_id}\t{agents}\t{evidence}\t{topics}\t{now}\t{now}\t{now}\t{batch.batch_id}\t{place}\t"
        f"\\\\x{record_hash.hex()}\t1\n"
        for place, (event_id, external, record, normalized, content, version, record_hash) in enumerate(rows)
    )
    with connection.cursor().copy(f"COPY bench_events ({COLUMNS}) FROM STDIN".encode()) as copy:
        copy.write(text)


# --- C -------------------------------------------------------------------------------------------------------


def c_acknowledge(connection: psycopg.Connection, batch: Batch) -> None:
    connection.execute(INSERT_BATCH, (batch.batch_id, batch.packed))
    for row in zip(batch.event_ids, batch.external_ids, batch.records, batch.hashes, strict=True):
        connection.execute(
            """INSERT INTO bench_events (event_id, source_id, external_id, event_type, raw_data, batch_id, position,
                   record_hash) VALUES (%s, 'bench', %s, 'weather.observation', %s, %s, 0, %s)""",
            (*row[:3], batch.batch_id, row[3]),
        )


def c_seal(connection: psycopg.Connection, batch: Batch) -> None:
    connection.execute(SEAL_BATCH, (batch.packed, batch.batch_id))
    for row in zip(batch.normalized, batch.content_hashes, batch.version_ids, batch.event_ids, strict=True):
        connection.execute(
            """UPDATE bench_events SET normalized_data = %s, validation_status = 'certified', content_hash = %s,
                   version_id = %s, certified_at = now() WHERE event_id = %s""",
            row,
        )


# --- the node's own functions --------------------------------------------------------------------------------


def node_acknowledge(connection: psycopg.Connection, batch: Batch) -> None:
    new = NewBatch(
        batch_id=batch.batch_id,
        source_id="bench",
        source_sequence=batch.number,
        policy_hash=POLICY,
        level=2,
        quorum=2,
        stateful=False,
        topics=TOPICS,
        manifest=bytes(300),
        payload=batch.packed,
        received_ms=1_700_000_000_000,
        event_ids=batch.event_ids,
        record_hashes=[digest.hex() for digest in batch.hashes],
        versions=[1] * EVENTS,
    )
    batches.insert_ingested(connection, [new])


def node_seal(connection: psycopg.Connection, batch: Batch) -> None:
    evidence = tuple(
        EvidenceRow(role=role, signer=bytes([agent]), agrees=True, frame=FRAME, processing_us=1, events=EVENTS)
        for role in ("normalize", "validate", "certify")
        for agent in range(3)
    )
    sealed = SealedBatch(
        batch_id=batch.batch_id,
        certificate=FRAME * 10 + batch.batch_id.encode(),
        context_out=b"",
        outputs=batch.packed,
        valid=EVENTS,
        invalid=0,
        attempts=1,
        certified_ms=1_700_000_000_500,
        level="enhanced",
        agents=AGENTS,
        leaves="\n".join(batch.leaves).encode(),
        normalized="\n".join(batch.normalized).encode(),
        evidence=evidence,
    )
    assert batches.seal(connection, sealed) is not None


# --- measuring -----------------------------------------------------------------------------------------------

Step = Callable[[psycopg.Connection, Batch], None]
WAYS: dict[str, tuple[Step, Step, int]] = {
    "A insert, update": (a_acknowledge, a_seal, 1),
    "A insert or nothing, update": (a_acknowledge_do_nothing, a_seal, 1),
    "B index, rows from unnest": (b_acknowledge, b_seal_unnest, 1),
    "B index, rows from JSON arrays": (b_acknowledge, b_seal_json, 1),
    "B index, rows by COPY": (b_acknowledge, b_seal_copy, 1),
    "node": (node_acknowledge, node_seal, 1),
    "C a statement per event": (c_acknowledge, c_seal, 8),
}


def parameters(batch: Batch) -> dict[str, Any]:
    return {**attrs.asdict(batch), "topics": TOPICS, "agents": AGENTS, "issues": ["[]"] * EVENTS}


def server_cpu_s(pid: int) -> float:
    server = psutil.Process(pid)
    times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
    ended = server.cpu_times()
    return sum(each.user + each.system for each in times) + ended.children_user + ended.children_system


def wal_bytes(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
    connection.commit()
    assert row is not None
    return int(row[0])


def measure(name: str, pid: int, connection: psycopg.Connection, first: int, rounds: int) -> None:
    acknowledge, seal, divisor = WAYS[name]
    made = [make(first + number) for number in range(rounds // divisor)]
    taken_ms = []
    wal, own, theirs, started = wal_bytes(connection), time.process_time(), server_cpu_s(pid), time.perf_counter()
    for batch in made:
        begin = time.perf_counter()
        with connection.transaction():
            acknowledge(connection, batch)
        taken_ms.append(1000 * (time.perf_counter() - begin))
        with connection.transaction():
            seal(connection, batch)
    wall_s = time.perf_counter() - started
    own_s, theirs_s, events = time.process_time() - own, server_cpu_s(pid) - theirs, len(made) * EVENTS
    taken_ms.sort()
    print(
        f"{name:<32} {events / wall_s:>7,.0f} events/s  server {1e6 * theirs_s / events:>5.1f} us  client "
        f"{1e6 * own_s / events:>5.1f} us  acknowledged P50 {taken_ms[len(taken_ms) // 2]:>5.1f} ms P95 "
        f"{taken_ms[int(0.95 * len(taken_ms))]:>5.1f} ms  WAL {(wal_bytes(connection) - wal) / events:>5.0f} bytes",
        flush=True,
    )


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--batches", type=int, default=60, help="per way and turn")
    arguments.add_argument("--turns", type=int, default=3, help="all ways in turn, so that a busy minute hits all")
    given = arguments.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="overlay-bench-"))
    directory.chmod(0o755)
    postgres = EmbeddedPostgres(directory)
    try:
        postgres.start()
        migrate(postgres.url)
        with connect(postgres.url) as connection:
            connection.execute(SETUP)
            connection.execute(
                """INSERT INTO overlay_event_sources (source_id, name, source_type, policy_hash)
                   VALUES ('bench', 'bench', 'webhook', %s)""",
                (POLICY,),
            )
            policies.put(connection, POLICY, b"{}")
            connection.commit()
            first = 0
            for turn in range(given.turns):
                print(f"turn {turn + 1}")
                for name in WAYS:
                    measure(name, postgres.pid, connection, first, given.batches)
                    first += given.batches
    finally:
        postgres.remove()
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
