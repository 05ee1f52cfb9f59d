"""Outputs that topics admitted (BRC-22): written with all that follows from them in one transaction."""

from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import psycopg

from storage.errors import DoubleSpendError, TopicFullError

SUBMISSIONS_LOCK: Final = 0x6F757470  # any number, unlike the other advisory locks
TOPIC_OUTPUTS_MAX: Final = 200_000
IDENTITY_OUTPUTS_MAX: Final = 1_000  # of one identity in one topic
TABLES_BYTES_MAX: Final = 8 * 1024**3  # of transactions with all that was ever spent, which must stay known

Outpoint = tuple[bytes, int]


@attrs.frozen(kw_only=True)
class NewOutput:
    """An output that a topic admits, with what it is found by."""

    output_index: int
    identity: bytes
    url: str
    name: str
    digest: bytes
    batch_id: str
    expires_s: int


@attrs.frozen(kw_only=True)
class NewTransaction:
    """A submission, judged: by topic what it admits. ``inputs`` are the outpoints it spends, in order."""

    txid: bytes
    beef: bytes
    off_chain_values: bytes | None
    inputs: tuple[Outpoint, ...]
    admitted: Mapping[str, Sequence[NewOutput]]
    received_ms: int


@attrs.frozen(kw_only=True)
class Applied:
    """What became of a transaction in a topic: outputs admitted, inputs that spent an output of the topic."""

    admitted: tuple[int, ...]
    removed: tuple[int, ...]
    is_new: bool


@attrs.frozen(kw_only=True)
class StoredOutput:
    """An output in force, with the BEEF whose subject it stands in."""

    txid: bytes
    output_index: int
    identity: bytes
    url: str
    name: str
    digest: bytes
    batch_id: str
    beef: bytes
    off_chain_values: bytes | None


