"""Counts over what is stored: the figures that must add up."""

from typing import Any

import attrs
import psycopg

LATENCY_BATCHES = 2_000  # latencies are of the batches sealed last


@attrs.frozen(kw_only=True)
class StoredFigures:
    """Events by what became of them, latency from commit to certificate, work by agent."""

    acknowledged: int
    certified: int
    invalid: int
    dead: int
    pending: int
    batches: int
    levels: dict[int, int]
    latency_ms: dict[str, float | None]
    agents: list[tuple[bytes, str, int, int]]
    dissent: int
    equivocations: int


def stats(connection: psycopg.Connection) -> StoredFigures:
    row = _one(
        connection,
        """SELECT count(*), coalesce(sum(events), 0), coalesce(sum(valid), 0), coalesce(sum(invalid), 0),
                  coalesce(sum(events) FILTER (WHERE state = 'dead'), 0),
                  coalesce(sum(events) FILTER (WHERE state = 'pending'), 0)
           FROM batches WHERE state NOT IN ('split', 'merged')""",  # their events are those of other batches
    )
    levels = connection.execute(
        "SELECT level, sum(valid)::bigint FROM batches WHERE state = 'certified' GROUP BY level"
    ).fetchall()
    agents = connection.execute(
        """SELECT signer, role, sum(events)::bigint, count(*) FROM evidence WHERE agrees
           GROUP BY signer, role ORDER BY signer, role"""
    ).fetchall()
    return StoredFigures(
        batches=int(row[0]),
        acknowledged=int(row[1]),
        certified=int(row[2]),
        invalid=int(row[3]),
        dead=int(row[4]),
        pending=int(row[5]),
        levels={int(level): int(count) for level, count in levels},
        latency_ms=_latency(connection),
        agents=[(bytes(signer), str(role), int(events), int(jobs)) for signer, role, events, jobs in agents],
        dissent=int(_one(connection, "SELECT count(*) FROM evidence WHERE NOT agrees")[0]),
        equivocations=int(_one(connection, "SELECT count(*) FROM equivocations")[0]),
    )


def _latency(connection: psycopg.Connection) -> dict[str, float | None]:
    row = _one(
        connection,
        f"""SELECT percentile_cont(ARRAY[0.5, 0.95, 0.99, 1.0]) WITHIN GROUP (ORDER BY certified_ms - received_ms)
            FROM (SELECT certified_ms, received_ms FROM batches WHERE seal_sequence IS NOT NULL
                  ORDER BY seal_sequence DESC LIMIT {LATENCY_BATCHES}) AS latest""",  # noqa: S608
    )
    values: list[Any] = [round(value, 1) for value in row[0]] if row[0] is not None else [None] * 4
    return dict(zip(("p50", "p95", "p99", "max"), values, strict=True))


def _one(connection: psycopg.Connection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None, "an aggregate has a row"
    return tuple(row)
