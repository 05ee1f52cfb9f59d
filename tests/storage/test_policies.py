"""Policies: those of this node stay; those that peers sent are bounded, and go when nothing rests on them."""

import hashlib

import psycopg
import pytest

from storage import policies, replicas, reputations, sources
from storage.reputations import Reputation
from tests.storage.making import replica

KNOWN, STRANGER = b"\x02" + bytes(32), b"\x03" + bytes(32)


def document(number: int) -> tuple[bytes, bytes]:
    text = b'{"required":["%d"]}' % number
    return hashlib.sha256(text).digest(), text


def fetch(connection: psycopg.Connection, number: int, sender: bytes = STRANGER, at: int | None = None) -> bytes:
    policy_hash, text = document(number)
    policies.put_fetched(connection, policy_hash, text, sender, number if at is None else at)
    return policy_hash


def kept(connection: psycopg.Connection, *numbers: int) -> list[int]:
    return [number for number in numbers if policies.get(connection, document(number)[0]) is not None]


@pytest.fixture(autouse=True)
def known(connection: psycopg.Connection) -> None:
    reputations.save(connection, [Reputation(agent=KNOWN, role="validate", agreed=1)], [])


@pytest.mark.parametrize(("bound", "most"), [("FETCHED_MAX", 3), ("FETCHED_BYTES_MAX", 3 * len(document(1)[1]))])
def test_past_the_bound_strangers_go_first_then_the_oldest(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    """Fails where all are kept for good: each order of a peer may name a policy of its own."""
    monkeypatch.setattr(policies, bound, most)
    fetch(connection, 1, KNOWN)
    for number in (2, 3, 4, 5):
        fetch(connection, number)
    assert kept(connection, 1, 2, 3, 4, 5) == [1, 4, 5]
    for number in (6, 7, 8):
        fetch(connection, number, KNOWN)
    assert kept(connection, 1, 4, 5, 6, 7, 8) == [6, 7, 8]
    fetch(connection, 9)
    assert kept(connection, 6, 7, 8, 9) == [6, 7, 8, 9], "the one that is asked for now"
    fetch(connection, 10)
    assert kept(connection, 6, 7, 8, 9, 10) == [6, 7, 8, 10]


def test_what_something_rests_on_stays(connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "FETCHED_MAX", 1)
    in_use = fetch(connection, 1)
    held = fetch(connection, 2)
    # held and in use before anything else came
    sources.create(
        connection, {"source_id": "theirs", "name": "", "source_type": "overlay", "policy_hash": fetch(connection, 3)}
    )
    assert kept(connection, 1, 2, 3) == [3]
    del in_use
    replicas.keep(connection, replica("batch_x", policy_hash=held))
    fetch(connection, 2)
    for number in (4, 5, 6):
        fetch(connection, number)
    assert kept(connection, 2, 3, 4, 5, 6) == [2, 3, 6]
    replicas.drop(connection, ["batch_x"])
    fetch(connection, 7)
    assert kept(connection, 2, 3, 6, 7) == [3, 7]


def test_one_of_this_node_s_clients_stays_though_a_peer_sent_it_first(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "FETCHED_MAX", 1)
    fetch(connection, 1)
    policies.put(connection, *document(1))
    policies.put(connection, *document(2))
    fetch(connection, 2)
    for number in (3, 4):
        fetch(connection, number)
    assert kept(connection, 1, 2, 3, 4) == [1, 2, 4]
