"""Bodies of lines without a known length: acknowledged while they come, in bounds, with an end that says where."""

import gzip
import json
import re
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any

import httpx
import pytest
import trio
import zstandard

from node.api.services import ApiSettings
from node.calling import SignedRequests
from node.ingest.admission_control import ByteBudget, IngestLimits
from node.runtime.access import Access
from node.worker.compute import unpack
from storage import batches
from tests.node.certified_batches import NETWORK, NODE, KeySigner
from tests.node.running import Running, running, until
from tests.outage import out_of_order

NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        await started.source()
        yield started


def line(number: int, **more: Any) -> bytes:
    return json.dumps({"externalId": f"e{number}", "eventType": "reading", "data": number, **more}).encode() + b"\n"


class Sender:
    """A client that sends and reads at once, as it likes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._got = b""
        self.status = 0
        self.headers = b""

    @classmethod
    async def opened(cls, node: Running, query: str = "?sourceId=s1", *headers: str) -> "Sender":
        url = httpx.URL(node.url)
        sender = cls(await trio.open_tcp_stream(url.host, url.port or 80))
        head = [f"POST /overlay/events/ingest{query} HTTP/1.1", f"Host: {url.host}"]
        head += ["Content-Type: application/x-ndjson", "Transfer-Encoding: chunked", *headers]
        await sender._stream.send_all("\r\n".join([*head, "", ""]).encode())
        return sender

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(b"%x\r\n%b\r\n" % (len(data), data))

    async def finish(self) -> None:
        await self._stream.send_all(b"0\r\n\r\n")

    async def drop(self) -> None:
        await self._stream.aclose()

    async def _until(self, mark: bytes) -> bytes:
        with trio.fail_after(15):
            while mark not in self._got:
                more = await self._stream.receive_some(65_536)
                assert more, f"the connection ended after {self._got!r}"
                self._got += more
        found, _, self._got = self._got.partition(mark)
        return found

    async def head(self) -> int:
        self.headers = await self._until(b"\r\n\r\n")
        self.status = int(self.headers.split()[1])
        return self.status

    async def document(self) -> dict[str, Any]:
        """The next line of the answer."""
        if not self.status:
            assert await self.head() == 202
        size = int(await self._until(b"\r\n"), 16)
        text = await self._until(b"\r\n")
        assert len(text) == size
        found: dict[str, Any] = json.loads(text)
        return found


async def until_taken(node: Running, events: int) -> None:
    with trio.fail_after(10):
        while node.ingest.admission.backlog.unsettled < events:
            await trio.sleep(0.01)


async def test_pieces_are_acknowledged_while_the_body_is_sent(node: Running) -> None:
    sender = await Sender.opened(node)
    await sender.send(line(1) + line(2) + b'{"externalId":')
    first = await sender.document()
    assert (first["lines"], first["counts"]["accepted"], first["rejections"]) == ([1, 2], 2, [])
    assert first["batches"][0]["count"] == 2
    assert b"application/x-ndjson" in sender.headers
    await sender.send(b'"e3","eventType":"reading","data":3}\n\n  \nnonsense\n' + line(1))
    second = await sender.document()
    assert (second["lines"], second["counts"]) == (
        [3, 7],
        {"accepted": 1, "duplicates": 1, "rejected": 1, "versions": 0},
    )
    assert second["rejections"][0]["line"] == 6
    await sender.send(line(8).rstrip())  # a last line without an end
    await sender.finish()
    assert (await sender.document())["lines"] == [8, 8]
    last = await sender.document()
    assert last == {
        "done": True,
        "lines": 8,
        "acknowledged": 8,
        "counts": {"accepted": 4, "duplicates": 1, "rejected": 1, "versions": 0},
    }
    assert node.ingest.admission.bytes_in_flight == 0


async def test_many_lines_keep_their_order_and_pieces_their_bounds(node: Running) -> None:
    async def content() -> AsyncIterator[bytes]:
        for start in range(0, 3_500, 100):
            yield b"".join(line(number) for number in range(start, start + 100))

    answer = await node.client.post("/overlay/events/ingest?sourceId=s1", content=content(), headers=NDJSON)
    said = [json.loads(text) for text in answer.text.splitlines()]
    assert said[-1]["counts"]["accepted"] == 3_500
    ranges = [each["lines"] for each in said[:-1]]
    assert ranges[0][0] == 1
    assert ranges[-1][1] == 3_500
    assert all(after[0] == before[1] + 1 for before, after in pairwise(ranges))
    assert all(last - first < 1_000 for first, last in ranges)
    taken: list[str] = []
    for stimulus in node.recorder.told:
        call = partial(batches.payload, batch_id=stimulus.manifest.message.batch_id)
        packed = await node.database.run(call)
        assert packed is not None
        taken += [json.loads(record)["externalId"] for record in unpack(packed).split(b"\n")]
    assert taken == [f"e{number}" for number in range(3_500)]


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_compressed_bodies_are_read_as_they_come(node: Running, coding: str) -> None:
    sender = await Sender.opened(node, "?sourceId=s1", f"Content-Encoding: {coding}")
    compress: Any = gzip.compress if coding == "gzip" else zstandard.ZstdCompressor().compress
    member = compress(line(1) + line(2))
    await sender.send(member[:7])
    await sender.send(member[7:])
    assert (await sender.document())["counts"]["accepted"] == 2
    await sender.send(compress(b"".join(line(number) for number in range(3, 1_500))))
    await sender.finish()
    accepted = 2
    while "done" not in (document := await sender.document()):
        accepted += document["counts"]["accepted"]
    assert (accepted, document["done"], document["lines"]) == (1_499, True, 1_499)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_body_that_stands_for_much_costs_little_memory(node: Running, coding: str) -> None:
    sender = await Sender.opened(node, "?sourceId=s1", f"Content-Encoding: {coding}")
    noise = [line(number, data=Random(number).randbytes(80_000).hex()) for number in range(10, 17)]
    body = compressed(coding, line(1) + b"".join(noise) + b" " * 50_000_000 + b"\n" + line(3))
    assert len(body) < 1_000_000
    await sender.send(body)
    await sender.finish()
    document = await sender.document()
    while "done" not in document:
        assert node.ingest.admission.bytes_in_flight < 2_000_000
        last = document
        document = await sender.document()
    assert (document["done"], document["counts"]["accepted"], document["counts"]["rejected"]) == (True, 9, 1)
    assert last["rejections"][0]["line"] == 9


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_body_that_stands_for_more_than_its_size_allows_ends(node: Running, coding: str) -> None:
    sender = await Sender.opened(node, "?sourceId=s1", f"Content-Encoding: {coding}")
    await sender.send(compressed(coding, line(1) + b"\n" * 50_000_000 + line(2)))
    assert await sender.head() == 413
    sender = await Sender.opened(node, "?sourceId=s1", f"Content-Encoding: {coding}")
    await sender.send(compressed(coding, line(1)))
    assert (await sender.document())["lines"] == [1, 1]
    await sender.send(compressed(coding, b"\n" * 50_000_000))
    last = await sender.document()
    assert (last["done"], last["acknowledged"], last["problem"]["status"]) == (False, 1, 413)


def compressed(coding: str, body: bytes) -> bytes:
    compress: Any = gzip.compress if coding == "gzip" else zstandard.compress
    packed: bytes = compress(body)
    return packed


@pytest.mark.parametrize("cut", [True, False])
async def test_what_is_not_in_its_coding_ends_the_stream_and_says_where(node: Running, cut: bool) -> None:
    sender = await Sender.opened(node, "?sourceId=s1", "Content-Encoding: gzip")
    await sender.send(gzip.compress(line(1)))
    assert (await sender.document())["lines"] == [1, 1]
    await sender.send(gzip.compress(line(2))[:-4] if cut else b"plain")
    if cut:
        await sender.finish()
    document = await sender.document()
    while "done" not in document:
        document = await sender.document()
    assert document["done"] is False
    assert document["problem"]["type"] == "urn:overlay:problem:invalid-request"
    assert document["acknowledged"] == document["counts"]["accepted"]


async def test_a_line_that_is_too_long_is_named_and_not_kept(node: Running) -> None:
    sender = await Sender.opened(node)
    await sender.send(line(1) + b'{"eventType":"reading","data":"')
    assert (await sender.document())["lines"] == [1, 1]
    for _ in range(100):
        await sender.send(b"x" * 65_536)
        assert node.ingest.admission.bytes_in_flight < 600_000
    await sender.send(b'"}\n' + line(3))
    await sender.finish()
    document = await sender.document()
    assert (document["lines"], document["counts"]["accepted"], document["counts"]["rejected"]) == ([2, 3], 1, 1)
    assert document["rejections"][0]["line"] == 2
    assert "262144 bytes" in document["rejections"][0]["reason"]
    assert (await sender.document())["done"]


async def test_a_full_node_refuses_before_the_first_byte_and_makes_wait_after_it(postgres_url: str) -> None:
    async with running(postgres_url, limits=IngestLimits(unsettled_max=5)) as node:
        await node.source()
        sender = await Sender.opened(node)
        await sender.send(b"".join(line(number) for number in range(5)))
        assert (await sender.document())["counts"]["accepted"] == 5
        refused = await Sender.opened(node)
        await refused.send(line(9))
        assert await refused.head() == 429
        assert re.search(rb"retry-after: [2-4]\r", refused.headers.lower())
        await sender.send(line(6))
        sent = 0
        with trio.move_on_after(1.5):
            while True:  # the node reads nothing now, so that this comes to a halt
                await sender.send(line(7) * 1_000)
                sent += 1_000
        assert node.ingest.admission.backlog.unsettled == 5
        assert node.ingest.admission.bytes_in_flight < 4_000_000
        node.forget_unsettled()
        assert (await sender.document())["counts"]["accepted"] >= 1


async def test_a_client_that_reads_nothing_before_it_has_sent_all_is_not_waited_for(node: Running) -> None:
    """As most HTTP clients do it: the node's acknowledgements must not fill the buffers between them."""
    sender = await Sender.opened(node)
    sender._stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 65_536)
    with trio.fail_after(60):
        for _ in range(60):
            await sender.send(b"no event at all\n" * 2_000)
        await sender.finish()
    documents = [await sender.document()]
    while "done" not in documents[-1]:
        documents.append(await sender.document())
    assert documents[-1]["counts"]["rejected"] == 120_000
    lines = [document["lines"] for document in documents[:-1]]
    assert (lines[0][0], lines[-1][1]) == (1, 120_000)
    assert all(after[0] == before[1] + 1 for before, after in pairwise(lines))
    assert sum(document["counts"]["rejected"] for document in documents[:-1]) == 120_000
    abridged = [document for document in documents if document.get("abridged")]
    assert abridged
    assert all(len(document["rejections"]) <= 1_000 for document in abridged)


