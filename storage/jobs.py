"""Job rows of the specification, one per batch and role, kept in step with the coordination state."""

from collections.abc import Sequence

import attrs
import psycopg


@attrs.frozen(kw_only=True)
class JobChange:
    """The status of a batch's job in a role, and the first of the agents it is awarded to."""

    batch_id: str
    role: str
    status: str
    agent: str | None
    attempts: int


def apply(connection: psycopg.Connection, changes: Sequence[JobChange]) -> None:
    """Insert or update the rows; one that is completed or dead stays so."""
    for change in changes:
        connection.execute(
            """INSERT INTO overlay_event_jobs AS j (job_id, event_id, job_type, batch_id, job_status,
                   assigned_agent, overlay_job_template_id, attempts, started_at)
               SELECT 'job_' || %(role)s || '_' || substr(batch_id, 7), event_id, %(role)s, batch_id, %(status)s,
                      %(agent)s, %(role)s, %(attempts)s, NOW()
               FROM overlay_event_jobs WHERE batch_id = %(batch_id)s AND job_type = 'normalize'
               ON CONFLICT (job_id) DO UPDATE SET job_status = EXCLUDED.job_status, attempts = EXCLUDED.attempts,
                   assigned_agent = EXCLUDED.assigned_agent,
                   started_at = coalesce(j.started_at, EXCLUDED.started_at)
               WHERE j.job_status NOT IN ('completed', 'dead')""",
            attrs.asdict(change),
        )


def of_batch(connection: psycopg.Connection, batch_id: str) -> list[tuple[str, str, str | None, str, int]]:
    """(job id, role, assigned agent, status, attempts) of a batch's jobs."""
    rows = connection.execute(
        """SELECT job_id, job_type, assigned_agent, job_status, attempts FROM overlay_event_jobs
           WHERE batch_id = %s ORDER BY created_at, job_type""",
        (batch_id,),
    ).fetchall()
    return [(row[0], row[1], row[2], row[3], row[4]) for row in rows]
