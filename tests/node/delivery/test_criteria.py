"""Filter criteria: what is refused and where, what patterns match, and the way back to the document."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


# --- properties ----------------------------------------------------------------------------------------------------

words = st.text("ab.*#", min_size=1, max_size=6)
lists = st.lists(words, min_size=1, max_size=4)
documents = st.fixed_dictionaries(
    {},
    optional={
        "topics": lists,
        "sourceIds": lists,
        "eventTypes": lists,
        "minCertificationLevel": st.sampled_from(["basic", "enhanced", "critical"]),
        "status": st.sampled_from(["valid", "invalid", "all"]),
        "expression": st.sampled_from(["data.v > 1", 'eventType == "a"', "true"]),
        "includeProcessingEvidence": st.booleans(),
        "includeCertificate": st.booleans(),
    },
)


@given(documents)
def test_every_document_comes_back_as_an_equal_filter(document: dict[str, Any]) -> None:
    wanted = read_criteria(document)
    written = criteria_document(wanted)
    assert read_criteria(written) == wanted
    assert criteria_document(read_criteria(written)) == written


@given(documents, st.sampled_from(sorted(EVERYTHING)), st.sampled_from([7, {}, [1], "?", ["a", ""], [None]]))
def test_one_wrong_member_is_named_whatever_the_others_are(document: dict[str, Any], name: str, value: Any) -> None:
    with pytest.raises(InvalidCriteriaError) as refused:
        read_criteria({**document, name: value}, pointer="/filterCriteria")
    place = refused.value.fields["field"]
    assert place == f"/filterCriteria/{name}" or str(place).startswith(f"/filterCriteria/{name}/")


@given(documents)
def test_members_that_repeat_their_defaults_change_nothing(document: dict[str, Any]) -> None:
    defaults = {"minCertificationLevel": "basic", "status": "valid", "topics": None, "expression": None}
    assert read_criteria({**defaults, **document}) == read_criteria(document)


def test_levels_of_the_document_are_those_of_the_protocol() -> None:
    assert [read_criteria({"minCertificationLevel": level.word}).level for level in Level] == list(Level)


def test_an_error_says_what_was_found_and_what_is_allowed() -> None:
    with pytest.raises(InvalidCriteriaError, match="/topics: must be an array of 1 to 64 strings, or null, found 5"):
        read_criteria({"topics": 5})
    with pytest.raises(InvalidCriteriaError, match="/status: must be one of valid, invalid, all, found 'good'"):
        read_criteria({"status": "good"})