async def test_what_is_acknowledged_is_no_longer_counted(node: Running) -> None:
    """However long a stream is, it holds no more than what is not acknowledged yet."""
    sender = await Sender.opened(node)
    for number in range(20):
        await sender.send(line(number, data="x" * 50_000))
        assert (await sender.document())["counts"]["accepted"] == 1
        assert node.ingest.admission.bytes_in_flight == 0
    half = line(20, data="x" * 50_000)
    await sender.send(half[:30_000])
    await until(lambda: node.ingest.admission.bytes_in_flight == 30_000)
    await sender.send(half[30_000:])
    assert (await sender.document())["counts"]["accepted"] == 1
    assert node.ingest.admission.bytes_in_flight == 0


async def test_a_stream_whose_lines_find_no_room_goes_on_with_those_that_are_there(postgres_url: str) -> None:
    bound = 400_000
    async with running(postgres_url, limits=IngestLimits(bytes_in_flight_max=bound)) as node:
        await node.source()
        sender = await Sender.opened(node)
        await sender.send(line(0))
        assert (await sender.document())["counts"]["accepted"] == 1
        with ByteBudget(node.ingest.admission, "another client") as other:
            other.take(bound - 1_000)
            body = b"".join(line(number) for number in range(1, 1_400))  # more than one piece
            await sender.send(body)
            accepted = 0
            while accepted < 1_399:
                document = await sender.document()
                assert "done" not in document, document
                accepted += document["counts"]["accepted"]
            assert node.ingest.admission.bytes_in_flight == bound - 1_000
        await sender.finish()
        assert (await sender.document())["done"]


