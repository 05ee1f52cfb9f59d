"""Sends admitted transactions to the hosts that advertise their topics (BRC-22).

Only transactions that were new here are sent, so one that comes back is not sent again. A host that refuses or does
not answer is tried a few more times and then skipped: it can find the transaction by lookup.
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
from node.runtime.guarded_network import Network, OutboundFault
from protocols.overlay_bodies import Submission, write_submission

log = structlog.get_logger(__name__)

WAITING_MAX: Final = 256
SENDERS: Final = 4
HOSTS_MAX: Final = 32  # of one transaction
ATTEMPTS_MAX: Final = 3
TIMEOUT_S: Final = 10.0
PAUSE_S: Final = 2.0  # doubled each time; up to half of it is cut at random

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
    """The queue of submissions to other hosts, and the tasks that send them."""

    def __init__(self, *, hosts: Hosts, own_url: str, allowed: Sequence[Network]) -> None:
        self._hosts = hosts
        self._own_url = own_url.rstrip("/")
        self._allowed = allowed
        self._pausing = 0
        self._send, self._receive = trio.open_memory_channel[HostSubmission](WAITING_MAX)

    def propagate(self, broadcast: Broadcast) -> None:
        """Queue a transaction for the hosts of its topics; hosts that the queue has no room for are skipped."""
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
        """Send submissions until cancelled."""
        self._pausing = 0
        async with guarded_client(self._allowed, TIMEOUT_S) as client, trio.open_nursery() as nursery:
            for _ in range(SENDERS):
                nursery.start_soon(self._send_all, client, nursery)

    def _put(self, submission: HostSubmission) -> None:
        try:
            self._send.send_nowait(submission)
        except trio.WouldBlock:
            log.warning("propagation.full", host=submission.host, topics=submission.topics)

    async def _send_all(self, client: httpx.AsyncClient, nursery: trio.Nursery) -> None:
        async for submission in self._receive.clone():
            problem = await _submit(client, submission)
            if not problem:
                log.info("propagation.delivered", host=submission.host, topics=submission.topics)
            elif submission.attempt >= ATTEMPTS_MAX or self._pausing >= WAITING_MAX:
                log.warning("propagation.failed", host=submission.host, topics=submission.topics, why=problem)
            else:
                self._pausing += 1
                nursery.start_soon(self._again, submission)

    async def _again(self, submission: HostSubmission) -> None:
        pause_s = PAUSE_S * 2 ** (submission.attempt - 1)
        await trio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # spreads load, guards nothing
        self._pausing -= 1
        self._put(attrs.evolve(submission, attempt=submission.attempt + 1))


async def _submit(client: httpx.AsyncClient, submission: HostSubmission) -> str:
    """Submit to a host. Returns why it did not accept the transaction; empty if it did."""
    headers = {"Content-Type": "application/octet-stream", "X-Topics": orjson.dumps(submission.topics).decode()}
    if submission.has_off_chain_values:
        headers["x-includes-off-chain-values"] = "true"
    try:
        async with client.stream(
            "POST", f"{submission.host}/submit", content=submission.body, headers=headers
        ) as answer:
            return "" if answer.is_success else f"status {answer.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL, OutboundFault, OSError, trio.TooSlowError) as error:
        return f"{type(error).__name__}: {error}"
