"""The write path, measured: what an event costs Postgres and its client, with the specification's real indexes.

A  rows inserted pending at acknowledgement, updated when the batch is sealed (what the node does)
B  at acknowledgement the batch and a narrow index of its events; the row written once, when sealed
C  one INSERT per event and one UPDATE per event: the baseline

scripts/bench/run write_path
"""

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import psutil
import psycopg
import zstandard

from storage import batches, policies, sources
from storage.batches import NewBatch, SealedBatch
from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate

EVENTS = 500
ROUNDS = 40
POLICY = hashlib.sha256(b"{}").digest()


def records(batch: int) -> list[bytes]:
    return [
        orjson.dumps(
            {
                "data": {
                    "dewp": 26.06,
                    "humid": 59.37,
                    "origin": "EWR",
                    "pressure": 1012.0 + n % 7,
                    "temp": 39.02,
                    "time_hour": f"2013-01-01T{n % 24:02}:00:00Z",
                    "visib": 10,
                    "wind_dir": 270,
                    "wind_speed": 10.357019999999999,
                },
                "eventType": "weather.observation",
                "externalId": f"EWR-{batch}-{n}",
                "previous": None,
                "timestamp": f"2013-01-01T{n % 24:02}:00:00Z",
            }
        )
        for n in range(EVENTS)
    ]


def ingested(batch: int) -> NewBatch:
    lines = records(batch)
    hashes = [hashlib.sha256(line).hexdigest() for line in lines]
    return NewBatch(
        batch_id=f"batch_{hashlib.sha256(b'%d' % batch).hexdigest()}",
        source_id="bench",
        source_sequence=batch,
        policy_hash=POLICY,
        level=2,
        quorum=2,
        stateful=False,
        topics=["gitdata.events.weather"],
        manifest=bytes(300),
        payload=zstandard.compress(b"\n".join(lines)),
        received_ms=1_700_000_000_000,
        event_ids=[f"event_{each}" for each in hashes],
        external_ids=[f"EWR-{batch}-{n}" for n in range(EVENTS)],
        event_types=["weather.observation"] * EVENTS,
        records=lines,
        record_hashes=hashes,
        versions=[1] * EVENTS,
        job_id=f"job_normalize_{hashlib.sha256(b'%d' % batch).hexdigest()}",
    )


def sealed(batch: NewBatch) -> SealedBatch:
    return SealedBatch(
        batch_id=batch.batch_id,
        certificate=bytes(2000),
        outputs=batch.payload,
        valid=EVENTS,
        invalid=0,
        attempts=1,
        certified_ms=1_700_000_000_500,
        level="enhanced",
        agents=["agent_0123456789abcdef", "agent_123456789abcdef0"],
        event_ids=batch.event_ids,
        statuses=["valid"] * EVENTS,
        content_hashes=[f"sha256:{each}" for each in batch.record_hashes],
        version_ids=[f"ver_{each}" for each in batch.record_hashes],
        issues=["[]"] * EVENTS,
        normalized=[orjson.dumps(orjson.loads(line)["data"]).decode() for line in batch.records],
        evidence=(),
    )


def path_a(connection: psycopg.Connection, batch: NewBatch) -> None:
    with connection.transaction():
        batches.insert_ingested(connection, [batch])


def seal_a(connection: psycopg.Connection, batch: SealedBatch) -> None:
    with connection.transaction():
        batches.seal(connection, batch)


def path_b(connection: psycopg.Connection, batch: NewBatch) -> None:
    with connection.transaction(), connection.pipeline():
        batches._insert_batch(connection, batch)
        connection.execute(
            """INSERT INTO event_index SELECT decode(substr(event_id, 7), 'hex'), %s, place FROM unnest(%b::text[])
               WITH ORDINALITY AS t(event_id, place) ON CONFLICT DO NOTHING""",
            (batch.source_sequence, batch.event_ids),
        )


def seal_b(connection: psycopg.Connection, raw: NewBatch, batch: SealedBatch) -> None:
    with connection.transaction(), connection.pipeline():
        connection.execute(
            """INSERT INTO overlay_events (event_id, source_id, external_id, event_type, raw_data, overlay_job_id,
                   batch_id, position, record_hash, normalized_data, validation_status, validation_issues,
                   content_hash, version_id, processing_agents, certified_at)
               SELECT event_id, %s, external_id, event_type, convert_from(record, 'UTF8')::jsonb, %s, %s, place - 1,
                      decode(record_hash, 'hex'), normalized::jsonb, 'certified', issues::jsonb, content_hash,
                      version_id, %s, now()
               FROM unnest(%b::text[], %b::text[], %b::text[], %b::bytea[], %b::text[], %b::text[], %b::text[],
                           %b::text[], %b::text[]) WITH ORDINALITY
                    AS t(event_id, external_id, event_type, record, record_hash, normalized, issues, content_hash,
                         version_id, place)""",
            (
                raw.source_id,
                raw.job_id,
                raw.batch_id,
                batch.agents,
                raw.event_ids,
                raw.external_ids,
                raw.event_types,
                raw.records,
                raw.record_hashes,
                batch.normalized,
                batch.issues,
                batch.content_hashes,
                batch.version_ids,
            ),
        )
        connection.execute(
            "UPDATE batches SET state = 'certified', certificate = %b, outputs = %b WHERE batch_id = %s",
            (batch.certificate, batch.outputs, batch.batch_id),
        )


