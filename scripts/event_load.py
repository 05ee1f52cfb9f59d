"""Weather-like events for benchmarks: sources of them, and a client that offers them at a rate.

The client is cheap, so that it does not take the processor time of the nodes beside it: requests are written to raw
connections, several ahead of their answers, and no task is started for any.
"""

import json
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import httpx
import orjson
import trio

from agents.roles import BatchOutput, execute
from protocols.canonical import canonical_json
from scripts.measuring import Ends, quantile
from scripts.network import ROOT, Node

POLICY: Final = ROOT / "configs" / "policies" / "weather.json"
CONNECTIONS: Final = 126  # of a client, to all nodes
AHEAD: Final = 4  # requests on a connection that wait for their answers; for more than that a post is not sent
TICK_S: Final = 0.002
ANSWER_S: Final = 60.0
RECONNECT_S: Final = 0.1
SHARES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
LENGTH: Final = re.compile(rb"content-length: *(\d+)")
RETRY_AFTER: Final = re.compile(rb"retry-after: *(\d+)")


class Feed:
    """Weather-like events of one source, time always moving on, as request bodies: cheap to make."""

    def __init__(self, station: str) -> None:
        self.source_id = f"bench-{station.lower()}"
        self.station = station
        self.count = 0
        self._template = (
            f'{{"externalId":"{station}-%d","eventType":"weather.observation","timestamp":"%s","data":'
            f'{{"origin":"{station}","time_hour":"%s","temp":%d.02,"dewp":26.06,"humid":59.37,"wind_dir":%d,'
            '"wind_speed":10.357019999999999,"wind_gust":null,"precip":0,"pressure":1012.3,"visib":10}}'
        )

    def body(self, size: int) -> bytes:
        events = [self.event() for _ in range(size)]
        return (
            f'{{"sourceId":"{self.source_id}","processingOptions":{{"requireCertification":true,'
            f'"consensusLevel":"enhanced"}},"events":[{",".join(events)}]}}'
        ).encode()

    def event(self) -> str:
        n = self.count = self.count + 1
        day = f"2013-{1 + n // 2419200 % 12:02}-{1 + n // 86400 % 28:02}"
        at = f"{day}T{n // 3600 % 24:02}:{n // 60 % 60:02}:{n % 60:02}Z"
        return self._template % (n, at, at, 39 + n % 40, n % 36 * 10)


def weather_policy() -> dict[str, Any]:
    policy: dict[str, Any] = json.loads(POLICY.read_bytes())
    return policy


