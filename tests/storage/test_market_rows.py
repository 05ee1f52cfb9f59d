"""What the market of agents leaves in the database: entities, reputations, templates, auctions."""

import attrs
import psycopg
import pytest

from storage import auctions, entities, reputations, templates
from storage.reputations import Incident, Reputation
from storage.templates import StoredTemplate
from tests.storage.making import AGENT


def test_entities_are_replaced_and_deleted_in_groups(connection: psycopg.Connection) -> None:
    entities.commit(connection, [("a", b"1"), ("b", b"2")], [])
    entities.commit(connection, [("a", b"3"), ("c", b"4")], ["b", "never"])
    assert [state for _, state in entities.load_all(connection)] == [b"3", b"4"]


def test_reputations_are_kept_as_they_are_and_incidents_to_a_bound(connection: psycopg.Connection) -> None:
    row = reputations.Reputation(agent=AGENT, role="validate", agreed=8, successes=7.5, failures=0.25, at_ms=9)
    incidents = [
        reputations.Incident(agent=AGENT, role="validate", outcome="late", batch_id=f"batch_{n}", at_ms=n)
        for n in range(reputations.INCIDENTS_KEPT + 7)
    ]
    reputations.save(connection, [row], incidents[:30])
    later = attrs.evolve(row, agreed=9, late=1)
    reputations.save(connection, [later], incidents[30:])
    assert reputations.load(connection) == [later]
    assert reputations.incidents_of(connection, AGENT) == incidents[: -reputations.INCIDENTS_KEPT - 1 : -1]


def test_past_the_bound_agents_that_never_agreed_go_first_with_their_incidents(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reputations, "KEPT_MAX", 3)
    agents = [bytes((number,)) * 33 for number in range(5)]
    saved = [
        Reputation(agent=agent, role="validate", agreed=int(number == 0), equivocated=1, at_ms=number)
        for number, agent in enumerate(agents)
    ]
    incidents = [Incident(agent=agent, role="validate", outcome="late", batch_id="b", at_ms=1) for agent in agents]
    reputations.save(connection, [*saved, Reputation(agent=agents[1], role="certify", at_ms=9)], incidents)
    assert reputations.prune(connection) == 3
    assert reputations.prune(connection) == 0
    assert [(each.agent, each.role) for each in reputations.load(connection)] == [
        (agents[0], "validate"),
        (agents[1], "certify"),
        (agents[4], "validate"),
    ]
    left = [len(reputations.incidents_of(connection, agent)) for agent in agents]
    assert left == [1, 1, 0, 0, 1]


def test_of_the_versions_of_a_template_the_latest_is_in_use(connection: psycopg.Connection) -> None:
    first, second = (
        StoredTemplate(digest=bytes([n]) * 32, template_id="t", job_type="validate", level="basic", document=b"{}")
        for n in (1, 2)
    )
    templates.put(connection, first)
    templates.put(connection, second)
    assert templates.in_use(connection) == [second]
    templates.put(connection, first)
    assert templates.in_use(connection) == [first]
    assert templates.withdraw(connection, first.digest)
    assert templates.in_use(connection) == [second]
    kept = templates.get(connection, first.digest)
    assert kept is not None
    assert kept.withdrawn
    assert [each.digest for each in templates.versions(connection, template_id="t", limit=9)] == [
        first.digest,
        second.digest,
    ]


def test_an_auction_is_found_by_job_and_by_lease(connection: psycopg.Connection) -> None:
    auctions.put(connection, announcement_id="job_1", lease_id="lease_1", record={"bids": []}, at_ms=1)
    auctions.put(connection, announcement_id="job_1", lease_id="lease_1", record={"bids": [1]}, at_ms=2)
    assert auctions.get(connection, "job_1") == auctions.get(connection, "lease_1") == {"bids": []}
    assert auctions.get(connection, "job_2") is None
    assert auctions.latest(connection, 5) == [{"bids": []}]
