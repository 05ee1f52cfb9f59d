"""Outputs of topics: admitted once, spent once, found by what they say, bounded."""

from collections.abc import Sequence

import psycopg
import pytest

from storage import outputs
from storage.errors import DoubleSpendError, TopicFullError
from storage.outputs import Applied, NewOutput, NewTransaction, Outpoint

IDENTITY = b"\x02" * 33
COIN: Outpoint = (b"c" * 32, 0)


def txid(number: int) -> bytes:
    return bytes([number]) * 32


def output(index: int = 0, *, identity: bytes = IDENTITY, name: str = "n", expires_s: int = 0) -> NewOutput:
    return NewOutput(
        output_index=index,
        identity=identity,
        url="https://a",
        name=name,
        digest=bytes([index]) * 32,
        batch_id=f"batch_{index}",
        expires_s=expires_s,
    )


def transaction(
    number: int, *, inputs: Sequence[Outpoint] = (), values: bytes | None = None, **admitted: Sequence[NewOutput]
) -> NewTransaction:
    return NewTransaction(
        txid=txid(number),
        beef=b"beef %d" % number,
        off_chain_values=values,
        inputs=tuple(inputs),
        admitted=admitted,
        received_ms=number,
    )


def found(connection: psycopg.Connection, topic: str = "tm_a") -> list[tuple[bytes, int]]:
    return [(each.txid, each.output_index) for each in outputs.find(connection, topic, now_s=1)]


def test_a_transaction_is_applied_once_and_answered_alike(connection: psycopg.Connection) -> None:
    new = transaction(1, tm_a=[output(0), output(2)], tm_b=[])
    first = outputs.apply(connection, new)
    assert first == {
        "tm_a": Applied(admitted=(0, 2), removed=(), is_new=True),
        "tm_b": Applied(admitted=(), removed=(), is_new=True),
    }
    again = outputs.apply(connection, new)
    assert again["tm_a"] == Applied(admitted=(0, 2), removed=(), is_new=False)
    assert found(connection) == [(txid(1), 2), (txid(1), 0)]
    assert found(connection, "tm_b") == []


def test_a_topic_that_keeps_nothing_has_no_rows(connection: psycopg.Connection) -> None:
    outputs.apply(connection, transaction(1, inputs=[COIN], tm_a=[]))
    assert connection.execute("SELECT count(*) FROM overlay_transactions").fetchone() == (0,)
    assert not outputs.is_spent(connection, COIN)


def test_spending_removes_an_output_from_every_topic(connection: psycopg.Connection) -> None:
    outputs.apply(connection, transaction(1, tm_a=[output(0)], tm_b=[output(0)]))
    spent = outputs.apply(connection, transaction(2, inputs=[COIN, (txid(1), 0)], tm_a=[output(0)]))
    assert spent["tm_a"] == Applied(admitted=(0,), removed=(1,), is_new=True)
    assert found(connection) == [(txid(2), 0)]
    assert found(connection, "tm_b") == [], "it is gone from a topic that was not named"
    assert outputs.is_spent(connection, (txid(1), 0))
    assert outputs.is_spent(connection, COIN)
    assert not outputs.is_spent(connection, (txid(2), 0))


def test_a_spend_without_new_outputs_is_kept_where_it_removes_one(connection: psycopg.Connection) -> None:
    outputs.apply(connection, transaction(1, tm_a=[output(0)]))
    spent = outputs.apply(connection, transaction(2, inputs=[(txid(1), 0)], tm_a=[], tm_b=[]))
    assert (spent["tm_a"].removed, spent["tm_b"].removed) == ((0,), ())
    assert found(connection) == []
    again = outputs.apply(connection, transaction(2, inputs=[(txid(1), 0)], tm_a=[]))
    assert again["tm_a"] == Applied(admitted=(), removed=(0,), is_new=False)


def test_a_coin_is_spent_by_one_transaction(connection: psycopg.Connection) -> None:
    outputs.apply(connection, transaction(1, inputs=[COIN], tm_a=[output(0)]))
    with pytest.raises(DoubleSpendError, match="is spent by the transaction") as refused:
        outputs.apply(connection, transaction(2, inputs=[(b"d" * 32, 1), COIN], tm_a=[output(0)]))
    assert refused.value.fields["outpoint"] == f"{COIN[0][::-1].hex()}.{COIN[1]}"
    assert refused.value.fields["spender"] == txid(1)[::-1].hex()
    assert not outputs.is_spent(connection, (b"d" * 32, 1)), "nothing of it was written"
    another_topic = outputs.apply(connection, transaction(1, inputs=[COIN], tm_b=[output(0)]))
    assert another_topic["tm_b"].is_new, "the same transaction may come to further topics"


