"""Filter criteria: what is refused and where, what patterns match, and the way back to the document."""

from typing import Any

import pytest

from node.delivery.criteria import ITEMS_MAX, InvalidCriteriaError, criteria_document, read_criteria
from node.runtime.topic_patterns import Patterns
from protocols.messages import Level

EVERYTHING: dict[str, Any] = {
    "topics": ["a.*", "b.#"],
    "sourceIds": ["s1", "s2"],
    "eventTypes": ["order.#", "reading"],
    "minCertificationLevel": "critical",
    "status": "all",
    "expression": 'data.value > 20 && level == "critical"',
    "includeProcessingEvidence": True,
    "includeCertificate": True,
}


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [
        ("a.b", ["a.b"], ["a", "a.b.c", "A.b"]),
        ("a.*", ["a.b", "a."], ["a", "a.b.c", "b.a"]),
        ("*.b.*", ["a.b.c"], ["a.b", "b.c", "a.c.b"]),
        ("a.#", ["a", "a.b", "a.b.c"], ["b", "ab"]),
        ("#.z", ["z", "a.z", "a.b.z"], ["a.z.b", "zz"]),
        ("a.#.z", ["a.z", "a.b.z", "a.b.z.z"], ["a", "z", "a.b"]),
        ("#", ["a", "a.b.c", ""], []),
        ("#.*.#", ["a", "a.b"], []),
        ("#.b.*.#.c", ["b.x.c", "a.b.b.x.y.c"], ["b.c", "a.b.x.d"]),
        ("c#", ["c#"], ["c", "c.d"]),
        ("te*p", ["te*p"], ["temp"]),
    ],
)
def test_patterns_match_as_in_amqp(pattern: str, fits: list[str], does_not: list[str]) -> None:
    patterns = Patterns(frozenset({pattern, "never.this"}))
    assert [name for name in fits + does_not if patterns.allow(name)] == fits


def test_no_pattern_takes_longer_than_its_length_times_the_name() -> None:
    assert not Patterns(frozenset({".".join(["#", "a"] * 60 + ["b"])})).allow(".".join(["a"] * 120))


def test_criteria_come_back_as_they_were() -> None:
    assert criteria_document(read_criteria(EVERYTHING)) == EVERYTHING
    assert criteria_document(read_criteria({})) == {}
    assert criteria_document(read_criteria({"status": "invalid"})) == {"status": "invalid"}


def test_equal_criteria_are_one_filter() -> None:
    """Clients with equal filters share what is made for them."""
    again = read_criteria({**EVERYTHING, "topics": ["b.#", "a.*"]})
    assert again == read_criteria(EVERYTHING)
    assert hash(again) == hash(read_criteria(EVERYTHING))
    assert again != read_criteria({**EVERYTHING, "expression": "data.value > 21"})


def test_what_is_absent_filters_nothing() -> None:
    wanted = read_criteria({})
    assert (wanted.topics, wanted.source_ids, wanted.level) == (None, None, Level.BASIC)
    assert wanted.selection.statuses == {"valid"}


@pytest.mark.parametrize(
    ("criteria", "field"),
    [
        ({"topic": ["a"]}, "/topic"),
        ({"topics": "a"}, "/topics"),
        ({"topics": []}, "/topics"),
        ({"topics": ["a"] * (ITEMS_MAX + 1)}, "/topics"),
        ({"topics": ["a", 1]}, "/topics/1"),
        ({"sourceIds": [""]}, "/sourceIds/0"),
        ({"eventTypes": ["x" * 257]}, "/eventTypes/0"),
        ({"minCertificationLevel": "high"}, "/minCertificationLevel"),
        ({"minCertificationLevel": None}, "/minCertificationLevel"),
        ({"status": ["valid"]}, "/status"),
        ({"expression": 5}, "/expression"),
        ({"expression": "data.value >"}, "/expression"),
        ({"expression": "secret == 1"}, "/expression"),
        ({"expression": "data.a" + " + data.a" * 1000}, "/expression"),
        ({"includeCertificate": "true"}, "/includeCertificate"),
        ({"includeProcessingEvidence": 1}, "/includeProcessingEvidence"),
    ],
)
def test_wrong_criteria_are_refused_by_their_place(criteria: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidCriteriaError) as refused:
        read_criteria(criteria)
    assert refused.value.fields["field"] == field
    assert refused.value.fields["remedy"]


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("data.value > 20", True),
        ("data.missing > 20", False),
        ('data.value > "20"', False),
        ("data.value", False),
        ('eventType == "reading" && sourceId == "s1" && level == "basic"', True),
        ('issues.exists(i, i.path == "/v")', True),
    ],
)
def test_what_cannot_be_evaluated_does_not_match(expression: str, holds: bool) -> None:
    scope = {
        "data": {"value": 23.5},
        "eventType": "reading",
        "eventId": "event_1",
        "sourceId": "s1",
        "timestamp": "2024-01-15T10:30:00Z",
        "level": "basic",
        "issues": [{"path": "/v"}],
    }
    assert read_criteria({"expression": expression}).selection.holds(scope) is holds