def path_c(connection: psycopg.Connection, batch: NewBatch) -> None:
    with connection.transaction():
        batches._insert_batch(connection, batch)
        for row in zip(batch.event_ids, batch.external_ids, batch.records, batch.record_hashes, strict=True):
            connection.execute(
                """INSERT INTO overlay_events (event_id, source_id, external_id, event_type, raw_data, batch_id,
                       position, record_hash)
                   VALUES (%s, 'bench', %s, 'weather.observation', %s, %s, 0, decode(%s, 'hex'))""",
                (row[0], row[1], row[2].decode(), batch.batch_id, row[3]),
            )


def seal_c(connection: psycopg.Connection, batch: SealedBatch) -> None:
    with connection.transaction():
        for row in zip(batch.event_ids, batch.normalized, batch.content_hashes, batch.version_ids, strict=True):
            connection.execute(
                """UPDATE overlay_events SET normalized_data = %s, validation_status = 'certified',
                       content_hash = %s, version_id = %s, certified_at = now() WHERE event_id = %s""",
                (row[1], row[2], row[3], row[0]),
            )


def server_cpu_s(pid: int) -> float:
    server = psutil.Process(pid)
    total = 0.0
    for process in [server, *server.children(recursive=True)]:
        times = process.cpu_times()
        total += times.user + times.system
    return total


def measure(
    name: str,
    postgres: EmbeddedPostgres,
    connection: psycopg.Connection,
    work: Callable[[psycopg.Connection, NewBatch], None],
    finish: Callable[[psycopg.Connection, NewBatch, SealedBatch], None],
    offset: int,
    rounds: int,
) -> None:
    raw = [ingested(offset + n) for n in range(rounds)]
    done = [sealed(each) for each in raw]
    taken_ms = []
    wal = connection.execute("SELECT pg_current_wal_lsn()").fetchone()
    connection.commit()
    own, theirs, started = time.process_time(), server_cpu_s(postgres.pid), time.perf_counter()
    for first, last in zip(raw, done, strict=True):
        begin = time.perf_counter()
        work(connection, first)
        taken_ms.append(1000 * (time.perf_counter() - begin))
        finish(connection, first, last)
    wall_s = time.perf_counter() - started
    own_s, theirs_s = time.process_time() - own, server_cpu_s(postgres.pid) - theirs
    bytes_row = connection.execute("SELECT pg_current_wal_lsn() - %s", (wal[0] if wal else None,)).fetchone()
    connection.commit()
    events = rounds * EVENTS
    taken_ms.sort()
    print(
        f"{name:<34} {events / wall_s:>8,.0f} events/s   server {1e6 * theirs_s / events:>6.1f} us   client "
        f"{1e6 * own_s / events:>6.1f} us   acknowledgement P50 {taken_ms[len(taken_ms) // 2]:>5.1f} ms  P95 "
        f"{taken_ms[int(0.95 * len(taken_ms))]:>5.1f} ms   WAL {int(bytes_row[0]) / events if bytes_row else 0:>6.0f} bytes"
    )


def main() -> int:
    directory = Path(tempfile.mkdtemp(prefix="overlay-bench-"))
    os.chmod(directory, 0o755)
    try:
        with EmbeddedPostgres(directory) as postgres:
            migrate(postgres.url)
            with psycopg.connect(postgres.url) as connection:
                policies.put(connection, POLICY, b"{}")
                row = {"source_id": "bench", "name": "bench", "source_type": "webhook", "policy_hash": POLICY}
                sources.create(connection, row)
                connection.execute("CREATE TABLE event_index (event_id bytea PRIMARY KEY, batch bigint, place int)")
                connection.commit()
                for turn in range(2):
                    base = turn * 100_000
                    a = lambda c, r, s: seal_a(c, s)  # noqa: E731
                    measure("A insert pending, update at seal", postgres, connection, path_a, a, base, ROUNDS)
                    measure(
                        "B index, write once at seal", postgres, connection, path_b, seal_b, base + 10_000, ROUNDS
                    )
                    c = lambda c, r, s: seal_c(c, s)  # noqa: E731
                    measure("C a statement per event", postgres, connection, path_c, c, base + 20_000, ROUNDS // 8)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
