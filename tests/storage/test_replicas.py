"""Batches held for others: kept once, bounded, entered among the node's own, without disturbing what is there."""

from collections.abc import Iterator

import attrs
import psycopg
import pytest
import zstandard

from storage import batches, foreign_usage, policies, replicas, reputations, retention, sources
from storage.foreign_usage import Usage
from storage.replicas import Adoption, Kept
from storage.reputations import Reputation
from tests.storage.making import new_batch, replica

POLICY = bytes(32)


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres_url) as opened:
        policies.put(opened, POLICY, b"{}")
        yield opened


def adoption(batch_id: str, *event_ids: str) -> Adoption:
    return Adoption(
        batch_id=batch_id,
        coordinator=b"\x02" * 33,
        source_id="s1",
        source_sequence=1,
        policy_hash=POLICY,
        level=2,
        quorum=2,
        stateful=False,
        topics=[],
        manifest=b"manifest",
        received_ms=1,
        event_ids=list(event_ids),
        record_hashes=[bytes.fromhex(event_id.removeprefix("event_")) for event_id in event_ids],
    )


def test_a_replica_is_kept_once_and_let_go(connection: psycopg.Connection) -> None:
    assert replicas.keep(connection, replica("batch_x")).is_held
    assert replicas.keep(connection, replica("batch_x", hold=b"hold again", kept_ms=2)).is_held
    assert replicas.holds(connection) == [b"hold again"]
    assert batches.payload(connection, "batch_x") == b"payload", "agents' payloads are found here too"
    replicas.drop(connection, ["batch_x"])
    assert replicas.holds(connection) == []


def key(name: str) -> bytes:
    return b"\x03" + name.encode().ljust(32, b"_")


def works(connection: psycopg.Connection, *agents: bytes) -> None:
    """Let agents have done work here that others confirmed."""
    reputations.save(connection, [Reputation(agent=agent, role="validate", agreed=1) for agent in agents], [])


def holding(connection: psycopg.Connection, batch_id: str, coordinator: bytes, size: int = 100, at: int = 1) -> Kept:
    made = replica(batch_id, bytes(size - 1), hold=b"h", coordinator=coordinator, kept_ms=at)
    return replicas.keep(connection, made)


def usage(connection: psycopg.Connection) -> dict[bytes, tuple[int, ...]]:
    query = "SELECT coordinator, held, held_bytes, adopted, adopted_bytes FROM foreign_usage"
    return {bytes(row[0]): tuple(row[1:]) for row in connection.execute(query)}


@pytest.mark.parametrize("bound", [Usage(16, 10**9), Usage(10**9, 1_600)])
def test_one_coordinator_uses_its_share_and_no_more(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, bound: Usage
) -> None:
    """Fails where there is one bound for all: one that floods left nothing for the others."""
    monkeypatch.setattr(foreign_usage, "KEPT_MAX", bound)
    works(connection, key("flooding"), key("calm"))
    held = [holding(connection, f"batch_{number}", key("flooding")).is_held for number in range(5)]
    assert held == [True, True, False, False, False]
    assert holding(connection, "batch_0", key("flooding")).is_held, "one that is held is confirmed again"
    assert holding(connection, "batch_c", key("calm")).is_held
    replicas.drop(connection, ["batch_1", "batch_c", "batch_none"])
    assert holding(connection, "batch_5", key("flooding")).is_held
    assert usage(connection) == {key("flooding"): (2, 200, 0, 0)}


