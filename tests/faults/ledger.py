"""What the tables of a node's database say of the clients' events, besides what the node says of them."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import psycopg

from tests.faults.databases import NodeDatabase

SETTLE_S: Final = 240.0  # for every acknowledged event to have its end, once the faults are over
LOOK_S: Final = 0.5
SHOWN_MAX: Final = 5
OWN: Final = "coordinator IS NULL"
"""A node's own batches. Others come of strangers, who have it hold what can never be certified, and vanish."""

# (what is wrong, the rows that are): each must find nothing
WRONG: Final = (
    (
        "events without a certified batch",
        """SELECT e.event_id FROM overlay_events e LEFT JOIN batches b USING (batch_id)
           WHERE b.batch_id IS NULL OR (b.coordinator IS NULL
               AND (b.state <> 'certified' OR b.certificate IS NULL OR b.seal_sequence IS NULL))""",
    ),
    (
        "events that are neither certified nor rejected",
        """SELECT e.event_id FROM overlay_events e JOIN batches b USING (batch_id) WHERE b.coordinator IS NULL
           AND (e.certified_at IS NULL OR e.validation_status NOT IN ('certified', 'invalid'))""",
    ),
    (
        "events with several places or none in the index",
        """SELECT e.event_id FROM overlay_events e LEFT JOIN event_index i
               ON 'event_' || encode(i.event_digest, 'hex') = e.event_id
           GROUP BY e.event_id, e.version HAVING count(i.batch) <> e.version""",
    ),
    (
        "places in the index without an event",
        """SELECT encode(i.event_digest, 'hex') FROM event_index i LEFT JOIN overlay_events e
               ON 'event_' || encode(i.event_digest, 'hex') = e.event_id
           WHERE e.event_id IS NULL""",
    ),
    (
        "certified batches with more or fewer events than they are of",
        """SELECT b.batch_id FROM batches b JOIN event_index i ON i.batch = b.number
           WHERE b.state = 'certified' AND b.coordinator IS NULL
           GROUP BY b.batch_id HAVING count(*) <> b.events OR b.events <> b.valid + b.invalid""",
    ),
    (
        "sources with a gap in their sequence of batches",
        """SELECT source_id FROM batches WHERE coordinator IS NULL GROUP BY source_id
           HAVING max(source_sequence) - min(source_sequence) + 1 <> count(DISTINCT source_sequence)""",
    ),
    (
        "batches that are neither certified nor merged into one that is",
        """SELECT b.batch_id FROM batches b LEFT JOIN batches w ON w.batch_id = b.merged_into
           WHERE b.coordinator IS NULL AND b.state <> 'certified'
               AND (b.state <> 'merged' OR w.state IS NULL OR w.state NOT IN ('certified', 'merged'))""",
    ),
)


def await_settled(database: NodeDatabase) -> str:
    """Wait until none of a node's own events is pending; what is wrong after ``SETTLE_S``, else nothing."""
    deadline_s = time.monotonic() + SETTLE_S
    statement = f"SELECT state, sum(events) FROM batches WHERE {OWN} AND state IN ('pending', 'dead') GROUP BY state"
    while True:
        try:
            with database.connected() as connection:
                left = dict(connection.execute(statement.encode()).fetchall())
            wrong = ", ".join(f"{count} events are {state}" for state, count in sorted(left.items()))
        except psycopg.Error as error:
            left, wrong = {"pending": 0}, f"its database does not say what is pending: {error}"
        if "pending" not in left or time.monotonic() > deadline_s:
            return wrong
        time.sleep(LOOK_S)


def check_tables(connection: psycopg.Connection, acknowledged: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Problems. ``acknowledged``: External ids by source, of all that clients sent."""
    rows = connection.execute(
        "SELECT source_id, external_id, count(*) FROM overlay_events WHERE source_id = ANY(%s) GROUP BY 1, 2",
        (list(acknowledged),),
    ).fetchall()
    there: dict[str, dict[str, int]] = {source_id: {} for source_id in acknowledged}
    for source_id, external_id, count in rows:
        there[source_id][external_id] = count
    for source_id, external_ids in acknowledged.items():
        found = there[source_id]
        for what, these in (
            ("acknowledged and in no table", set(external_ids) - set(found)),
            ("in the tables and never acknowledged", set(found) - set(external_ids)),
            ("twice in the tables", {each for each, count in found.items() if count > 1}),
        ):
            if these:
                yield f"{len(these)} events of {source_id} {what}: {sorted(these)[:SHOWN_MAX]}"
    for what, statement in WRONG:
        wrong = [row[0] for row in connection.execute(statement.encode()).fetchall()]
        if wrong:
            yield f"{len(wrong)} {what}: {wrong[:SHOWN_MAX]}"
