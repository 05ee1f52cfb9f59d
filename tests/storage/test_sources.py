"""Sources: created, changed, taken away and brought back; how far they were read, what they sent that is no event."""

import psycopg
import pytest

from storage import sources
from storage.errors import SourceExistsError
from storage.sources import RejectedEvent
from tests.storage.making import POLICY


def test_sources_are_created_listed_and_changed(connection: psycopg.Connection) -> None:
    row = {"source_id": "s2", "name": "Two", "source_type": "mqtt", "policy_hash": POLICY, "overlay_topics": ["a.b"]}
    made = sources.create(connection, row)
    assert (made.trust_score, made.enabled, made.overlay_topics, made.policy_hash) == (50, True, ["a.b"], POLICY)
    with pytest.raises(SourceExistsError):
        sources.create(connection, row)
    changed = sources.update(connection, "s2", {"name": "Zwei", "mapping_policy": {"unmapped": "drop"}})
    assert changed is not None
    assert (changed.name, changed.mapping_policy, changed.source_type) == ("Zwei", {"unmapped": "drop"}, "mqtt")
    assert sources.update(connection, "s3", {"name": "x"}) is None
    assert [each.source_id for each in sources.list_sources(connection)] == ["s1", "s2"]
    assert [each.source_id for each in sources.list_sources(connection, after="s1", limit=1)] == ["s2"]
    assert sources.take_sequences(connection, "s2", 3) == 1
    assert sources.take_sequences(connection, "s2", 1) == 4


def make(connection: psycopg.Connection, source_id: str, **values: object) -> sources.Source:
    row = {"source_id": source_id, "name": source_id, "source_type": "webhook", "policy_hash": POLICY, **values}
    return sources.create(connection, row)


def test_a_source_comes_with_the_defaults_of_the_table(connection: psycopg.Connection) -> None:
    made = make(connection, "s2")
    assert (made.configuration, made.mapping_policy, made.validation_rules) == ({}, {}, {})
    assert (made.overlay_topics, made.identity_key, made.next_sequence) == ([], None, 1)
    assert made.last_activity_at is None


def test_columns_that_are_not_for_clients_are_left_out(connection: psycopg.Connection) -> None:
    made = make(connection, "s2", next_sequence=77, deleted_at="2020-01-01", ship_advertisement_id="x")
    assert (made.next_sequence, made.ship_advertisement_id) == (1, None)
    changed = sources.update(connection, "s2", {"next_sequence": 9, "source_id": "other"})
    assert changed is not None
    assert (changed.source_id, changed.next_sequence) == ("s2", 1)


def test_json_columns_keep_what_they_are_given(connection: psycopg.Connection) -> None:
    nested = {"url": "https://x", "list": [1, 2.5, None, {"deep": "ä\u2028"}]}
    made = make(connection, "s2", configuration=nested)
    assert made.configuration == nested


def test_a_deleted_source_is_gone_but_comes_back_under_its_id(connection: psycopg.Connection) -> None:
    make(connection, "s2", configuration={"secret": "x"})
    assert sources.take_sequences(connection, "s2", 5) == 1
    assert sources.delete(connection, "s2")
    assert not sources.delete(connection, "s2"), "it is gone already"
    assert sources.get(connection, "s2") is None
    assert [each.source_id for each in sources.list_sources(connection)] == ["s1"]
    assert connection.execute(
        "SELECT configuration, enabled FROM overlay_event_sources WHERE source_id = 's2'"
    ).fetchone() == ({}, False)
    back = make(connection, "s2", enabled=True)
    assert back.next_sequence == 6, "numbers of batches are never used twice"
    assert back.enabled


def test_deleting_a_source_takes_its_mark_and_its_rejections_with_it(connection: psycopg.Connection) -> None:
    make(connection, "s2")
    sources.set_mark(connection, "s2", {"offset": 1})
    sources.keep_rejected(connection, "s2", [rejected(1)])
    sources.delete(connection, "s2")
    make(connection, "s2")
    assert sources.mark(connection, "s2") is None
    assert sources.rejected(connection, "s2") == []


