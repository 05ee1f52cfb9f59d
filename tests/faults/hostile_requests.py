"""HTTP clients that mean harm: a process that attacks nodes as ``tests.faults.strangers`` orders, by a seed.

They call from addresses of their own. A report says how often they did what, which statuses they saw, and what was
wrong: a status of 500 or more that is not 503.
"""

import gzip
import json
import random
import re
import socket
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from hyperframe.frame import HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame

from tests.faults.strangers import Order, Report, obey
from tests.node.api.test_hostile_connections import GET_HEALTHZ, HELLO, http1, http2, websocket

ADDRESS: Final = "127.0.0.1"
CLIENTS: Final = 4
TIMEOUT_S: Final = 2.0
QUIET_S: Final = 0.3
STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")
IDLE: Final = 40
FRAMES: Final = 600
INFLATED: Final = 4 * 1024 * 1024

Attack = Callable[["Target", random.Random], bytes]
"""Returns what the server answered."""


class Target:
    """A node, and a source on it that takes deliveries without proof."""

    def __init__(self, port: int, source_id: str) -> None:
        self.port = port
        self.source_id = source_id

    def connect(self, rng: random.Random) -> socket.socket:
        """A connection from one of the strangers' addresses: what is limited by client is limited for them."""
        own = (f"127.66.{rng.randrange(4)}.{rng.randint(1, 250)}", 0)
        return socket.create_connection((ADDRESS, self.port), timeout=TIMEOUT_S, source_address=own)

    def say(self, rng: random.Random, *parts: bytes, quiet_s: float = QUIET_S) -> bytes:
        """Send parts one after the other, each when the server has fallen silent; what it answered."""
        answered = b""
        with self.connect(rng) as sock:
            sock.settimeout(quiet_s)
            for part in parts:
                sock.sendall(part)
                try:
                    while data := sock.recv(65_536):
                        answered += data
                except TimeoutError:
                    pass
        return answered

    def post(
        self, rng: random.Random, path: str, body: bytes, *headers: str, kind: str = "application/json"
    ) -> bytes:
        head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
        return self.say(rng, "\r\n".join([*head, "Connection: close", "", ""]).encode() + body, quiet_s=TIMEOUT_S)

    def get(self, rng: random.Random, path: str, *headers: str) -> bytes:
        head = [f"GET {path} HTTP/1.1", "Host: x", *headers, "Connection: close", "", ""]
        return self.say(rng, "\r\n".join(head).encode(), quiet_s=TIMEOUT_S)


# --- what they do --------------------------------------------------------------------------------------------------


def garbled(make: Callable[[random.Random], bytes]) -> Attack:
    return lambda target, rng: target.say(rng, make(rng))


def slow_headers(target: Target, rng: random.Random) -> bytes:
    return target.say(rng, b"GET / HTTP/1.1\r\n", *[b"X-%d: y\r\n" % number for number in range(6)])


def slow_bodies(target: Target, rng: random.Random) -> bytes:
    """Declared at the bound, and not sent."""
    head = b"POST /overlay/events/ingest HTTP/1.1\r\nHost: x\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: 16777216"
    sockets = [target.connect(rng) for _ in range(6)]
    try:
        for sock in sockets:
            sock.sendall(head + b"\r\n\r\n{")
        time.sleep(1.0)
    finally:
        for sock in sockets:
            sock.close()
    return b""


def idle_connections(target: Target, rng: random.Random) -> bytes:
    sockets = [target.connect(rng) for _ in range(IDLE)]
    time.sleep(0.5)
    for sock in sockets:
        sock.close()
    return b""


def http2_floods(target: Target, rng: random.Random) -> bytes:
    kinds: list[Callable[[int], bytes]] = [
        lambda number: PingFrame(0, opaque_data=bytes(8)).serialize(),
        lambda number: SettingsFrame(0, settings={4: 65_535}).serialize(),
        lambda number: (
            HeadersFrame(2 * number + 1, GET_HEALTHZ, flags=["END_HEADERS", "END_STREAM"]).serialize()
            + RstStreamFrame(2 * number + 1, error_code=8).serialize()
        ),
    ]
    frame = rng.choice(kinds)
    target.say(rng, HELLO + b"".join(frame(number) for number in range(FRAMES)))
    return b""  # not HTTP/1


