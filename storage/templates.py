"""Job templates: every version kept by its hash; the latest of a job type and level is the one in use."""

import attrs
import psycopg


@attrs.frozen(kw_only=True)
class StoredTemplate:
    """``document`` is the canonical JSON whose SHA-256 is ``digest``."""

    digest: bytes
    template_id: str
    job_type: str
    level: str
    document: bytes
    withdrawn: bool = False


COLUMNS = "digest, template_id, job_type, level, document, withdrawn"


def put(connection: psycopg.Connection, template: StoredTemplate) -> None:
    """Keep a version and make it the one in use; an earlier version comes into use again."""
    connection.execute(
        f"""INSERT INTO job_templates ({COLUMNS}) VALUES (%s, %s, %s, %s, %s, false)
            ON CONFLICT (digest) DO UPDATE SET withdrawn = false, number = nextval('job_templates_number_seq')
        """.encode(),  # noqa: S608  # columns of our own
        attrs.astuple(template)[:5],
    )


def withdraw(connection: psycopg.Connection, digest: bytes) -> bool:
    """Take a version out of use; what was done under it keeps it. False where it is not known."""
    return connection.execute("UPDATE job_templates SET withdrawn = true WHERE digest = %s", (digest,)).rowcount == 1


def get(connection: psycopg.Connection, digest: bytes) -> StoredTemplate | None:
    row = connection.execute(
        f"SELECT {COLUMNS} FROM job_templates WHERE digest = %s".encode(),  # noqa: S608
        (digest,),
    ).fetchone()
    return None if row is None else StoredTemplate(**dict(zip(COLUMNS.split(", "), row, strict=True)))


def in_use(connection: psycopg.Connection) -> list[StoredTemplate]:
    """One of each job type and level that an operator has set."""
    rows = connection.execute(
        f"""SELECT DISTINCT ON (job_type, level) {COLUMNS} FROM job_templates WHERE NOT withdrawn
            ORDER BY job_type, level, number DESC""".encode()  # noqa: S608
    )
    return [StoredTemplate(**dict(zip(COLUMNS.split(", "), row, strict=True))) for row in rows]


def versions(connection: psycopg.Connection, *, template_id: str | None, limit: int) -> list[StoredTemplate]:
    """The latest first."""
    rows = connection.execute(
        f"""SELECT {COLUMNS} FROM job_templates WHERE %(id)s::text IS NULL OR template_id = %(id)s
            ORDER BY number DESC LIMIT %(limit)s""".encode(),  # noqa: S608
        {"id": template_id, "limit": limit},
    )
    return [StoredTemplate(**dict(zip(COLUMNS.split(", "), row, strict=True))) for row in rows]
