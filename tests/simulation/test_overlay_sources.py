"""Nodes that read each other's certified batches: whole nodes, real databases, a virtual clock."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import trio
import trio.testing

from node.network import sync
from node.runtime.settings import Settings
from storage.connections import BoundedConnection
from storage.embedded import EmbeddedPostgres
from tests.simulation.ground import deterministic, grounds, reset
from tests.simulation.links import STORM_S, Faults
from tests.simulation.member import Member
from tests.simulation.network import NetworkOfNodes

NODES = 4
CALM = Faults(delay_ms=2)


class Quiet(NetworkOfNodes):
    """Nodes without faults and without clients of their own, for what a test has them do."""

    def __init__(self, databases: list[str], connections: dict[str, BoundedConnection]) -> None:
        super().__init__(0, databases, connections, CALM)
        self.members = [Member(self, index, url, connections[url]) for index, url in enumerate(databases)]
        self.by_identity = {member.identity: member for member in self.members}
        for member in self.members:
            reset(connections[member.url])

    def without_roles(self, index: int) -> None:
        """Have a node be no agent: it is party to nobody's quorum."""
        settings: Settings = self.members[index].settings().model_copy(update={"overlay_roles": ()})
        self.members[index].settings = lambda: settings  # type: ignore[method-assign]

    def play(self, scenario: Callable[["Quiet"], Any]) -> None:
        with deterministic(0):
            trio.run(self._play, scenario, clock=trio.testing.MockClock(autojump_threshold=0))

    async def _play(self, scenario: Callable[["Quiet"], Any]) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for member in self.members:
                nursery.start_soon(member.live)
            await self.until(lambda: all(member.requests for member in self.members), "the nodes are up")
            await trio.sleep(STORM_S)  # adverts have gone round
            await scenario(self)
            nursery.cancel_scope.cancel()

    async def until(self, condition: Callable[[], bool], what: str, within_s: float = 90) -> None:
        """Wait for something, in virtual time."""
        started_s = trio.current_time()
        while not condition():
            assert trio.current_time() - started_s < within_s, f"not within {within_s:g} s: {what}"
            await trio.sleep(0.1)

    async def source(self, at: int, source_id: str, topic: str, **reads: Any) -> None:
        """A source whose events belong to a topic, and that reads what ``reads`` says, if it says something."""
        document = {
            "sourceId": source_id,
            "name": source_id,
            "sourceType": "overlay" if reads else "webhook",
            "configuration": reads,
            "overlayTopics": [topic],
        }
        status, answer = await self.members[at].call("POST", "/overlay/sources", document)
        assert status == 201, answer

    async def post(self, at: int, source_id: str, count: int, start: int = 0) -> list[str]:
        events = [
            {"externalId": str(number), "eventType": "reading", "data": {"value": number}}
            for number in range(start, start + count)
        ]
        body = {"sourceId": source_id, "events": events, "processingOptions": {"consensusLevel": "enhanced"}}
        status, answer = await self.members[at].call("POST", "/overlay/events/ingest", body)
        assert status == 202, answer
        return [event["eventId"] for event in answer["processedEvents"]]

    def certified(self, at: int, source_id: str) -> list[str]:
        """External ids of the certified events of a source at a node, sorted."""
        query = f"""SELECT external_id FROM overlay_events e JOIN batches b USING (batch_id)
                    WHERE e.source_id = '{source_id}' AND validation_status = 'certified' AND b.coordinator IS NULL
                    ORDER BY external_id"""
        return [row[0] for row in self.inspection.rows(self.members[at], query)]

    def subscribe(self, at: int, topics: list[str], **criteria: Any) -> None:
        connection = self.connections[self.members[at].url]
        with connection.transaction():
            connection.execute(
                """INSERT INTO overlay_event_subscriptions
                       (subscription_id, client_id, subscription_type, overlay_topics, filter_criteria)
                   VALUES ('s', 'c', 'overlay', %s, %s)""",
                (topics, psycopg.types.json.Jsonb(criteria)),
            )


@pytest.fixture
def quiet(postgres: EmbeddedPostgres) -> Iterator[Quiet]:
    with grounds(postgres.url, "overlay_sources", NODES) as (urls, connections):
        yield Quiet(urls, connections)


def test_a_notice_brings_what_no_stream_brought(quiet: Quiet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last node advertises no topic and is no agent, and the logs of others are not read again: what it has of
    another node's batches after that it has by a notice.
    """
    monkeypatch.setattr(sync, "ROUND_S", 100_000.0)
    quiet.without_roles(NODES - 1)

    async def scenario(nodes: Quiet) -> None:
        await nodes.source(0, "told", "weather.jfk")
        await nodes.source(0, "untold", "weather.lga")
        await nodes.source(3, "copy", "copies", topics=["weather.#"])
        nodes.subscribe(0, ["*.jfk"])
        untold = await nodes.post(0, "untold", 30)
        told = await nodes.post(0, "told", 30)
        await nodes.until(lambda: len(nodes.certified(3, "copy")) >= 30, "what notices told of")
        more = await nodes.post(0, "told", 10, start=30)
        await nodes.until(lambda: len(nodes.certified(3, "copy")) >= 40, "what later notices told of")
        await trio.sleep(60)
        assert nodes.certified(3, "copy") == sorted(told + more), "each once, and nothing that nobody told of"
        assert len(nodes.certified(0, "untold")) == len(untold)
        assert all(not member.transport.struck for member in nodes.members if member.transport)

    quiet.play(scenario)


def test_nodes_that_read_each_other_come_to_an_end(quiet: Quiet) -> None:
    """A reads C and B, B reads A: what came from A comes back to A no more, what came from C goes round once."""

    async def scenario(nodes: Quiet) -> None:
        a, b, c = 0, 1, 2
        await nodes.source(a, "at-a", "a.in")
        await nodes.source(c, "at-c", "c.in")
        await nodes.source(a, "copy-a", "a.out", topics=["b.*", "c.*"])
        await nodes.source(b, "copy-b", "b.out", topics=["a.*"])
        for at, topic in ((a, "a.#"), (b, "b.#"), (c, "c.#")):
            nodes.subscribe(at, [topic])
        of_a = await nodes.post(a, "at-a", 5)
        of_c = await nodes.post(c, "at-c", 7)
        await nodes.until(lambda: len(nodes.certified(b, "copy-b")) >= 12, "all of A's, and C's by way of A")
        await trio.sleep(120)  # what goes in circles would go on
        assert nodes.certified(a, "copy-a") == sorted(of_c)
        again = nodes.certified(b, "copy-b")
        assert [name for name in again if " " not in name] == sorted(of_a)
        assert sorted(name.split(" ")[1] for name in again if " " in name) == sorted(of_c)

    quiet.play(scenario)
