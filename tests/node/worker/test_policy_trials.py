"""Trial runs of a policy: what each event becomes, over batches, and the totals."""

from pathlib import Path
from typing import Any

import pytest

from agents.memory import EMPTY_CONTEXT
from agents.policy import policy_document
from node.worker.policy_trials import trial_document, try_policy
from protocols.canonical import canonical_json
from protocols.errors import InvalidPolicyError, MalformedError
from protocols.limits import EVENTS_PER_BATCH_MAX
from tests.node.operator_packages import MISBEHAVING, install, levels_policy

GROWS = policy_document({"monotonic": [{"field": "n"}], "bounds": [{"field": "n", "max": 5, "severity": "warning"}]})


def event(number: Any, external_id: str = "e", **members: Any) -> dict[str, Any]:
    return {"externalId": external_id, "eventType": "t", "data": {"n": number}, **members}


def test_what_each_event_becomes() -> None:
    policy = policy_document({"coercion": [{"field": "n", "type": "number"}], "required": ["n"]})
    events = [event("7"), event("x", "f"), event(None), {"eventType": "t"}, "no event", event(float("inf"))]
    tried, context = try_policy(policy, events)
    assert [each.status for each in tried] == ["valid", "invalid", "invalid", *["rejected"] * 3]
    assert [each.index for each in tried] == list(range(6))
    assert (tried[0].before, tried[0].after, tried[0].external_id) == ({"n": "7"}, {"n": 7}, "e")
    assert [each.issues[0]["rule"] for each in tried[1:]] == ["coercion", "required", "ingest", "ingest", "ingest"]
    assert [each.issues[0]["path"] for each in tried[3:5]] == ["/data", ""]
    assert all(each.issues[0]["expected"] and each.after is None for each in tried[3:])
    assert (tried[4].before, tried[4].external_id) == ("no event", None)
    assert context == EMPTY_CONTEXT


def test_rules_about_the_past_see_all_events_though_they_fill_several_batches() -> None:
    count = EVENTS_PER_BATCH_MAX + 2
    events = [event(number, str(number)) for number in range(count)]
    events.append(event(count - 1, "again"))
    tried, context = try_policy(GROWS, events)
    assert [each.status for each in tried].count("invalid") == 1
    assert tried[-1].issues[-1]["rule"] == "monotonicity"
    assert tried[EVENTS_PER_BATCH_MAX].index == EVENTS_PER_BATCH_MAX
    later, _ = try_policy(GROWS, [event(count - 1)], context)
    assert later[0].status == "invalid", "the context goes on where it ended"
    fresh, _ = try_policy(GROWS, [event(0)])
    assert fresh[0].status == "valid"


def test_rejected_events_do_not_move_the_others() -> None:
    events = [event(1, "a"), {"data": 1}, event(2, "b"), event(2, "c", eventType=""), event(3, "d")]
    tried, _ = try_policy(GROWS, events)
    assert [each.status for each in tried] == ["valid", "rejected", "valid", "rejected", "valid"]
    assert [each.external_id for each in tried] == ["a", None, "b", "c", "d"]
    only, context = try_policy(GROWS, [{"data": 1}] * 3)
    assert ({each.status for each in only}, context) == ({"rejected"}, EMPTY_CONTEXT)
    assert try_policy(GROWS, []) == ([], EMPTY_CONTEXT)


def test_the_totals_of_a_trial() -> None:
    shown = trial_document(GROWS, [event(1), event(1), event(9), event(9), {"data": 1}])
    assert {name: shown[name] for name in ("events", "valid", "invalid", "rejected")} == {
        "events": 5,
        "valid": 2,
        "invalid": 2,
        "rejected": 1,
    }
    assert shown["issuesByRule"] == {"bounds": 2, "ingest": 1, "monotonicity": 2}
    assert list(shown["issuesByRule"]) == sorted(shown["issuesByRule"])
    assert shown["results"][2] == {
        "index": 2,
        "externalId": "e",
        "status": "valid",
        "data": {"n": 9},
        "normalizedData": {"n": 9},
        "issues": [{"expected": {"max": 5}, "found": 9, "path": "/n", "rule": "bounds", "severity": "warning"}],
        "level": None,
    }
    assert shown["contextBytes"] > len(EMPTY_CONTEXT)
    assert canonical_json(shown), "the document can be sent"


def test_functions_and_levels_are_tried_too(site: Path) -> None:
    policy = levels_policy(install(site, "misbehaving", MISBEHAVING))
    tried, _ = try_policy(policy, [event(0, data={"v": value}) for value in ("yes", "no", "plain", "key", "exit")])
    assert [each.level for each in tried] == ["critical", None, "basic", "critical", "critical"]


@pytest.mark.parametrize("context", [b"", b"[]", b'{"monotonic":1}', b'{"other":{}}'])
def test_a_wrong_context_is_refused(context: bytes) -> None:
    with pytest.raises(MalformedError, match="context"):
        try_policy(GROWS, [event(1)], context)


def test_a_wrong_policy_is_refused() -> None:
    with pytest.raises(InvalidPolicyError):
        try_policy(b'{"rule":[]}', [event(1)])
