"""Job rows of the specification, one per batch and role, kept in step with the coordination state."""

from collections.abc import Sequence

import attrs
import psycopg

from protocols.identifiers import job_id
from protocols.roles import Role


@attrs.frozen(kw_only=True)
class JobChange:
    """The status of a batch's job in a role, and the first of the agents it is awarded to.

    Attributes:
        next_run_ms: When it is tried again; 0 where it runs.
    """

    batch_id: str
    role: Role
    status: str
    agent: str | None
    attempts: int
    max_attempts: int = 3
    next_run_ms: int = 0


def apply(connection: psycopg.Connection, changes: Sequence[JobChange]) -> None:
    """Insert or update the rows; one that is completed or dead stays so."""
    for change in changes:
        connection.execute(
            """INSERT INTO overlay_event_jobs AS j (job_id, event_id, job_type, batch_id, job_status,
                   assigned_agent, overlay_job_template_id, attempts, max_attempts, next_run_at, started_at)
               SELECT %(job_id)s, event_id, %(role)s, batch_id, %(status)s,
                      %(agent)s, %(role)s, %(attempts)s, %(max_attempts)s,
                      coalesce(to_timestamp(nullif(%(next_run_ms)s::bigint, 0) / 1000.0) AT TIME ZONE 'UTC', NOW()),
                      NOW()
               FROM overlay_event_jobs WHERE batch_id = %(batch_id)s AND job_type = 'normalize'
               ON CONFLICT (job_id) DO UPDATE SET job_status = EXCLUDED.job_status, attempts = EXCLUDED.attempts,
                   assigned_agent = EXCLUDED.assigned_agent, max_attempts = EXCLUDED.max_attempts,
                   next_run_at = EXCLUDED.next_run_at,
                   started_at = coalesce(j.started_at, EXCLUDED.started_at)
               WHERE j.job_status NOT IN ('completed', 'dead')""",
            attrs.asdict(change) | {"role": change.role.word, "job_id": job_id(change.role, change.batch_id)},
        )


def of_batch(connection: psycopg.Connection, batch_id: str) -> list[tuple[str, str, str | None, str, int]]:
    """(job id, role, assigned agent, status, attempts) of a batch's jobs."""
    rows = connection.execute(
        """SELECT job_id, job_type, assigned_agent, job_status, attempts FROM overlay_event_jobs
           WHERE batch_id = %s ORDER BY created_at, job_type""",
        (batch_id,),
    ).fetchall()
    return [(row[0], row[1], row[2], row[3], row[4]) for row in rows]
