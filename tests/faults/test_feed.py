"""What the harness expects of the agents is what they do, for every reading of the sample: two independent ways."""

import itertools
import json

import orjson
import pytest

from agents.policy import policy_document
from agents.roles import execute
from protocols.canonical import canonical_json
from scripts.demo import POLICY, STATIONS
from tests.faults.feed import ID_MEMBER, Feed, Form


@pytest.mark.parametrize("station", STATIONS)
def test_the_roles_find_what_the_feed_expects(station: str) -> None:
    feed = Feed("a-source", station)
    context = b"{}"
    policy = policy_document(json.loads(POLICY.read_text()))
    found = {"certified": 0, "invalid": 0}
    for external_ids, body in itertools.islice(feed.batches(500), 40):
        events = orjson.loads(body)["events"]
        assert [event["externalId"] for event in events] == external_ids
        payload = b"\n".join(canonical_json({**event, "previous": None}) for event in events)
        output = execute(network="n", source_id="a-source", payload=payload, policy=policy, context=context)
        context = output.context_out
        lines = zip(events, output.normalized.split(b"\n"), output.leaves.split(b"\n"), strict=True)
        for event, normalized, leaf in lines:
            expected = feed.expected(event["externalId"])
            assert event["data"] == expected.data
            assert orjson.loads(normalized) == expected.normalized, event
            assert (b'"issues":[]' in leaf) == (expected.status == "certified"), leaf
            found[expected.status] += 1
    assert found["invalid"] == {"EWR": 7, "JFK": 6, "LGA": 0}[station]
    assert found["certified"] > 15_000, "more than a year, so that readings come again with ids of their own"


def test_ids_never_repeat() -> None:
    ids = [each for batch, _ in itertools.islice(Feed("a-source", "JFK").batches(500), 60) for each in batch]
    assert len(set(ids)) == len(ids) > 25_000


@pytest.mark.parametrize("form", Form)
def test_each_form_has_the_same_readings(form: Form) -> None:
    feed = Feed("a-source", "LGA", form)
    for external_ids, body in itertools.islice(feed.batches(300), 40):
        if form is Form.WEBHOOK:
            sent = {each[ID_MEMBER]: each for each in orjson.loads(body)["readings"]}
        else:
            events = orjson.loads(body)["events"] if form is Form.REQUEST else map(orjson.loads, body.splitlines())
            sent = {event["externalId"]: event["data"] for event in events}
        assert list(sent) == external_ids
        assert all(feed.expected(external_id).data == data for external_id, data in sent.items())
