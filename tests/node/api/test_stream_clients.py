"""The event stream with the clients that people use, and with those that come and go all the time."""

import json
import random
import re
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from httpx_sse import aconnect_sse
from websockets.sync.client import connect

from node.calling import SignedRequests
from node.runtime.access import Access
from protocols.keys import PrivateKey
from tests.node.api.test_stream import certify
from tests.node.api.test_stream_socket import in_thread
from tests.node.certified_batches import NODE
from tests.node.running import Running, running

PATH = "/overlay/events/stream"
OPERATOR = PrivateKey.from_bytes(b"\13" * 32)
BATCHES, RECONNECTIONS = 60, 100
CHROMIUM = (
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PAGE = """<!doctype html><script>
const seen = {sse: [], ws: []}
const done = () => {
  if (seen.sse.length == 6 && seen.ws.length == 6) {
    fetch("/", {method: "POST", body: JSON.stringify(seen)})
  }
}
const source = new EventSource("NODE/overlay/events/stream?since=0")
source.onmessage = (event) => {
  const message = JSON.parse(event.data)
  if (message.type == "event") { seen.sse.push([event.lastEventId, message.data]); done() }
}
const socket = new WebSocket("NODE/overlay/events/stream?since=0".replace("http", "ws"))
socket.onmessage = (event) => {
  const message = JSON.parse(event.data)
  if (message.type == "event") { seen.ws.push([message.sequence, message.data]); done() }
}
</script>"""


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        await started.source(overlayTopics=["t.one"])
        yield started


def expected(batches: int) -> list[str]:
    return [f"{sequence}.{position}" for sequence in range(1, batches + 1) for position in (1, 2, 3)]


async def feed(node: Running, batches: int) -> None:
    for _ in range(batches):
        await certify(node, 3)


async def read_sse(url: str, place: str, count: int) -> list[str]:
    """The next places after one; connects and leaves again."""
    places: list[str] = []
    with trio.fail_after(20):
        async with (
            httpx.AsyncClient(base_url=url, timeout=20) as client,
            aconnect_sse(client, "GET", PATH, headers={"Last-Event-ID": place}) as source,
        ):
            async for event in source.aiter_sse():
                if json.loads(event.data)["type"] == "event":
                    places.append(event.id)
                if len(places) >= count:
                    break
    return places


async def read_socket(url: str, place: str, count: int) -> list[str]:
    def read() -> list[str]:
        places: list[str] = []
        with connect(f"{url.replace('http', 'ws')}{PATH}?since={place}", close_timeout=0.1, legacy=True) as socket:
            while len(places) < count:
                message = json.loads(socket.recv(timeout=20))
                if message["type"] == "event":
                    places.append(message["sequence"])
        return places

    return await in_thread(read)


@pytest.mark.parametrize("read", [read_sse, read_socket])
async def test_a_client_that_reconnects_all_the_time_gets_every_event_once_in_order(node: Running, read: Any) -> None:
    chance = random.Random(7)
    got: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed, node, BATCHES)
        connections = 0
        while len(got) < 3 * BATCHES:
            left = 3 * BATCHES - len(got)
            wanted = left if connections >= RECONNECTIONS else min(left, chance.randint(1, 3))
            got += await read(node.url, got[-1] if got else "0", wanted)
            connections += 1
    assert got == expected(BATCHES)
    assert connections >= RECONNECTIONS * 0.8


@pytest.mark.parametrize("read", [read_sse, read_socket])
async def test_a_client_goes_on_across_a_restart(postgres_url: str, read: Any) -> None:
    async with running(postgres_url) as node:
        await node.source()
        await feed(node, 4)
        got = await read(node.url, "0", 5)
    async with running(postgres_url) as node:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed, node, 4)
            got += await read(node.url, got[-1], 9)
        got += await read(node.url, got[-1], 10)
    assert got == expected(8)


@pytest.mark.parametrize("options", [[], ["--compressed"]])
async def test_curl_reads_the_stream(node: Running, options: list[str]) -> None:
    await feed(node, 2)
    command = ["curl", "-sN", "--max-time", "20", *options, f"{node.url}{PATH}?since=0"]
    curl = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert curl.stdout is not None
    said = b""
    with trio.fail_after(20):
        while said.count(b'"type":"event"') < 6:
            said += await curl.stdout.receive_some()
    curl.kill()
    await curl.wait()
    ids = [line[4:] for line in said.decode().splitlines() if line.startswith("id: ")]
    assert [place for place in ids if place in expected(2)][:6] == expected(2)


async def test_a_browser_reads_both_kinds(postgres_url: str, tmp_path: Path) -> None:
    """EventSource (gzip) and WebSocket (offering to compress), from a page of another origin."""
    access = Access(public_reads=frozenset({"stream"}), operators=frozenset({OPERATOR.identity}))
    async with running(postgres_url, access=access) as node, trio.open_nursery() as nursery:
        auth = SignedRequests(OPERATOR, NODE.identity)
        source = {"sourceId": "s1", "name": "One", "sourceType": "webhook"}
        (await node.client.post("/overlay/sources", json=source, auth=auth)).raise_for_status()
        await feed(node, 2)
        said, heard = trio.open_memory_channel[bytes](1)
        listeners = await nursery.start(trio.serve_tcp, partial(serve_page, PAGE.replace("NODE", node.url), said), 0)
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        command = [*CHROMIUM, f"--user-data-dir={tmp_path}", "--remote-debugging-port=0", url]
        browser = await trio.lowlevel.open_process(command, stderr=subprocess.DEVNULL)
        try:
            with trio.fail_after(60):
                seen = json.loads(await heard.receive())
        finally:
            browser.kill()
            await browser.wait()
            nursery.cancel_scope.cancel()
    both = [[place, {"v": 1}] for place in expected(2)]
    assert seen == {"sse": both, "ws": both}


async def serve_page(page: str, said: "trio.MemorySendChannel[bytes]", stream: trio.SocketStream) -> None:
    """The page for a GET; what a POST says is handed on."""
    async with stream:
        asked = b""
        while b"\r\n\r\n" not in asked:
            asked += await stream.receive_some()
        head, _, body = asked.partition(b"\r\n\r\n")
        if head.startswith(b"POST"):
            size = int(re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)[1])  # type: ignore[index]
            while len(body) < size:
                body += await stream.receive_some()
            said.send_nowait(body)
        text = page.encode()
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
            % (len(text), text)
        )
