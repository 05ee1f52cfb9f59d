"""Admitted transactions on their way to other hosts: how often a host is tried, and which hosts are called."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_network

import orjson
import pytest
import structlog
import trio
from quart import Response, request
from quart_trio import QuartTrio

from node.api.server import serve
from node.overlay import propagation
from node.overlay.propagation import ATTEMPTS_MAX, HOSTS_MAX, WAITING_MAX, Propagation
from node.overlay.submit import Broadcast
from protocols.overlay_bodies import Submission, write_submission

OWN_URL = "https://own.example/"
LOOPBACK = [ip_network("127.0.0.0/8")]
BROADCAST = Broadcast(beef=b"beef", off_chain_values=None, topics=("tm_a", "tm_b"))


class Host:
    """Answers submissions with the statuses that a test has set, then accepts them."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.submissions: list[tuple[list[str], str | None, bytes]] = []

    def app(self) -> QuartTrio:
        app = QuartTrio("host")

        @app.post("/submit")
        async def submit() -> Response:
            body = await request.get_data(as_text=False, cache=True, parse_form_data=False)
            topics = orjson.loads(request.headers["X-Topics"])
            self.submissions.append((topics, request.headers.get("x-includes-off-chain-values"), body))
            status = self.statuses.pop(0) if self.statuses else 200
            headers = {"Location": "http://127.0.0.1:9/submit"} if status in (301, 307) else {}
            return Response(b"{}", status=status, headers=headers)

        return app


@asynccontextmanager
async def serving(host: Host) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        url: str = await nursery.start(partial(serve, host.app(), "127.0.0.1:0"))
        yield url
        nursery.cancel_scope.cancel()


async def until(condition: object) -> None:
    with trio.fail_after(20):
        while not condition():  # type: ignore[operator]
            await trio.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propagation, "PAUSE_S", 0.01)


def events(logs: list[structlog.typing.EventDict]) -> list[str]:
    return [entry["event"] for entry in logs]


async def test_a_host_gets_one_submission_with_all_of_its_topics() -> None:
    host = Host()
    async with serving(host) as url, trio.open_nursery() as nursery:
        hosts = {"tm_a": [url, OWN_URL, f"{url}/"], "tm_b": [url]}
        sender = Propagation(hosts=lambda topic: hosts[topic], own_url=OWN_URL, allowed=LOOPBACK)
        nursery.start_soon(sender.run)
        sender.propagate(BROADCAST)
        sender.propagate(Broadcast(beef=b"more", off_chain_values=b"values", topics=("tm_b",)))
        await until(lambda: len(host.submissions) == 2)
        nursery.cancel_scope.cancel()
    plain = write_submission(Submission(beef=b"beef", off_chain_values=None))
    mixed = write_submission(Submission(beef=b"more", off_chain_values=b"values"))
    topics = ["tm_a", "tm_a", "tm_b"]  # advertised with and without a slash
    assert sorted(host.submissions, key=lambda each: each[2]) == sorted(
        [(topics, None, plain), (["tm_b"], "true", mixed)], key=lambda each: each[2]
    )


@pytest.mark.parametrize("status", [301, 307, 400, 429, 503])
async def test_a_host_that_refuses_is_tried_a_few_times_and_then_left(status: int) -> None:
    host = Host(*[status] * 50)
    with structlog.testing.capture_logs() as logs:
        async with serving(host) as url, trio.open_nursery() as nursery:
            sender = Propagation(hosts=lambda _: [url], own_url=OWN_URL, allowed=LOOPBACK)
            nursery.start_soon(sender.run)
            sender.propagate(BROADCAST)
            await until(lambda: "propagation.failed" in events(logs))
            nursery.cancel_scope.cancel()
    assert len(host.submissions) == ATTEMPTS_MAX, "redirects are not followed, and count as refusals"
    (failed,) = [entry for entry in logs if entry["event"] == "propagation.failed"]
    assert failed["why"] == f"status {status}"


async def test_a_host_that_recovers_gets_the_transaction() -> None:
    host = Host(503, 503)
    with structlog.testing.capture_logs() as logs:
        async with serving(host) as url, trio.open_nursery() as nursery:
            sender = Propagation(hosts=lambda _: [url], own_url=OWN_URL, allowed=LOOPBACK)
            nursery.start_soon(sender.run)
            sender.propagate(BROADCAST)
            await until(lambda: "propagation.delivered" in events(logs))
            nursery.cancel_scope.cancel()
    assert len(host.submissions) == 3


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9",
        "http://127.0.0.1:99999",
        f"https://{'x' * 64}.example",
        "http://10.0.0.1",
        "https://nowhere.invalid",
        "no url",
        "http://[",
    ],
)
async def test_a_host_that_cannot_or_may_not_be_called_costs_nothing_but_its_attempts(url: str) -> None:
    host = Host()
    with structlog.testing.capture_logs() as logs:
        async with serving(host) as good, trio.open_nursery() as nursery:
            sender = Propagation(hosts=lambda _: [url, good], own_url=OWN_URL, allowed=LOOPBACK)
            nursery.start_soon(sender.run)
            sender.propagate(BROADCAST)
            await until(lambda: len(host.submissions) == 1)
            await until(lambda: "propagation.failed" in events(logs))
            nursery.cancel_scope.cancel()
    assert len(host.submissions) == 1


async def test_private_hosts_are_never_called_unless_the_operator_allows_them() -> None:
    host = Host()
    with structlog.testing.capture_logs() as logs:
        async with serving(host) as url, trio.open_nursery() as nursery:
            sender = Propagation(hosts=lambda _: [url], own_url=OWN_URL, allowed=[])
            nursery.start_soon(sender.run)
            sender.propagate(BROADCAST)
            await until(lambda: "propagation.failed" in events(logs))
            nursery.cancel_scope.cancel()
    assert host.submissions == []


async def test_hosts_past_the_bounds_are_left_out() -> None:
    many = [f"http://127.0.0.1:9/{number:03}" for number in range(HOSTS_MAX + 5)]
    sender = Propagation(hosts=lambda _: many, own_url=OWN_URL, allowed=LOOPBACK)
    with structlog.testing.capture_logs() as logs:
        for _ in range(WAITING_MAX // HOSTS_MAX):
            sender.propagate(BROADCAST)
        assert "propagation.full" not in events(logs), "at most so many hosts for one transaction"
        sender.propagate(BROADCAST)
        assert events(logs).count("propagation.full") == HOSTS_MAX
