"""What the node knows of its peers: addresses, proofs against them, notices for them, nonces they spent."""

from typing import Any

import attrs
import psycopg
import pytest

from storage import batches, nonces, notices, peers, reputations
from storage.nonces import Nonce
from storage.peers import PROOFS_PER_SIGNER_MAX, StoredEquivocation
from storage.reputations import Reputation
from tests.storage.making import AGENT, new_batch, sealed_batch

OTHER = b"\x03" + bytes(32)


def proof(batch: int = 1, signer: bytes = AGENT, **values: Any) -> StoredEquivocation:
    found = StoredEquivocation(
        signer=signer, batch_id=f"batch_{batch}", role="validate", first=b"one", second=b"two", heard_from=None
    )
    return attrs.evolve(found, **values)


def test_the_latest_of_a_peer_is_remembered(connection: psycopg.Connection) -> None:
    peers.remember(connection, AGENT, ["/ip4/1"], b"old", 10)
    connection.commit()
    peers.remember(connection, OTHER, [], b"other", 10)
    connection.commit()
    peers.remember(connection, AGENT, ["/ip4/2", "/ip4/3"], b"new", 20)
    assert peers.remembered(connection) == [(AGENT, ["/ip4/2", "/ip4/3"]), (OTHER, [])]
    assert peers.remembered(connection, limit=1) == [(AGENT, ["/ip4/2", "/ip4/3"])]
    assert peers.advertisements(connection) == [b"new", b"other"]
    assert peers.advertisements(connection, limit=1) == [b"new"]


def test_those_that_worked_here_are_the_last_to_go(connection: psycopg.Connection) -> None:
    """Keys cost nothing to make: strangers must not push out those whose work was confirmed."""
    worked = Reputation(agent=AGENT, role="validate", agreed=1)
    reputations.save(connection, [worked, Reputation(agent=OTHER, role="validate", late=1)], [])
    strangers = [b"\x03" + bytes((number,)) * 32 for number in (1, 2, 3)]
    for number, identity in enumerate((AGENT, OTHER, *strangers)):
        peers.remember(connection, identity, [f"/ip4/{number}"], b"", 10)
        connection.commit()
    assert peers.remembered(connection, limit=2) == [(AGENT, ["/ip4/0"]), (strangers[-1], ["/ip4/4"])]
    assert peers.prune(connection, 5) == 0
    assert peers.prune(connection, 2) == 3
    assert [identity for identity, _ in peers.remembered(connection)] == [AGENT, strangers[-1]]
    assert peers.prune(connection, 1) == 1
    assert [identity for identity, _ in peers.remembered(connection)] == [AGENT]


def test_a_proof_is_kept_once(connection: psycopg.Connection) -> None:
    peers.keep_equivocation(connection, proof(first=b"first"))
    peers.keep_equivocation(connection, proof(first=b"again"))
    (kept,) = peers.equivocations(connection, None, 9)
    assert kept.first == b"first"
    assert peers.equivocators(connection) == [(AGENT, "validate")]


def test_proofs_are_listed_of_one_signer_or_of_all(connection: psycopg.Connection) -> None:
    for number, signer in ((1, AGENT), (2, OTHER), (3, AGENT)):
        peers.keep_equivocation(connection, proof(number, signer, heard_from=OTHER if number == 3 else None))
        connection.commit()
    assert [each.batch_id for each in peers.equivocations(connection, None, 9)] == ["batch_3", "batch_2", "batch_1"]
    assert [each.batch_id for each in peers.equivocations(connection, AGENT, 9)] == ["batch_3", "batch_1"]
    (latest,) = peers.equivocations(connection, AGENT, 1)
    assert latest.heard_from == OTHER
    assert peers.equivocations(connection, b"none", 9) == []


def test_so_many_proofs_of_a_signer_are_enough(connection: psycopg.Connection) -> None:
    for number in range(PROOFS_PER_SIGNER_MAX + 3):
        peers.keep_equivocation(connection, proof(number))
    peers.keep_equivocation(connection, proof(1, OTHER))
    assert len(peers.equivocations(connection, AGENT, 999)) == PROOFS_PER_SIGNER_MAX
    assert len(peers.equivocations(connection, OTHER, 999)) == 1


