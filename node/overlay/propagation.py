"""Passes admitted transactions on to the hosts that advertise their topics (BRC-22): at most once each, in the end.

What is passed on was new here, so a transaction that comes back stops here. A host that does not take it is asked
a few times more and then left: it finds the transaction by lookup.
"""

import random
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import httpx
import orjson
import structlog
import trio

from node.overlay.submit import Broadcast
from node.runtime.guarded_http import guarded_client
from node.runtime.guarded_network import ForbiddenAddressError, Network
from protocols.overlay_bodies import Submission, write_submission

log = structlog.get_logger(__name__)

WAITING_MAX: Final = 256
SENDERS: Final = 4
HOSTS_MAX: Final = 32  # of one transaction
ATTEMPTS_MAX: Final = 3
TIMEOUT_S: Final = 10.0
PAUSE_S: Final = 2.0  # doubled each time, half of it drawn at random

Hosts = Callable[[str], Sequence[str]]
"""The URLs of the hosts that advertise a topic."""


@attrs.frozen(kw_only=True)
class HostSubmission:
    """One transaction for one host."""

    host: str
    topics: tuple[str, ...]
    body: bytes
    has_off_chain_values: bool
    attempt: int = 1


class Propagation:
    """The queue of what is to be passed on, and those who do it."""

    def __init__(self, *, hosts: Hosts, own_url: str, allowed: Sequence[Network]) -> None:
        self._hosts = hosts
        self._own_url = own_url.rstrip("/")
        self._allowed = allowed
        self._pausing = 0
        self._send, self._receive = trio.open_memory_channel[HostSubmission](WAITING_MAX)

    def pass_on(self, broadcast: Broadcast) -> None:
        """Queue a transaction for the hosts of its topics; what the queue has no room for is left out."""
        topics_of: dict[str, list[str]] = {}
        for topic in broadcast.topics:
            for host in self._hosts(topic):
                if host.rstrip("/") != self._own_url:
                    topics_of.setdefault(host.rstrip("/"), []).append(topic)
        body = write_submission(Submission(beef=broadcast.beef, off_chain_values=broadcast.off_chain_values))
        for host in sorted(topics_of)[:HOSTS_MAX]:
            self._put(
                HostSubmission(
                    host=host,
                    topics=tuple(topics_of[host]),
                    body=body,
                    has_off_chain_values=broadcast.off_chain_values is not None,
                )
            )

    async def run(self) -> None:
        """Deliver until cancelled."""
        self._pausing = 0
        async with guarded_client(self._allowed, TIMEOUT_S) as client, trio.open_nursery() as nursery:
            for _ in range(SENDERS):
                nursery.start_soon(self._deliver_all, client, nursery)

    def _put(self, delivery: HostSubmission) -> None:
        try:
            self._send.send_nowait(delivery)
        except trio.WouldBlock:
            log.warning("propagation.full", host=delivery.host, topics=delivery.topics)

    async def _deliver_all(self, client: httpx.AsyncClient, nursery: trio.Nursery) -> None:
        async for delivery in self._receive.clone():
            problem = await _deliver(client, delivery)
            if not problem:
                log.info("propagation.delivered", host=delivery.host, topics=delivery.topics)
            elif delivery.attempt >= ATTEMPTS_MAX or self._pausing >= WAITING_MAX:
                log.warning("propagation.failed", host=delivery.host, topics=delivery.topics, why=problem)
            else:
                self._pausing += 1
                nursery.start_soon(self._again, delivery)

    async def _again(self, delivery: HostSubmission) -> None:
        pause_s = PAUSE_S * 2 ** (delivery.attempt - 1)
        await trio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # spread, no secret
        self._pausing -= 1
        self._put(attrs.evolve(delivery, attempt=delivery.attempt + 1))


async def _deliver(client: httpx.AsyncClient, delivery: HostSubmission) -> str:
    """Post to a host. Returns why it did not take the transaction, empty if it did."""
    headers = {"Content-Type": "application/octet-stream", "X-Topics": orjson.dumps(delivery.topics).decode()}
    if delivery.has_off_chain_values:
        headers["x-includes-off-chain-values"] = "true"
    try:
        async with client.stream("POST", f"{delivery.host}/submit", content=delivery.body, headers=headers) as answer:
            return "" if answer.is_success else f"status {answer.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL, ForbiddenAddressError, OSError, trio.TooSlowError) as error:
        return f"{type(error).__name__}: {error}"