def compressed_bombs(target: Target, rng: random.Random) -> bytes:
    inner = rng.choice(
        [
            b'{"sourceId":"s","events":[' + b'{"data":1},' * (INFLATED // 11) + b'{"data":1,"data":2}]}',
            b"[" * INFLATED,
            b'{"sourceId":"s","events":[{"data":[' + b"1e-7," * (INFLATED // 5) + b"1]}]}",
            bytes(INFLATED),
            gzip.compress(b"") * 20_000,
        ]
    )
    packed = rng.choice([gzip.compress(inner, 6), zlib.compress(inner), gzip.compress(gzip.compress(inner))])
    return target.post(rng, "/overlay/events/ingest", packed, "Content-Encoding: gzip")


def nul_paths(target: Target, rng: random.Random) -> bytes:
    paths = [
        "/overlay/sources/a%00b",
        "/overlay/events?sourceId=%00",
        "/overlay/events?after=%00",
        "/overlay/batches/%00",
        "/overlay/events/%00/certificate",
        "/overlay/agents/%00",
        "/uhrp/%00",
        "/overlay/events/stream?sourceIds=%00",
        "/overlay/events/stream?filter=data.%00",
        "/overlay/events/stream?subscriptionId=%00",
        "/overlay/jobs?limit=%00",
        "/overlay/certificates?since=%00",
    ]
    return target.get(rng, rng.choice(paths))


def nul_documents(target: Target, rng: random.Random) -> bytes:
    document = rng.choice([{"service": "ls_ship\0", "query": {"name": "\0"}}, {"service": "ls_slap", "query": "\0"}])
    return target.post(rng, "/lookup", json.dumps(document).encode())


def hostile_records(target: Target, rng: random.Random) -> bytes:
    """Well-formed JSON, and values that few databases and programs hold."""
    return target.post(
        rng, f"/overlay/sources/{target.source_id}/webhook", value(rng).encode("utf-8", "surrogatepass")
    )


def hostile_events(target: Target, rng: random.Random) -> bytes:
    events = ",".join(
        f'{{"externalId":{text(rng)},"eventType":{text(rng)},"data":{value(rng)}}}' for _ in range(rng.randint(1, 20))
    )
    body = f'{{"sourceId":"{target.source_id}","events":[{events}]}}'
    key = rng.choice(["k", "\x7f", "k" * 255, "k" * 300, str(rng.random())])
    return target.post(
        rng, "/overlay/events/ingest", body.encode("utf-8", "surrogatepass"), f"Idempotency-Key: {key}"
    )


def hostile_lines(target: Target, rng: random.Random) -> bytes:
    lines = "\n".join(
        rng.choice([value(rng), f'{{"externalId":"a","eventType":"t","data":{value(rng)}}}']) for _ in range(9)
    )
    body = lines.encode("utf-8", "surrogatepass")
    path = f"/overlay/events/ingest?sourceId={target.source_id}"
    if rng.random() < 0.5:
        return target.post(rng, path, body, kind="application/x-ndjson")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    return target.say(rng, head.encode() + b"%x\r\n%b\r\n" % (len(body), body))  # it never ends the body


TEXTS: Final = (
    "",
    "\\u0000",
    "a\\u0000b",
    "\\ud800",
    "\ud800",
    "\U0010ffff" * 40,
    "\\u202e",
    "x" * 3_000,
    "'; --",
    "%s",
    "\x7f",
)
NUMBERS: Final = (
    "1e21",
    "6.02214076e23",
    "-0",
    "-0.0",
    "1e400",
    "1e-400",
    "123456789012345678901234567890",
    "9007199254740993",
    "0.1" * 3,
    "NaN",
    "5e-324",
)


def text(rng: random.Random) -> str:
    return f'"{rng.choice(TEXTS)}"'


def value(rng: random.Random, depth: int = 0) -> str:
    """JSON, or nearly."""
    chosen = rng.random()
    if depth > 4 or chosen < 0.35:
        return rng.choice(NUMBERS)
    if chosen < 0.6:
        return text(rng)
    if chosen < 0.65:
        return "[" * 300 + "]" * 300
    members = [value(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    if chosen < 0.8:
        return f"[{','.join(members)}]"
    return "{" + ",".join(f"{text(rng)}:{member}" for member in members) + "}"


ATTACKS: Final[dict[str, Attack]] = {
    "garbled HTTP/1": garbled(http1),
    "garbled HTTP/2": garbled(http2),
    "garbled WebSocket": garbled(websocket),
    "slow headers": slow_headers,
    "slow bodies": slow_bodies,
    "idle connections": idle_connections,
    "HTTP/2 floods": http2_floods,
    "compressed bombs": compressed_bombs,
    "NULs in paths": nul_paths,
    "NULs in documents": nul_documents,
    "hostile records": hostile_records,
    "hostile events": hostile_events,
    "hostile lines": hostile_lines,
}


# --- the process ---------------------------------------------------------------------------------------------------


class Tally:
    """What was done, what was answered, and what should not have been."""

    def __init__(self) -> None:
        self.attacks: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.wrong: list[str] = []

    def add(self, name: str, answered: bytes) -> None:
        self.attacks[name] += 1
        for found in STATUS.finditer(answered):
            status = int(found[1])
            self.statuses[str(status)] += 1
            if status >= 500 and status not in (501, 503, 505):
                self.wrong.append(f"{name}: {answered[found.start() : found.start() + 700]!r}")


def attack(target: Target, seed: int, ends_s: float, tally: Tally) -> None:
    """One client: an attack after the other."""
    rng = random.Random(seed)
    for name in _order(rng):
        if time.monotonic() >= ends_s:
            return
        try:
            tally.add(name, ATTACKS[name](target, rng))
        except OSError:  # it closed, or the node is away
            tally.add(name, b"")
            time.sleep(0.02)


def _order(rng: random.Random) -> Iterator[str]:
    while True:
        yield from rng.sample(list(ATTACKS), len(ATTACKS))


def attack_for(order: Order) -> Report:
    tally, ends_s = Tally(), time.monotonic() + order["seconds"]
    target = Target(order["port"], order["source"])
    with ThreadPoolExecutor(CLIENTS) as pool:
        for number in range(CLIENTS):
            pool.submit(attack, target, order["seed"] * CLIENTS + number, ends_s, tally)
    return {"attacks": tally.attacks, "statuses": tally.statuses, "wrong": tally.wrong}


if __name__ == "__main__":
    obey(attack_for)