def station(number: int) -> str:
    """Three capital letters, as the policy asks of a station; another for each number below 26 cubed."""
    return "".join(chr(65 + number // place % 26) for place in (676, 26, 1))


def register(node: Node, feed: Feed, policy: Mapping[str, Any]) -> None:
    split = ("mapping", "coercion", "required")
    response = httpx.post(
        f"{node.url}/overlay/sources",
        json={
            "sourceId": feed.source_id,
            "name": feed.station,
            "sourceType": "webhook",
            "mappingPolicy": {key: policy[key] for key in split},
            "validationRules": {key: value for key, value in policy.items() if key not in split},
        },
        auth=node.operator,
        timeout=30,
    )
    response.raise_for_status()


def registered_feeds(nodes: Sequence[Node], sources: int) -> dict[int, list[Feed]]:
    """New sources of each node, by the node's index."""
    policy = weather_policy()
    feeds = {node.index: [Feed(station(node.index * sources + n)) for n in range(sources)] for node in nodes}
    for node in nodes:
        for feed in feeds[node.index]:
            register(node, feed, policy)
    return feeds


def trusted(body: bytes, source_id: str, policy: bytes, context: bytes) -> BatchOutput:
    """What a process that trusts itself makes of a post: parse, roles, hashes; no signatures, no peers."""
    events = orjson.loads(body)["events"]
    payload = b"\n".join(canonical_json({**event, "previous": None}) for event in events)
    return execute(network="bench", source_id=source_id, payload=payload, policy=policy, context=context)


@attrs.define
class Offer:
    """What became of the posts of a load, in events.

    Attributes:
        refused: Answered 429. unavailable: Answered 503 or 507. unanswered: Their connection ended, or the time for
            answers; they may have been accepted. unsent: As many requests as are sent ahead waited for answers.
        posts: Offered, whether sent or not. refusals: Answers of 429.
        started_ms, ended_ms: The time in which events were offered, UTC.
        seconds: The same, by the monotonic clock.
        cpu_s: Processor time of making and sending the posts.
    """

    posts: int = 0
    offered: int = 0
    accepted: int = 0
    refused: int = 0
    unavailable: int = 0
    unanswered: int = 0
    unsent: int = 0
    refusals: int = 0
    acks_ms: list[float] = attrs.Factory(list)
    retry_after_s: list[float] = attrs.Factory(list)
    started_ms: float = 0.0
    ended_ms: float = 0.0
    seconds: float = 0.0
    cpu_s: float = 0.0


class Connection:
    """A connection to a node. Requests are written together and answered in their order."""

    def __init__(self, node: Node, offer: Offer, room: "deque[Connection]") -> None:
        """``room``: Of the node: a connection stands in it once for each request that it can take."""
        self._address = (node.host, node.http_port)
        self._head = (
            f"POST /overlay/events/ingest HTTP/1.1\r\nHost: {node.host}:{node.http_port}\r\n"
            "Content-Type: application/json\r\nPrefer: return=minimal\r\nContent-Length: %d\r\n\r\n"
        ).encode()
        self._offer = offer
        self._room = room
        self._unwritten: list[bytes] = []
        self._something = trio.Event()
        self.unanswered: deque[tuple[int, float]] = deque()  # events of each request, and when it was made

    def post(self, body: bytes, events: int) -> None:
        self._unwritten += (self._head % len(body), body)
        self.unanswered.append((events, time.perf_counter()))
        self._something.set()

    async def run(self) -> None:
        """Connect, again after the connection ends; requests without an answer are not repeated."""
        while True:
            try:
                stream = await trio.open_tcp_stream(*self._address)
                async with stream, trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, stream)
                    await self._read(stream)
                    nursery.cancel_scope.cancel()
            except* (OSError, trio.BrokenResourceError):
                await trio.sleep(RECONNECT_S)
            self.give_up()

    def give_up(self) -> None:
        """Count what has no answer as unanswered."""
        self._unwritten.clear()
        while self.unanswered:
            self._offer.unanswered += self._take()[0]

    async def _write(self, stream: trio.SocketStream) -> None:
        while True:
            await self._something.wait()
            self._something = trio.Event()
            data = b"".join(self._unwritten)
            self._unwritten.clear()
            await stream.send_all(data)

    async def _read(self, stream: trio.SocketStream) -> None:
        held = bytearray()
        while data := await stream.receive_some(1 << 16):
            held += data
            while (head_end := held.find(b"\r\n\r\n")) >= 0:
                head = bytes(held[:head_end]).lower()
                length = LENGTH.search(head)
                assert length is not None, "the node's answers say their length"
                end = head_end + 4 + int(length[1])
                if len(held) < end:
                    break
                self._answered(int(head[9:12]), head, bytes(held[head_end + 4 : end]))
                del held[:end]

    def _answered(self, status: int, head: bytes, body: bytes) -> None:
        events, made = self._take()
        if status == 202:
            self._offer.accepted += orjson.loads(body)["counts"]["accepted"]
            self._offer.acks_ms.append(1000 * (time.perf_counter() - made))
        elif status == 429:
            self._offer.refused += events
            self._offer.refusals += 1
            after = RETRY_AFTER.search(head)
            assert after is not None, "a refusal says when to come back"
            self._offer.retry_after_s.append(float(after[1]))
        elif status in (503, 507):
            self._offer.unavailable += events
        else:
            raise RuntimeError(f"a post was answered {status}: {body[:500].decode(errors='replace')}")

    def _take(self) -> tuple[int, float]:
        self._room.append(self)
        return self.unanswered.popleft()


class Client:
    """Posts at a rate, open loop: what is refused is not repeated, and no answer delays the next post."""

    def __init__(self, nodes: Sequence[Node], feeds: Mapping[int, Sequence[Feed]], *, size: int, rate: float) -> None:
        """Args:
        feeds: Sources by the index of their node. size: Events of a post. rate: Events a second, to all nodes.
        """
        self._nodes = nodes
        self._feeds = feeds
        self._size = size
        self._rate = rate
        self.offer = Offer()

    async def run(self, seconds: float) -> None:
        """Offer events for that time, and wait for the answers. Raises RuntimeError at an answer that is no outcome
        of a post, such as 400.
        """
        offer = self.offer
        connections: list[Connection] = []
        rooms: list[deque[Connection]] = []
        for node in self._nodes:
            room: deque[Connection] = deque()
            own = [Connection(node, offer, room) for _ in range(CONNECTIONS // len(self._nodes))]
            room += own * AHEAD
            connections += own
            rooms.append(room)
        async with trio.open_nursery() as nursery:
            for each in connections:
                nursery.start_soon(each.run)
            used = time.process_time()
            await self._post_all(seconds, rooms)
            with trio.move_on_after(ANSWER_S):
                while any(each.unanswered for each in connections):
                    await trio.sleep(TICK_S)
            offer.cpu_s = time.process_time() - used
            nursery.cancel_scope.cancel()
        for each in connections:
            each.give_up()

    async def _post_all(self, seconds: float, rooms: Sequence[deque[Connection]]) -> None:
        offer, size = self.offer, self._size
        offer.started_ms, started = 1000 * time.time(), trio.current_time()
        for turn in range(int(self._rate * seconds / size)):
            due = started + turn * size / self._rate
            if due > (now := trio.current_time()):
                await trio.sleep_until(max(due, now + TICK_S))
            offer.posts += 1
            offer.offered += size
            place, number = turn % len(rooms), turn // len(rooms)
            if not rooms[place]:
                offer.unsent += size
                continue
            feeds = self._feeds[self._nodes[place].index]
            rooms[place].popleft().post(feeds[number % len(feeds)].body(size), size)
        await trio.sleep_until(started + seconds)
        offer.ended_ms, offer.seconds = 1000 * time.time(), trio.current_time() - started


def outcome(offer: Offer, ended: Ends) -> dict[str, Any]:
    """The figures of a load: rates a second while events were offered, times in ms, and counts of events.

    ``without_end`` is what was accepted, by the answers or by the databases, and neither certified nor marked dead.
    """
    certified, dead = ended.events("certified"), ended.events("dead")
    stored = certified + dead + ended.events("pending")
    return {
        "offered_per_s": round(offer.offered / offer.seconds),
        "accepted_per_s": round(offer.accepted / offer.seconds),
        "certified_per_s": round(ended.certified_by(offer.ended_ms) / offer.seconds),
        "offered": offer.offered,
        "accepted": offer.accepted,
        "not_accepted": offer.offered - offer.accepted,
        "refused": offer.refused,
        "refusals": offer.refusals,
        "unavailable": offer.unavailable,
        "unanswered": offer.unanswered,
        "unsent": offer.unsent,
        "certified": certified,
        "invalid": ended.invalid,
        "dead": dead,
        "without_end": max(offer.accepted, stored) - certified - dead,
        "events_per_batch": round(certified / ended.batches, 1) if ended.batches else None,
        "ack_ms": {name: round(quantile(offer.acks_ms, share), 1) for name, share in SHARES.items()},
        "certificate_ms": {name: round(ended.to_certificate_ms(share)) for name, share in SHARES.items()}
        if certified
        else dict.fromkeys(SHARES),
        "retry_after_s": quantile(offer.retry_after_s, 0.5) if offer.retry_after_s else None,
        "client_share_of_core": round(offer.cpu_s / offer.seconds, 2),
        "client_us_per_post": round(1e6 * offer.cpu_s / max(1, offer.posts), 1),
    }