def test_strangers_together_use_their_share(connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys cost nothing: a share for each bounds nothing."""
    monkeypatch.setattr(foreign_usage, "KEPT_MAX", Usage(16, 10**9))
    works(connection, key("known"))
    held = [holding(connection, f"batch_{number}", key(str(number))).is_held for number in range(10)]
    assert held == [True] * 8 + [False] * 2
    assert holding(connection, "batch_k", key("known")) == Kept(is_held=True)


def test_strangers_make_room_the_oldest_first(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign_usage, "KEPT_MAX", Usage(8, 10**9))
    known = [key(f"known {number}") for number in range(6)]
    works(connection, *known)
    for number in (3, 1, 2):
        assert holding(connection, f"batch_s{number}", key(f"s{number}"), at=number).is_held
    assert replicas.adopt(connection, adoption("batch_s1", "event_" + "11" * 32))
    for number, each in enumerate(known[:4]):
        assert holding(connection, f"batch_k{number}", each) == Kept(is_held=True), "the adopted one counts twice"
    assert holding(connection, "batch_k4", known[4]) == Kept(is_held=True, evicted=("batch_s2",))
    assert holding(connection, "batch_s4", key("s4")) == Kept(is_held=False), "a stranger displaces nobody"
    assert holding(connection, "batch_k5", known[5]) == Kept(is_held=True, evicted=("batch_s3",))
    works(connection, key("another"))
    assert holding(connection, "batch_k6", key("another")) == Kept(is_held=False), "what is adopted stays"
    assert replicas.payload(connection, "batch_s2") is None
    assert replicas.payload(connection, "batch_s1") is not None


def test_so_many_are_evicted_as_one_takes_or_none(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign_usage, "KEPT_MAX", Usage(1_000, 800))
    monkeypatch.setattr(foreign_usage, "COORDINATOR_SHARE", 1)
    works(connection, key("known"))
    for number in range(4):
        assert holding(connection, f"batch_s{number}", key(f"s{number}"), at=number).is_held
    assert holding(connection, "batch_k1", key("known"), size=400).is_held
    assert holding(connection, "batch_k2", key("known"), size=401) == Kept(is_held=False)
    assert holding(connection, "batch_k3", key("known"), size=250).evicted == ("batch_s0", "batch_s1", "batch_s2")
    assert usage(connection) == {key("known"): (2, 650, 0, 0), key("s3"): (1, 100, 0, 0)}


def test_the_largest_go_where_the_oldest_are_too_small(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where the oldest alone are looked at: small batches of strangers would keep a large one out."""
    monkeypatch.setattr(foreign_usage, "KEPT_MAX", Usage(1_000, 800))
    monkeypatch.setattr(foreign_usage, "COORDINATOR_SHARE", 1)
    monkeypatch.setattr(replicas, "EVICTED_AT_ONCE", 2)
    works(connection, key("known"))
    for number in range(4):
        assert holding(connection, f"batch_s{number}", key(f"s{number}"), size=10, at=number).is_held
    assert holding(connection, "batch_large", key("large"), size=300, at=9).is_held
    assert holding(connection, "batch_k1", key("known"), size=400).is_held
    assert holding(connection, "batch_k2", key("known"), size=200).evicted == ("batch_large",)


def test_what_earlier_versions_held_counts_and_stays(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its coordinator is not known any more, so it is nobody's whose batches make room."""
    monkeypatch.setattr(foreign_usage, "KEPT_MAX", Usage(3, 10**9))
    monkeypatch.setattr(foreign_usage, "COORDINATOR_SHARE", 1)
    works(connection, key("known"))
    for number in range(2):
        replicas.keep(connection, replica(f"batch_{number}", coordinator=b""))
    assert holding(connection, "batch_k1", key("known")).is_held
    assert holding(connection, "batch_k2", key("known")) == Kept(is_held=False)
    assert holding(connection, "batch_s", key("stranger")) == Kept(is_held=False)
    replicas.drop(connection, ["batch_0"])
    assert holding(connection, "batch_k2", key("known")) == Kept(is_held=True)


def test_a_policy_counts_with_the_batch_it_is_kept_for(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign_usage, "KEPT_MAX", Usage(1_000, 8_000))
    works(connection, key("known"))
    large = attrs.evolve(replica("batch_x", coordinator=key("known")), policy_bytes=1_000)
    assert not replicas.keep(connection, large).is_held
    assert replicas.keep(connection, attrs.evolve(large, policy_bytes=900)).is_held


def test_what_is_packed_further_than_records_usually_are_counts_by_its_size_unpacked(
    connection: psycopg.Connection,
) -> None:
    """Fails where the packed size counts: 16 MiB of zeros are 500 bytes, and their events fill the disk."""
    assert replicas.keep(connection, replica("batch_x")).is_held
    zeros = attrs.evolve(adoption("batch_x", "event_" + "11" * 32), unpacked_bytes=80_000)
    assert replicas.adopt(connection, zeros)
    assert usage(connection)[b"\x02" * 33][2:] == (1, 10_000 + len(b"{}"))


@pytest.mark.parametrize(("most", "expired"), [(3 * 16, 0), (2 * 16, 3 - 2)])
def test_of_those_who_worked_here_so_much_expires_as_is_past_half_of_their_share(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, most: int, expired: int
) -> None:
    """Fails where all expires: events of a coordinator that never came back went before their time."""
    monkeypatch.setattr(foreign_usage, "KEPT_MAX", Usage(most, 10**9))
    works(connection, b"\x02" * 33)
    record = zstandard.compress(b'{"data":1,"eventType":"t"}')
    for number in range(3):
        assert replicas.keep(connection, replica(f"batch_{number}", record)).is_held
        assert replicas.adopt(connection, adoption(f"batch_{number}", f"event_{number}{number}" + "11" * 31))
        batches.mark_dead(connection, f"batch_{number}", ["failed"])
        replicas.drop(connection, [f"batch_{number}"])
    found = sum(retention.expire_adopted(connection, ended_before_ms=2**60, now_ms=2, limit=1) for _ in range(3))
    assert found == expired
    assert usage(connection)[b"\x02" * 33][2] == 3 - expired


def test_what_is_adopted_counts_until_it_expires(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign_usage, "KEPT_MAX", Usage(8, 10**9))
    who = b"\x02" * 33
    assert replicas.keep(connection, replica("batch_x", zstandard.compress(b'{"data":1,"eventType":"t"}'))).is_held
    assert replicas.adopt(connection, adoption("batch_x", "event_" + "11" * 32))
    replicas.drop(connection, ["batch_x"])
    assert usage(connection)[who][:3] == (0, 0, 1)
    assert not replicas.keep(connection, replica("batch_y")).is_held
    batches.mark_dead(connection, "batch_x", ["failed"])
    assert retention.expire_adopted(connection, ended_before_ms=1, now_ms=2, limit=9) == 0
    assert retention.expire_adopted(connection, ended_before_ms=2**60, now_ms=2, limit=9) == 1
    assert retention.expire_adopted(connection, ended_before_ms=2**60, now_ms=2, limit=9) == 0
    assert usage(connection) == {}
    assert replicas.keep(connection, replica("batch_y")).is_held
    assert batches.payload(connection, "batch_x") == b""


def test_a_batch_of_this_node_s_own_does_not_expire_with_those_of_others(connection: psycopg.Connection) -> None:
    sources.create(connection, {"source_id": "s1", "name": "", "source_type": "webhook", "policy_hash": POLICY})
    batches.insert_ingested(connection, [attrs.evolve(new_batch("own", ["a"]), policy_hash=POLICY)])
    batches.mark_dead(connection, "batch_own", ["failed"])
    assert retention.expire_adopted(connection, ended_before_ms=2**60, now_ms=2, limit=9) == 0


def test_what_is_not_held_is_not_adopted(connection: psycopg.Connection) -> None:
    assert not replicas.adopt(connection, adoption("batch_x", "event_" + "11" * 32))


def test_an_adopted_batch_stands_beside_the_node_s_own(connection: psycopg.Connection) -> None:
    """Same source, same number, one event in common: the common one stays with its own batch."""
    common, other = "event_" + "11" * 32, "event_" + "22" * 32
    assert replicas.keep(connection, replica("batch_x")).is_held
    assert replicas.adopt(connection, adoption("batch_x", common, other))
    assert not replicas.adopt(connection, adoption("batch_x", common, other)), "once"
    source = sources.get(connection, "s1")
    assert source is not None
    assert not source.enabled, "nobody posts to it here"
    (pending,) = batches.pending(connection)
    assert pending.coordinator == b"\x02" * 33
    assert replicas.keep(connection, replica("batch_y")).is_held
    assert replicas.adopt(connection, adoption("batch_y", common))
    rows = connection.execute("SELECT version, batch FROM event_index ORDER BY event_digest, version").fetchall()
    assert len(rows) == 2, "the record that is known already has no second place"