def test_marks_are_replaced_and_forgotten(connection: psycopg.Connection) -> None:
    assert sources.mark(connection, "s1") is None
    sources.set_mark(connection, "s1", {"offsets": {"0": 5}})
    sources.set_mark(connection, "s1", {"offsets": {"0": 6, "1": 1}})
    assert sources.mark(connection, "s1") == {"offsets": {"0": 6, "1": 1}}
    sources.forget_mark(connection, "s1")
    assert sources.mark(connection, "s1") is None
    sources.forget_mark(connection, "s1")


def rejected(number: int, external_id: str | None = "e") -> RejectedEvent:
    return RejectedEvent(
        external_id=external_id,
        field="/data",
        reason=f"reason {number}",
        remedy="mend it",
        head=b"\x00\xff%d" % number,
    )


def test_rejections_are_kept_with_their_bytes_the_latest_first(connection: psycopg.Connection) -> None:
    sources.keep_rejected(connection, "s1", [rejected(1), rejected(2, None)])
    sources.keep_rejected(connection, "s1", [rejected(3)])
    found = [each for each, _ in sources.rejected(connection, "s1")]
    assert found == [rejected(3), rejected(2, None), rejected(1)]


def test_the_latest_rejections_push_out_the_oldest(connection: psycopg.Connection) -> None:
    make(connection, "s2")
    sources.keep_rejected(connection, "s2", [rejected(0)])
    for start in range(0, 120, 40):
        sources.keep_rejected(connection, "s1", [rejected(number) for number in range(start, start + 40)])
    kept = [each.reason for each, _ in sources.rejected(connection, "s1")]
    assert kept == [f"reason {number}" for number in range(119, 119 - sources.REJECTED_MAX, -1)]
    assert len(sources.rejected(connection, "s2")) == 1, "each source has its own"


def test_sources_that_the_node_reads_are_found_by_type(connection: psycopg.Connection) -> None:
    make(connection, "k1", source_type="kafka")
    make(connection, "k2", source_type="kafka", enabled=False)
    make(connection, "m1", source_type="mqtt")
    make(connection, "m2", source_type="mqtt")
    sources.delete(connection, "m2")
    assert [each.source_id for each in sources.to_read(connection, ["kafka", "mqtt"])] == ["k1", "m1"]
    assert sources.to_read(connection, []) == []


def score(connection: psycopg.Connection, source_id: str = "s1") -> int:
    found = sources.get(connection, source_id)
    assert found is not None
    return found.trust_score


def test_trust_moves_towards_the_share_of_valid_events(connection: psycopg.Connection) -> None:
    assert score(connection) == 50
    sources.count_verdicts(connection, {"s1": (100, 0)})
    assert score(connection) == 75, "as many events as the prior weighs"
    for _ in range(50):
        sources.count_verdicts(connection, {"s1": (1_000, 0)})
    high = score(connection)
    assert 90 < high < 100, "earlier events fade, the prior does not"
    for _ in range(50):
        sources.count_verdicts(connection, {"s1": (0, 1_000)})
    assert score(connection) < 10


def test_the_operator_s_word_begins_the_score_anew(connection: psycopg.Connection) -> None:
    sources.count_verdicts(connection, {"s1": (0, 1_000)})
    assert score(connection) < 10
    sources.update(connection, "s1", {"trust_score": 90})
    assert score(connection) == 90
    sources.count_verdicts(connection, {"s1": (0, 100)})
    assert score(connection) == 45


def test_verdicts_of_no_source_and_of_many(connection: psycopg.Connection) -> None:
    make(connection, "s2")
    sources.count_verdicts(connection, {})
    sources.count_verdicts(connection, {"gone": (1, 1)})
    sources.count_verdicts(connection, {"s1": (100, 0), "s2": (0, 100)})
    assert (score(connection), score(connection, "s2")) == (75, 25)


def test_numbers_of_batches_are_taken_without_gaps(connection: psycopg.Connection) -> None:
    assert [sources.take_sequences(connection, "s1", count) for count in (1, 3, 2)] == [1, 2, 5]
    found = sources.get(connection, "s1")
    assert found is not None
    assert found.next_sequence == 7
    assert found.last_activity_at is not None