def test_past_the_bound_proofs_against_strangers_go_first(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where there is a bound for each signer only: a key that contradicts itself is made in a moment."""
    monkeypatch.setattr(peers, "PROOFS_MAX", 3)
    reputations.save(connection, [Reputation(agent=AGENT, role="validate", agreed=1)], [])
    strangers = [b"\x03" + bytes((number,)) * 32 for number in range(5)]
    for signer in (AGENT, *strangers):
        peers.keep_equivocation(connection, proof(signer=signer))
        connection.commit()
    kept = [each.signer for each in peers.equivocations(connection, None, 9)]
    assert sorted(kept) == sorted([AGENT, *strangers[-2:]])


def test_a_nonce_is_spent_once_by_an_identity(connection: psycopg.Connection) -> None:
    first = Nonce(identity=AGENT, nonce="n", expires_ms=10)
    assert nonces.spend(connection, [first]) == {(AGENT, "n")}
    assert nonces.spend(connection, [first]) == frozenset()
    mixed = [first, Nonce(identity=OTHER, nonce="n", expires_ms=10), Nonce(identity=AGENT, nonce="m", expires_ms=20)]
    assert nonces.spend(connection, mixed) == {(OTHER, "n"), (AGENT, "m")}
    assert nonces.spend(connection, []) == frozenset()


def test_of_equal_nonces_in_one_group_one_is_spent(connection: psycopg.Connection) -> None:
    twice = [Nonce(identity=AGENT, nonce="n", expires_ms=10)] * 2
    assert nonces.spend(connection, twice) == {(AGENT, "n")}


def test_old_nonces_are_forgotten_and_may_come_again(connection: psycopg.Connection) -> None:
    nonces.spend(connection, [Nonce(identity=AGENT, nonce=name, expires_ms=at) for name, at in (("a", 9), ("b", 10))])
    assert nonces.prune(connection, 10) == 1
    assert nonces.spend(connection, [Nonce(identity=AGENT, nonce="b", expires_ms=99)]) == frozenset()
    assert nonces.spend(connection, [Nonce(identity=AGENT, nonce="a", expires_ms=99)]) == {(AGENT, "a")}


def test_a_nonce_that_two_transactions_spend_counts_for_one(
    postgres_url: str, connection: psycopg.Connection
) -> None:
    nonce = [Nonce(identity=AGENT, nonce="n", expires_ms=10)]
    assert nonces.spend(connection, nonce)
    with psycopg.connect(postgres_url) as other:
        other.execute("SET lock_timeout = '100ms'")
        try:
            nonces.spend(other, nonce)
            raise AssertionError("the first transaction has not ended")
        except psycopg.errors.LockNotAvailable:
            other.rollback()
        connection.rollback()
        assert nonces.spend(other, nonce) == {(AGENT, "n")}, "what was rolled back was not spent"


def test_notices_are_made_of_sealed_batches_in_their_order(connection: psycopg.Connection) -> None:
    made = [new_batch(name, [name], sequence=number) for number, name in enumerate("abc", 1)]
    batches.insert_ingested(connection, made)
    assert notices.sealed_after(connection, 0, 9, with_outputs=False) == []
    for batch in (made[2], made[0]):
        batches.seal(connection, sealed_batch(batch))
    rows = notices.sealed_after(connection, 0, 9, with_outputs=True)
    assert [(row.sequence, row.batch_id, row.outputs) for row in rows] == [
        (1, "batch_c", b"outputs"),
        (2, "batch_a", b"outputs"),
    ]
    assert rows[0].topics == ("gitdata.events.iot",)
    (later,) = notices.sealed_after(connection, 1, 9, with_outputs=False)
    assert (later.batch_id, later.outputs) == ("batch_a", None)
    assert len(notices.sealed_after(connection, 0, 1, with_outputs=False)) == 1