def apply(connection: psycopg.Connection, new: NewTransaction) -> dict[str, Applied]:
    """Store a submission: insert what topics admit, delete what it spends from all of them.

    A repeat changes nothing and is answered as the first time. A topic for which nothing is left to keep has no
    rows of it.

    Raises:
        DoubleSpendError: another transaction here spends one of its coins already.
        TopicFullError: a topic, or an identity in it, has as many outputs as it may.
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (SUBMISSIONS_LOCK,))
    known = _known(connection, new)
    fresh = {topic: outputs for topic, outputs in new.admitted.items() if topic not in known}
    if not fresh:
        return known
    _refuse_double_spends(connection, new)
    removed = _spent_by(connection, new.inputs)
    results = {
        topic: Applied(
            admitted=tuple(output.output_index for output in outputs),
            removed=tuple(index for index, topics in removed.items() if topic in topics),
            is_new=True,
        )
        for topic, outputs in fresh.items()
    }
    worthwhile = {topic: outputs for topic, outputs in fresh.items() if results[topic].admitted}
    worthwhile |= {topic: outputs for topic, outputs in fresh.items() if results[topic].removed}
    if worthwhile:
        _write(connection, new, worthwhile, results)
    return known | results


def find(
    connection: psycopg.Connection,
    topic: str,
    *,
    names: Sequence[str] | None = None,
    identity: bytes | None = None,
    urls: Sequence[str] | None = None,
    digests: Sequence[bytes] | None = None,
    batch_id: str | None = None,
    now_s: int = 0,
    skip: int = 0,
    limit: int = 100,
) -> list[StoredOutput]:
    """Outputs in force, the latest first; filters that are None do not apply."""
    rows = connection.execute(
        """SELECT o.txid, o.output_index, o.identity, o.url, o.name, o.digest, o.batch_id, t.beef, t.off_chain_values
           FROM topic_outputs o JOIN overlay_transactions t USING (txid)
           WHERE o.topic = %(topic)s
             AND (%(names)s::text[] IS NULL OR o.name = ANY(%(names)s))
             AND (%(identity)s::bytea IS NULL OR o.identity = %(identity)s)
             AND (%(urls)s::text[] IS NULL OR o.url = ANY(%(urls)s))
             AND (%(digests)s::bytea[] IS NULL OR o.digest = ANY(%(digests)s))
             AND (%(batch)s::text IS NULL OR o.batch_id = %(batch)s)
             AND (o.expires_s = 0 OR o.expires_s > %(now)s)
           ORDER BY o.number DESC OFFSET %(skip)s LIMIT %(limit)s""",
        {
            "topic": topic,
            "names": None if names is None else list(names),
            "identity": identity,
            "urls": None if urls is None else list(urls),
            "digests": None if digests is None else list(digests),
            "batch": batch_id,
            "now": now_s,
            "skip": skip,
            "limit": limit,
        },
    )
    names_of = tuple(field.name for field in attrs.fields(StoredOutput))
    return [StoredOutput(**dict(zip(names_of, row, strict=True))) for row in rows]


def is_spent(connection: psycopg.Connection, outpoint: Outpoint) -> bool:
    """Whether a transaction that was submitted here spends an outpoint."""
    row = connection.execute(
        "SELECT 1 FROM spent_outpoints WHERE txid = %s AND output_index = %s", outpoint
    ).fetchone()
    return row is not None


def _known(connection: psycopg.Connection, new: NewTransaction) -> dict[str, Applied]:
    rows = connection.execute(
        "SELECT topic, admitted, removed FROM topic_transactions WHERE txid = %s AND topic = ANY(%s)",
        (new.txid, list(new.admitted)),
    )
    return {
        str(topic): Applied(admitted=tuple(admitted), removed=tuple(removed), is_new=False)
        for topic, admitted, removed in rows
    }


def _refuse_double_spends(connection: psycopg.Connection, new: NewTransaction) -> None:
    rows = connection.execute(
        """SELECT s.txid, s.output_index, s.spender FROM spent_outpoints s
           JOIN unnest(%s::bytea[], %s::bigint[]) AS i (txid, output_index) USING (txid, output_index)
           WHERE s.spender <> %s LIMIT 1""",
        ([txid for txid, _ in new.inputs], [index for _, index in new.inputs], new.txid),
    ).fetchall()
    for txid, index, spender in rows:
        outpoint = f"{bytes(txid)[::-1].hex()}.{index}"
        raise DoubleSpendError(
            f"the output {outpoint} is spent by the transaction {bytes(spender)[::-1].hex()} already",
            outpoint=outpoint,
            spender=bytes(spender)[::-1].hex(),
            remedy="submit the transaction that spends it first, or another coin",
        )


def _spent_by(connection: psycopg.Connection, inputs: Sequence[Outpoint]) -> dict[int, frozenset[str]]:
    """By input, the topics whose outputs it spends."""
    places = {outpoint: index for index, outpoint in enumerate(inputs)}
    rows = connection.execute(
        """SELECT o.txid, o.output_index, array_agg(o.topic) FROM topic_outputs o
           JOIN unnest(%s::bytea[], %s::bigint[]) AS i (txid, output_index) USING (txid, output_index)
           GROUP BY o.txid, o.output_index""",
        ([txid for txid, _ in inputs], [index for _, index in inputs]),
    )
    return {places[bytes(txid), int(index)]: frozenset(topics) for txid, index, topics in rows}


def _write(
    connection: psycopg.Connection,
    new: NewTransaction,
    topics: Mapping[str, Sequence[NewOutput]],
    results: Mapping[str, Applied],
) -> None:
    _refuse_if_too_large(connection)
    connection.execute(
        """INSERT INTO overlay_transactions (txid, beef, off_chain_values, received_ms) VALUES (%s, %s, %s, %s)
           ON CONFLICT (txid) DO UPDATE
               SET off_chain_values = coalesce(overlay_transactions.off_chain_values, EXCLUDED.off_chain_values)""",
        (new.txid, new.beef, new.off_chain_values, new.received_ms),
    )
    spent = ([txid for txid, _ in new.inputs], [index for _, index in new.inputs])
    connection.execute(
        """INSERT INTO spent_outpoints (txid, output_index, spender)
           SELECT i.*, %s FROM unnest(%s::bytea[], %s::bigint[]) AS i ON CONFLICT DO NOTHING""",
        (new.txid, *spent),
    )
    connection.execute(
        """DELETE FROM topic_outputs o USING unnest(%s::bytea[], %s::bigint[]) AS i (txid, output_index)
           WHERE (o.txid, o.output_index) = (i.txid, i.output_index)""",
        spent,
    )
    for topic, outputs in topics.items():
        result = results[topic]
        connection.execute(
            "INSERT INTO topic_transactions (topic, txid, admitted, removed) VALUES (%s, %s, %s, %s)",
            (topic, new.txid, list(result.admitted), list(result.removed)),
        )
        _refuse_if_full(connection, topic, outputs)
        _insert_outputs(connection, topic, new, outputs)


def _refuse_if_too_large(connection: psycopg.Connection) -> None:
    row = connection.execute(
        """SELECT sum(pg_total_relation_size(name::regclass))
           FROM unnest(ARRAY['overlay_transactions', 'topic_transactions', 'spent_outpoints']) AS name"""
    ).fetchone()
    if row is not None and row[0] >= TABLES_BYTES_MAX:
        raise TopicFullError(f"this node keeps as many transactions as it may, {TABLES_BYTES_MAX} bytes of them")


def _refuse_if_full(connection: psycopg.Connection, topic: str, outputs: Sequence[NewOutput]) -> None:
    identities = sorted({output.identity for output in outputs})
    row = connection.execute(
        """SELECT (SELECT count(*) FROM topic_outputs WHERE topic = %(topic)s) >= %(all)s OR EXISTS (
               SELECT 1 FROM topic_outputs WHERE topic = %(topic)s AND identity = ANY(%(identities)s)
               GROUP BY identity HAVING count(*) >= %(each)s)""",
        {
            "topic": topic,
            "all": TOPIC_OUTPUTS_MAX,
            "each": IDENTITY_OUTPUTS_MAX,
            "identities": identities,
        },
    ).fetchone()
    if outputs and row is not None and row[0]:
        raise TopicFullError(f"{topic} has as many outputs as it may, in all or of this identity", topic=topic)


def _insert_outputs(
    connection: psycopg.Connection, topic: str, new: NewTransaction, outputs: Sequence[NewOutput]
) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO topic_outputs (topic, txid, output_index, identity, url, name, digest, batch_id,
                                          expires_s, admitted_ms)
               VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
            [(topic, new.txid, *attrs.astuple(output), new.received_ms) for output in outputs],
        )