def test_off_chain_values_that_come_later_are_kept(connection: psycopg.Connection) -> None:
    outputs.apply(connection, transaction(1, tm_a=[output(0)]))
    outputs.apply(connection, transaction(1, values=b"v", tm_b=[output(0)]))
    outputs.apply(connection, transaction(1, values=b"w", tm_c=[output(0)]))
    (kept,) = outputs.find(connection, "tm_a")
    assert (kept.off_chain_values, kept.beef) == (b"v", b"beef 1")


def test_each_filter_narrows_and_all_of_them_together(connection: psycopg.Connection) -> None:
    other = b"\x03" * 33
    outputs.apply(connection, transaction(1, tm_a=[output(0, name="x"), output(1, name="y", identity=other)]))

    def indexes(**filters: object) -> list[int]:
        return [each.output_index for each in outputs.find(connection, "tm_a", **filters)]  # type: ignore[arg-type]

    assert indexes() == [1, 0]
    assert indexes(names=["x"]) == [0]
    assert indexes(names=["x", "y", "z"]) == [1, 0]
    assert indexes(names=[]) == []
    assert indexes(identity=other) == [1]
    assert indexes(digests=[bytes([1]) * 32]) == [1]
    assert indexes(batch_id="batch_0") == [0]
    assert indexes(urls=["https://a"]) == [1, 0]
    assert indexes(urls=["https://b"]) == []
    assert indexes(names=["x"], identity=other) == []
    assert indexes(skip=1) == [0]
    assert indexes(limit=1) == [1]
    assert outputs.find(connection, "tm_unknown") == []


def test_an_expired_output_is_not_found(connection: psycopg.Connection) -> None:
    outputs.apply(connection, transaction(1, tm_a=[output(0, expires_s=100), output(1)]))
    assert [each.output_index for each in outputs.find(connection, "tm_a", now_s=99)] == [1, 0]
    assert [each.output_index for each in outputs.find(connection, "tm_a", now_s=100)] == [1]


def test_an_identity_has_so_many_outputs_in_a_topic(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "IDENTITY_OUTPUTS_MAX", 2)
    outputs.apply(connection, transaction(1, tm_a=[output(0), output(1)]))
    connection.commit()
    with pytest.raises(TopicFullError):
        outputs.apply(connection, transaction(2, tm_a=[output(0)]))
    connection.rollback()
    outputs.apply(connection, transaction(2, tm_b=[output(0)]))
    outputs.apply(connection, transaction(3, tm_a=[output(0, identity=b"\x03" * 33)]))
    renewal = outputs.apply(connection, transaction(4, inputs=[(txid(1), 0)], tm_a=[output(0)]))
    assert renewal["tm_a"].admitted == (0,), "who spends an output has room for another"


def test_a_topic_has_so_many_outputs(connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "TOPIC_OUTPUTS_MAX", 1)
    outputs.apply(connection, transaction(1, tm_a=[output(0)]))
    connection.commit()
    with pytest.raises(TopicFullError) as refused:
        outputs.apply(connection, transaction(2, tm_a=[output(0, identity=b"\x03" * 33)]))
    assert refused.value.fields["topic"] == "tm_a"
    connection.rollback()
    assert found(connection) == [(txid(1), 0)]


def test_past_all_room_only_repeats_are_answered(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was spent must stay known, so a chain of coins grows the tables though few outputs are in force."""
    known = transaction(1, tm_a=[output(0)])
    outputs.apply(connection, known)
    monkeypatch.setattr(outputs, "TABLES_BYTES_MAX", 1)
    assert outputs.apply(connection, known)["tm_a"].admitted == (0,)
    with pytest.raises(TopicFullError, match="as many transactions as it may"):
        outputs.apply(connection, transaction(2, inputs=[(txid(1), 0)], tm_a=[output(1)]))
    assert found(connection) == [(txid(1), 0)]
