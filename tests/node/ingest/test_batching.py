"""The planner: every event is classified once, batches keep their bounds, versions form chains. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.ingest import batching
from node.ingest.batching import Classification, Draft, Planner, Request, Terms, Version
from node.worker.parsing.admission import Admitted, admit, with_previous
from protocols.identifiers import record_hash
from protocols.levels import Level
from tests.node.running import NETWORK

BASIC = Terms(
    source_id="s1",
    policy_hash=bytes(32),
    level=Level.BASIC,
    quorum=1,
    topics=(),
    stateful=False,
    on_conflict="version",
)
CRITICAL = attrs.evolve(BASIC, level=Level.CRITICAL, quorum=3)
CHAINED = attrs.evolve(BASIC, stateful=True)
REJECTING = attrs.evolve(BASIC, on_conflict="reject")

Event = tuple[str, Any]
"""An external id and the data."""


def admitted(*events: Event, kind: str = "t") -> Admitted:
    body = [{"externalId": name, "eventType": kind, "data": data} for name, data in events]
    return admit(orjson.dumps({"sourceId": "s1", "events": body}), network=NETWORK)


def planner(known: Mapping[str, Sequence[Version]] | None = None, **options: Any) -> Planner:
    return Planner(known or {}, **{"batch_events": 100, "coalesce": True, **options})


def take(plan: Planner, *events: Event, number: int = 0, terms: Terms = BASIC, kind: str = "t") -> Classification:
    return plan.take(Request(number=number, admitted=admitted(*events, kind=kind), terms=terms))


def names(draft: Draft) -> list[str]:
    return [orjson.loads(line)["externalId"] for line in draft.lines]


def stored(*events: Event) -> dict[str, list[Version]]:
    """First versions of these events, as they would be found in the database."""
    columns = admitted(*events)
    return {
        event_id: [
            Version(
                number=1, record_hash=digest, previous=None, level=Level.ENHANCED, quorum=2, batch_id="batch_before"
            )
        ]
        for event_id, digest in zip(columns.event_ids, columns.hashes, strict=True)
    }


def test_a_repeat_in_one_request_is_a_duplicate_of_its_draft() -> None:
    plan = planner()
    result = take(plan, ("a", 1), ("a", 1))
    assert result.statuses == ["ingested", "duplicate"]
    assert result.drafts == [0, -1]
    known = result.known[1]
    assert known is not None
    assert (known.draft, known.batch_id, known.level) == (0, "", Level.BASIC)
    assert names(plan.drafts[0]) == ["a"]


def test_a_repeat_of_a_stored_event_is_a_duplicate_of_its_batch() -> None:
    result = take(planner(stored(("a", 1))), ("a", 1), ("b", 1))
    assert result.statuses == ["duplicate", "ingested"]
    known = result.known[0]
    assert known is not None
    assert (known.batch_id, known.level, known.quorum) == ("batch_before", Level.ENHANCED, 2)


def test_a_changed_event_is_a_version_that_names_the_one_before() -> None:
    known = stored(("a", 1))
    (first,) = next(iter(known.values()))
    plan = planner(known)
    result = take(plan, ("a", 2))
    assert (result.statuses, result.versions) == (["ingested"], 1)
    (draft,) = plan.drafts
    assert draft.versions == [2]
    assert orjson.loads(draft.lines[0])["previous"] == first.record_hash
    assert draft.hashes == [record_hash(draft.lines[0])]


def test_going_back_to_an_earlier_version_is_a_duplicate() -> None:
    plan = planner()
    results = [take(plan, ("a", value), number=number) for number, value in enumerate((1, 2, 1, 2))]
    assert [result.statuses for result in results] == [["ingested"], ["ingested"], ["duplicate"], ["duplicate"]]
    assert len(plan.drafts) == 2, "no batch holds an event twice"


def test_a_policy_can_refuse_changes() -> None:
    plan = planner(stored(("a", 1)))
    result = take(plan, ("a", 2), ("b", 1), ("a", 1), terms=REJECTING)
    assert result.statuses == ["rejected", "ingested", "duplicate"]
    (conflict,) = result.conflicts
    assert (conflict.index, conflict.external_id) == (0, "a")
    assert conflict.reason.startswith("conflict")
    assert names(plan.drafts[0]) == ["b"]


def test_requests_of_equal_terms_share_a_batch_only_where_they_may() -> None:
    together, apart = planner(), planner(coalesce=False)
    for number, name in enumerate("abc"):
        take(together, (name, 1), number=number)
        take(apart, (name, 1), number=number)
    assert [names(draft) for draft in together.drafts] == [["a", "b", "c"]]
    assert [names(draft) for draft in apart.drafts] == [["a"], ["b"], ["c"]]


def test_types_and_terms_are_kept_apart() -> None:
    plan = planner()
    take(plan, ("a", 1), kind="x")
    take(plan, ("b", 1), kind="y")
    take(plan, ("c", 1), terms=CRITICAL, kind="x")
    take(plan, ("d", 1), kind="x")
    assert [names(draft) for draft in plan.drafts] == [["a", "d"], ["b"], ["c"]]


def test_chained_events_keep_their_order_whatever_their_types() -> None:
    plan = planner()
    take(plan, ("a", 1), terms=CHAINED, kind="x")
    take(plan, ("b", 1), terms=CHAINED, kind="y")
    assert [names(draft) for draft in plan.drafts] == [["a", "b"]]


def test_events_whose_level_was_raised_go_to_a_batch_of_their_own() -> None:
    plan = planner()
    columns = admitted(("a", 1), ("b", 1), ("c", 1))
    plan.take(Request(number=0, admitted=columns, terms=BASIC, raised={1: CRITICAL}))
    assert [(draft.terms.level, names(draft)) for draft in plan.drafts] == [
        (Level.BASIC, ["a", "c"]),
        (Level.CRITICAL, ["b"]),
    ]


def test_a_batch_that_would_grow_too_large_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "BATCH_BYTES_MAX", 1_000)
    plan = planner()
    take(plan, *((f"e{number}", "x" * 300) for number in range(6)))
    assert [len(draft.lines) for draft in plan.drafts] == [2, 2, 2]
    take(plan, ("large", "y" * 5_000), number=1)
    assert names(plan.drafts[-1]) == ["large"], "an event larger than that has a batch to itself"


ids = st.sampled_from(["a", "b", "c", "d"])
requests = st.lists(
    st.tuples(
        st.lists(st.tuples(ids, st.integers(0, 2)), min_size=1, max_size=6),
        st.sampled_from([BASIC, CRITICAL, CHAINED, REJECTING]),
    ),
    max_size=8,
)


@given(requests, st.integers(1, 4), st.booleans())
def test_whatever_comes_the_plan_is_sound(
    given_requests: list[tuple[list[Event], Terms]], batch_events: int, coalesce: bool
) -> None:
    plan = planner(stored(("a", 0)), batch_events=batch_events, coalesce=coalesce)
    placed: Counter[int] = Counter()
    for number, (events, terms) in enumerate(given_requests):
        result = take(plan, *events, number=number, terms=terms)
        assert len(result.statuses) == len(result.drafts) == len(result.known) == len(events)
        assert result.statuses.count("rejected") == len(result.conflicts)
        placed.update(place for place in result.drafts if place >= 0)
        for status, place, known in zip(result.statuses, result.drafts, result.known, strict=True):
            assert (place >= 0) == (status == "ingested")
            assert (known is None) == (status == "ingested")
    for number, draft in enumerate(plan.drafts):
        assert 1 <= len(draft.lines) <= batch_events
        assert placed[number] == len(draft.lines) == len(draft.hashes) == len(draft.versions)
        assert len(set(draft.event_ids)) == len(draft.event_ids), "no batch holds an event twice"
        assert draft.hashes == [record_hash(line) for line in draft.lines]
    versions: dict[str, list[int]] = {}
    for draft in plan.drafts:
        for event_id, version in zip(draft.event_ids, draft.versions, strict=True):
            versions.setdefault(event_id, []).append(version)
    for event_id, numbers in versions.items():
        first = 2 if event_id in stored(("a", 0)) else 1
        assert sorted(numbers) == list(range(first, first + len(numbers))), "versions have no gaps"


def test_a_later_version_is_compared_as_one() -> None:
    """Its record names the one before, so the same content has another hash."""
    first = admitted(("a", 1))
    second = with_previous(admitted(("a", 2)).lines[0], first.hashes[0])
    one = Version(
        number=1, record_hash=first.hashes[0], previous=None, level=Level.BASIC, quorum=1, batch_id="batch_1"
    )
    two = attrs.evolve(one, number=2, record_hash=record_hash(second), previous=first.hashes[0], batch_id="batch_2")
    result = take(planner({first.event_ids[0]: [one, two]}), ("a", 2), ("a", 1), ("a", 3))
    assert result.statuses == ["duplicate", "duplicate", "ingested"]
    assert [None if known is None else known.batch_id for known in result.known] == ["batch_2", "batch_1", None]