async def test_silence_ends_a_stream(postgres_url: str) -> None:
    settings = ApiSettings(network=NETWORK, body_bytes_max=1024 * 1024, ingest_idle_s=0.4)
    async with running(postgres_url, settings=settings) as node:
        await node.source()
        silent = await Sender.opened(node)
        assert await silent.head() == 408
        sender = await Sender.opened(node)
        await sender.send(line(1) + b'{"half":')
        assert (await sender.document())["lines"] == [1, 1]
        last = await sender.document()
        assert (last["done"], last["acknowledged"]) == (False, 1)
        assert last["problem"]["type"] == "urn:overlay:problem:stream-idle"
        assert node.ingest.admission.bytes_in_flight == 0


async def test_what_fails_on_the_way_is_said_with_the_last_line_that_counts(node: Running) -> None:
    sender = await Sender.opened(node)
    await sender.send(line(1) + line(2))
    assert (await sender.document())["lines"] == [1, 2]
    await node.client.patch("/overlay/sources/s1", json={"enabled": False})
    await sender.send(line(3))
    last = await sender.document()
    assert (last["done"], last["acknowledged"], last["counts"]["accepted"]) == (False, 2, 2)
    assert last["problem"]["type"] == "urn:overlay:problem:source-disabled"
    await node.client.patch("/overlay/sources/s1", json={"enabled": True})
    again = await Sender.opened(node)
    await again.send(line(3))
    await again.finish()
    assert (await again.document())["counts"]["accepted"] == 1


