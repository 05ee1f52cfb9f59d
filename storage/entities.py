"""The coordination state: one row per entity, replaced or deleted in groups."""

from collections.abc import Sequence

import psycopg


def commit(connection: psycopg.Connection, changed: Sequence[tuple[str, bytes]], removed: Sequence[str]) -> None:
    """Store a group of entities (id, encoding) and delete others, in this transaction."""
    with connection.pipeline():
        if changed:
            ids, states = zip(*changed, strict=True)
            connection.execute(
                """INSERT INTO entities (entity_id, state) SELECT * FROM unnest(%b::text[], %b::bytea[])
                   ON CONFLICT (entity_id) DO UPDATE SET state = EXCLUDED.state""",
                (list(ids), list(states)),
            )
        if removed:
            connection.execute("DELETE FROM entities WHERE entity_id = ANY(%b)", (list(removed),))


def load_all(connection: psycopg.Connection) -> list[tuple[str, bytes]]:
    """Every entity: id and encoding."""
    rows = connection.execute("SELECT entity_id, state FROM entities ORDER BY entity_id")
    return [(str(entity_id), bytes(state)) for entity_id, state in rows]