@pytest.mark.slow
async def test_a_database_that_goes_away_is_said_and_the_client_goes_on_from_there(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.sources.manager.READ_S", 3_600.0)  # in a node it is supervised
    async with running(postgres_url) as node:
        await node.source()
        sender = await Sender.opened(node)
        await sender.send(line(1) + line(2))
        assert (await sender.document())["lines"] == [1, 2]
        with out_of_order(postgres_url):
            await sender.send(line(3))
            last = await sender.document()
        assert (last["done"], last["acknowledged"]) == (False, 2)
        assert last["problem"]["type"] == "urn:overlay:problem:database-unavailable"
        with trio.fail_after(30):
            while node.ingest.trouble:  # the commit that was held up goes on
                await trio.sleep(0.05)
        again = await Sender.opened(node)
        await again.send(line(3) + line(4))
        await again.finish()
        counts = (await again.document())["counts"]
        assert counts["accepted"] + counts["duplicates"] == 2


async def test_what_is_wrong_with_the_whole_is_answered_as_ever(node: Running) -> None:
    for query, headers, data, status in (
        ("?sourceId=nobody", (), line(1), 404),
        ("?sourceId=s1&what=1", (), line(1), 400),
        ("", (), line(1), 400),
        ("?sourceId=s1", ("Content-Encoding: br",), line(1), 415),
        ("?sourceId=s1", ("Content-Encoding: gzip",), b"plain", 400),
    ):
        sender = await Sender.opened(node, query, *headers)
        await sender.send(data)
        assert await sender.head() == status
        await sender.drop()
    empty = await Sender.opened(node)
    await empty.finish()
    assert (await empty.document())["lines"] == 0


async def test_a_client_that_goes_leaves_what_was_acknowledged(node: Running) -> None:
    sender = await Sender.opened(node)
    await sender.send(line(1) + b'{"half":')
    assert (await sender.document())["lines"] == [1, 1]
    await sender.drop()
    with trio.fail_after(10):
        while node.ingest.admission.bytes_in_flight:
            await trio.sleep(0.01)
    assert (await node.post({"externalId": "e1", "eventType": "reading", "data": 1})).json()["counts"][
        "duplicates"
    ] == 1


async def test_streams_are_bounded_in_number(
    node: Running, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    monkeypatch.setattr("node.api.ingest_stream.STREAMS_MAX", 1)
    async with running(postgres_url) as small:
        one = await Sender.opened(small)
        await one.send(line(1))
        await one.document()
        two = await Sender.opened(small)
        await two.send(line(2))
        assert await two.head() == 503
        await one.finish()
        assert (await one.document())["done"]
        three = await Sender.opened(small)
        await three.send(line(3))
        assert (await three.document())["lines"] == [1, 1]


async def test_anonymous_streams_end_where_identities_are_wanted(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        await node.source()
        await node.source("s2", identityKey="02" + "ab" * 32)
        bound = await Sender.opened(node, "?sourceId=s2")
        await bound.send(line(1))
        assert await bound.head() == 403
    async with running(postgres_url, access=Access(identity_required=True)) as node:
        refused = await Sender.opened(node)
        await refused.send(line(1))
        assert await refused.head() == 401


async def test_what_is_signed_or_has_a_key_is_read_whole(node: Running) -> None:
    """A signature is over the whole body, and a kept answer stands for it: neither can be told before its end."""

    async def content() -> AsyncIterator[bytes]:
        yield line(1)
        yield line(2)

    auth = SignedRequests(KeySigner(7).key, NODE.identity)
    url = "/overlay/events/ingest?sourceId=s1"
    signed = await node.client.post(url, content=content(), headers=NDJSON, auth=auth)
    assert (signed.headers["Content-Type"], signed.json()["counts"]["accepted"]) == ("application/json", 2)
    keyed = [
        await node.client.post(url, content=content(), headers={**NDJSON, "Idempotency-Key": "k"}) for _ in range(2)
    ]
    assert keyed[0].json()["counts"]["duplicates"] == 2
    assert (keyed[1].content, keyed[1].headers["Idempotency-Replayed"]) == (keyed[0].content, "true")


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
async def test_curl_sees_acknowledgements_while_it_sends(node: Running, version: str) -> None:
    """``-T .``: curl's standard input without blocking, so that it reads answers meanwhile."""
    url = f"{node.url}/overlay/events/ingest?sourceId=s1"
    command = ["curl", version, "-sN", "-X", "POST", "-T", ".", "-H", "Content-Type: application/x-ndjson", url]
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        curl: trio.Process = await nursery.start(run)
        assert curl.stdin is not None
        assert curl.stdout is not None
        got = b""
        for number in range(1, 4):
            await curl.stdin.send_all(line(number))
            with trio.fail_after(15):
                while got.count(b"\n") < number:
                    got += await curl.stdout.receive_some()
            assert json.loads(got.splitlines()[-1])["lines"] == [number, number]
        await curl.stdin.aclose()
        async for more in curl.stdout:
            got += more
    assert json.loads(got.splitlines()[-1])["counts"]["accepted"] == 3


async def test_curl_pipes_a_file(node: Running) -> None:
    url = f"{node.url}/overlay/events/ingest?sourceId=s1"
    command = ["curl", "-sN", "-X", "POST", "-T", "-", "-H", "Content-Type: application/x-ndjson", url]
    body = b"".join(line(number) for number in range(2_345))
    done = await trio.run_process(command, stdin=body, capture_stdout=True)
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["done"], last["counts"]["accepted"]) == (True, 2_345)


async def test_httpx_has_its_events_taken_in_while_it_sends(node: Running) -> None:
    """httpx reads no answer before its body is sent; the node takes the events in meanwhile all the same."""
    seen: list[int] = []

    async def content() -> AsyncIterator[bytes]:
        for number in range(1, 4):
            yield line(number)
            await until_taken(node, number)
            seen.append(node.ingest.admission.backlog.unsettled)

    answer = await node.client.post("/overlay/events/ingest?sourceId=s1", content=content(), headers=NDJSON)
    assert seen == [1, 2, 3]
    said = [json.loads(text) for text in answer.text.splitlines()]
    assert [each["lines"] for each in said[:-1]] == [[1, 1], [2, 2], [3, 3]]
