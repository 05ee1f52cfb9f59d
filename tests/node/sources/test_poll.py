"""Sources that are polled: a real server on one side, a real node on the other, crashes in between."""

import email.utils
import gzip
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest
import trio

from node.runtime import workers
from node.runtime.guarded_http import guarded_client
from node.sources import SourceFault, SourceIntake, poll
from node.sources.in_hand import RecordsInHand
from node.sources.intake import Compute, SavedPosition
from node.sources.settings.poll import PollSourceSettings
from node.sources.status import SourceStatus
from node.worker import compute
from storage import batches, sources
from tests.node.http_server import HERE, Asked, Said, Server, named, serving
from tests.node.running import Running, running, until

POLL = {"poll": poll.CONNECTOR}
OFTEN = {"interval": 1, "jitter": 1}
ALLOWED = [ip_network(f"{HERE}/32")]
SECRET = "hush-hush"


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url, connectors=POLL) as started:
        yield started


async def polled(node: Running, url: str, source_id: str = "s1", **configuration: Any) -> None:
    configuration = {"url": url, "eventType": "reading", **OFTEN, **configuration}
    made = await node.source(source_id, sourceType="poll", configuration=configuration)
    assert made.status_code == 201, made.text


async def records(node: Running, source_id: str = "s1") -> list[dict[str, Any]]:
    """Every record that was taken in of a source, in its order; versions of an event too."""
    found: list[dict[str, Any]] = []
    for told in node.recorder.told:
        said = told.manifest.message
        if said.source_id == source_id:
            packed = await node.database.run(partial(_payload, batch_id=said.batch_id))
            found += [orjson.loads(line) for line in compute.unpack(packed).splitlines()]
    return found


def _payload(connection: Any, batch_id: str) -> bytes:
    packed = batches.payload(connection, batch_id)
    assert packed is not None
    return packed


async def ids(node: Running, source_id: str = "s1") -> list[str | None]:
    return [record["externalId"] for record in await records(node, source_id)]


async def state(node: Running, source_id: str = "s1") -> dict[str, Any] | None:
    found: dict[str, Any] | None = (await node.client.get(f"/overlay/sources/{source_id}")).json()["state"]
    return found


async def reached(node: Running, wanted: Callable[[dict[str, Any]], bool], source_id: str = "s1") -> dict[str, Any]:
    """The state of a source, once it is so."""
    shown: dict[str, Any] | None = None
    with trio.move_on_after(20):
        while True:
            shown = await state(node, source_id)
            if shown is not None and wanted(shown):
                return shown
            await trio.sleep(0.02)
    raise AssertionError(shown)


async def mark(node: Running, source_id: str = "s1") -> SavedPosition | None:
    return await node.database.run(partial(sources.mark, source_id=source_id))


class Listing:
    """A server's items, each with its number as its id, in pages."""

    def __init__(self, count: int, per_page: int = 3) -> None:
        self.items = [self.item(number) for number in range(1, count + 1)]
        self.per_page = per_page

    @staticmethod
    def item(number: int) -> dict[str, Any]:
        return {"id": number, "value": number / 4}

    def add(self, count: int) -> None:
        self.items += [self.item(len(self.items) + number) for number in range(1, count + 1)]

    def ids(self) -> list[str]:
        return [str(item["id"]) for item in self.items]

    def by_cursor(self, asked: Asked) -> Said:
        """``next`` is the number of items up to the page's end, null at the end of all."""
        start = int(asked.query.get("after", 0))
        page = self.items[start : start + self.per_page]
        end = start + len(page)
        more = end if end < len(self.items) else None
        return self.tagged(asked, {"data": {"items": page}, "next": more, "left": len(self.items) - end})

    def by_link(self, asked: Asked) -> Said:
        start = int(asked.query.get("start", 0))
        page = self.items[start : start + self.per_page]
        links = [("Link", '<?start=0>; rel="first"')]
        if start + self.per_page < len(self.items):
            links.append(("Link", f'<?start={start + self.per_page}>; rel="next"'))
        return Said(headers=links, body=orjson.dumps(page))

    def newest_first(self, asked: Asked) -> Said:
        start = int(asked.query.get("start", 0))
        page = self.items[::-1][start : start + self.per_page]
        more = start + self.per_page < len(self.items)
        said = self.tagged(asked, page)
        links = [("Link", f"</?start={start + self.per_page}>; rel=next")] if more else []
        return attrs.evolve(said, headers=[*said.headers, *links])

    def since(self, asked: Asked) -> Said:
        """Those from ``since`` on, that one too."""
        page = [item for item in self.items if item["id"] >= int(asked.query.get("since", 0))][: self.per_page]
        return Said(body=b"".join(orjson.dumps(item) + b"\n" for item in page))

    @staticmethod
    def tagged(asked: Asked, document: Any) -> Said:
        body = orjson.dumps(document)
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if asked.headers.get("if-none-match") == etag:
            return Said(status=304, headers=[("ETag", etag)])
        return Said(headers=[("ETag", etag)], body=body)


BY_CURSOR: dict[str, Any] = {
    "eventsPath": "/data/items",
    "cursorPath": "/next",
    "cursorParameter": "after",
    "lagPath": "/left",
    "externalIdPath": "/id",
}
BY_LINK: dict[str, Any] = {"eventsPath": "", "followLinks": True, "externalIdPath": "/id"}
NEWEST_FIRST = {**BY_LINK, "pagesFrom": "first"}
SINCE = {"format": "ndjson", "cursorField": "/id", "cursorParameter": "since", "externalIdPath": "/id"}
WAYS: dict[str, dict[str, Any]] = {
    "by_cursor": BY_CURSOR,
    "by_link": BY_LINK,
    "newest_first": NEWEST_FIRST,
    "since": SINCE,
}


@pytest.mark.parametrize("way", WAYS)
async def test_pages_are_followed_and_polls_go_on_where_they_were(node: Running, way: str) -> None:
    listing = Listing(10)
    async with serving(getattr(listing, way)) as server:
        await polled(node, f"{server.url}/", **WAYS[way])
        shown = await reached(node, lambda shown: shown["lag"] == 0)
        assert (shown["status"], shown["accepted"]) == ("running", 10)
        before = len(server.asked)
        await until(lambda: len(server.asked) > before + 1)
        await reached(node, lambda shown: shown["accepted"] == 10)
        listing.add(5)
        await reached(node, lambda shown: shown["accepted"] == 15)
        found = await ids(node)
        assert sorted(found, key=lambda each: int(each or 0)) == listing.ids(), "each once"
        if way != "newest_first":
            assert found == listing.ids()
        before = len(server.asked)
        await node.client.patch("/overlay/sources/s1", json={"configuration": configuration_of(server, way, 2)})
        await until(lambda: len(server.asked) > before)
        if way in ("by_cursor", "by_link"):
            assert server.asked[before].query != {}, "it began anew"


def configuration_of(server: Server, way: str, interval: float) -> dict[str, Any]:
    return {"url": f"{server.url}/", "eventType": "reading", **OFTEN, **WAYS[way], "interval": interval}


async def test_an_answer_that_did_not_change_is_not_sent_again(node: Running) -> None:
    listing = Listing(2)
    when = email.utils.formatdate(usegmt=True)

    def dated(asked: Asked) -> Said:
        if asked.headers.get("if-modified-since") == when:
            return Said(status=304)
        return Said(headers=[("Last-Modified", when)], body=orjson.dumps(listing.items))

    def untagged(asked: Asked) -> Said:
        return Said(body=orjson.dumps(listing.items))

    async with (
        serving(lambda asked: listing.tagged(asked, listing.items)) as tagged,
        serving(dated) as dating,
        serving(untagged) as plain,
    ):
        for name, server in {"s1": tagged, "s2": dating, "s3": plain}.items():
            await polled(node, server.url, name, eventsPath="", externalIdPath="/id")
        await until(lambda: min(len(server.asked) for server in (tagged, dating, plain)) >= 3)
        for name in ("s1", "s2", "s3"):
            shown = await reached(node, lambda shown: shown["status"] == "running", name)
            assert (shown["accepted"], shown["duplicates"]) == (2, 0)
        assert all("if-none-match" in asked.headers for asked in tagged.asked[1:])
        assert "if-none-match" not in tagged.asked[0].headers
        listing.add(1)
        for name in ("s1", "s3"):
            shown = await reached(node, lambda shown: shown["accepted"] == 3, name)
            assert shown["duplicates"] == 2


async def test_a_changed_item_is_a_new_version_and_an_unchanged_one_a_duplicate(node: Running) -> None:
    listing = Listing(2)
    async with serving(lambda asked: Said(body=orjson.dumps(listing.items))) as server:
        await polled(node, server.url, eventsPath="", externalIdPath="/id")
        await reached(node, lambda shown: shown["accepted"] == 2)
        listing.items[0]["value"] = 99
        await reached(node, lambda shown: (shown["accepted"], shown["duplicates"]) == (3, 1))
        found = await records(node)
        assert [record["externalId"] for record in found] == ["1", "2", "1"]
        assert found[2]["previous"] is not None


async def test_feeds_csv_and_whole_documents(node: Running) -> None:
    feed = b"""<rss version="2.0"><channel><item><guid>g1</guid><title>T</title>
      <pubDate>Mon, 06 Sep 2021 14:45:00 GMT</pubDate></item></channel></rss>"""
    answers = {
        "/feed": Said(headers=[("Content-Encoding", "gzip")], body=gzip.compress(feed)),
        "/csv": Said(headers=[("Content-Type", "text/csv")], body=b"id,v\nc1,007\nc2,1,2\n"),
        "/whole": Said(headers=[("X-Id", "w1"), ("X-Kind", "snapshot")], body=b'{"v": [1, 2]}'),
    }
    async with serving(lambda asked: answers[asked.path]) as server:
        await polled(node, f"{server.url}/feed", "feed", format="feed")
        await polled(node, f"{server.url}/csv", "csv", format="csv", externalIdPath="/id")
        await polled(
            node,
            f"{server.url}/whole",
            "whole",
            externalIdHeader="X-Id",
            eventTypeHeader="X-Kind",
            method="POST",
            body="q",
        )
        for name in ("feed", "csv", "whole"):
            await reached(node, lambda shown: shown["accepted"] == 1, name)
        (entry,) = await records(node, "feed")
        assert (entry["externalId"], entry["timestamp"]) == ("g1", "2021-09-06T14:45:00.000Z")
        assert entry["data"]["title"] == "T"
        (row,) = await records(node, "csv")
        assert (row["externalId"], row["data"]) == ("c1", {"id": "c1", "v": "007"})
        progress = (await node.client.get("/overlay/sources/csv/progress")).json()
        assert [entry["head"] for entry in progress["rejections"]] == ["row at line 3 has 3 cells, not 2: c2,1,2"]
        (whole,) = await records(node, "whole")
        assert (whole["externalId"], whole["eventType"], whole["data"]) == ("w1", "snapshot", {"v": [1, 2]})
        assert {asked.body for asked in server.asked if asked.path == "/whole"} == {b"q"}


def has_failed(why: str) -> Callable[[dict[str, Any]], bool]:
    """The condition that a source's last error has these words."""
    return lambda shown: why in (shown["lastError"] or "")


# --- what goes wrong ---------------------------------------------------------------------------------------------


async def test_a_server_that_fails_is_shown_and_asked_again(node: Running) -> None:
    """As long as it asks to be left alone, it is; then everything comes all the same."""
    listing = Listing(3)
    faults = [Said(status=500), Said(status=429, headers=[("Retry-After", "3")])]
    times: list[float] = []

    def handler(asked: Asked) -> Said:
        times.append(trio.current_time())
        return faults.pop(0) if faults else listing.by_cursor(asked)

    async with serving(handler) as server:
        await polled(node, f"{server.url}/{SECRET}?key={SECRET}", **BY_CURSOR)
        why = f"{server.url} answers 429 and asks to wait 3 s"
        shown = await reached(node, lambda shown: shown["lastError"] == why and shown["status"] == "failing")
        assert shown["errors"] == 2
        assert shown["retryAt"] is not None
        shown = await reached(node, lambda shown: shown["accepted"] == 3)
        assert times[2] - times[1] >= 3, "it was not left alone"
    shown = await reached(node, has_failed("cannot connect"))
    assert SECRET not in str(shown)
    async with serving(listing.by_cursor, port=server.port):
        listing.add(1)
        await reached(node, lambda shown: shown["accepted"] == 4)


async def crawl() -> AsyncIterator[bytes]:
    while True:
        yield b" "
        await trio.sleep(0.02)


FAULTS: dict[str, tuple[Said | Callable[[], Said], dict[str, Any], str]] = {
    "status": (Said(status=404), {}, "answers 404"),
    "empty": (Said(), {}, "the body is not JSON"),
    "html": (
        Said(body=b"<html>Log in</html>"),
        {},
        "the body is not JSON: a value must stand here",
    ),
    "deep": (Said(body=b"[" * 10_000), {}, "nested too deeply"),
    "place": (Said(body=b"{}"), {"eventsPath": "/items"}, "the body has no array at /items"),
    "csv": (Said(body=b'a\n"' + b"x" * 200_000), {"format": "csv"}, "field larger than field limit"),
    "xml": (
        Said(body=b'<!DOCTYPE a [<!ENTITY a "b">]><rss/>'),
        {"format": "feed"},
        "the body declares entities",
    ),
    "large": (Said(body=b" " * 1_001), {"bytesMax": 1_000}, "the body has more than 1000 bytes"),
    "bomb": (
        Said(headers=[("Content-Encoding", "gzip")], body=gzip.compress(bytes(50_000_000), 1)),
        {},
        "the body has more than 4194304 bytes",
    ),
    "slow": (lambda: Said(pieces=crawl()), {"timeout": 0.3}, "no whole answer within 0.3 s"),
    "loop": (Said(status=302, headers=[("Location", "/loop")]), {}, "more than 5 redirects"),
    "posted": (Said(status=307, headers=[("Location", "/")]), {"method": "POST"}, "a redirect that is not followed"),
    "onwards": (
        Said(headers=[("Link", "<http://10.0.0.1/x>; rel=next")], body=b"[]"),
        {"eventsPath": "", "followLinks": True},
        "10.0.0.1 is not public",
    ),
}


async def test_every_fault_is_shown_and_none_stops_another_source(node: Running) -> None:
    def handler(asked: Asked) -> Said:
        said = FAULTS[asked.path[1:]][0]
        return said if isinstance(said, Said) else said()

    listing = Listing(2)
    async with serving(handler) as broken, serving(listing.by_cursor) as sound:
        for name, (_, configuration, _) in FAULTS.items():
            await polled(node, f"{broken.url}/{name}?key={SECRET}", name, **configuration)
        for name, (_, _, why) in FAULTS.items():
            shown = await reached(node, has_failed(why), name)
            assert SECRET not in str(shown)
            assert shown["accepted"] == 0
        await polled(node, sound.url, "sound", **BY_CURSOR)
        await reached(node, lambda shown: shown["accepted"] == 2, "sound")


async def test_a_body_that_takes_too_long_to_read_is_given_up(node: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = workers.Budget(floor_s=0.02, per_mb_s=0.0, ceiling_s=0.02)
    monkeypatch.setattr(workers, "READING_BUDGET", budget)
    body = b"[%b1]" % (b"1," * 90_000)
    async with serving(lambda asked: Said(body=body)) as server, workers.Workers(1) as processes:
        settings = PollSourceSettings.model_validate({"url": server.url, "interval": 7, "eventsPath": ""})
        intake = await an_intake(node, "s1", settings, processes.read)
        async with guarded_client(ALLOWED, 20) as client:
            with pytest.raises(SourceFault, match="the body cannot be read within the limits") as fault:
                await poll.Poller(intake, settings, client).poll()
    assert fault.value.fields == {"retryAfter": 7}


PLACES = (
    "http://127.0.0.1:{port}/",
    "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://10.0.0.1:{port}/",
    "http://169.254.169.254/latest/meta-data/",
    "http://private.test:{port}/",
)


async def test_nothing_is_polled_where_the_node_may_not_call(postgres_url: str) -> None:
    """Neither where a source says, nor where it redirects or links to, whatever names lead there, now or later."""
    named({"private.test": [["127.0.0.1"]], "rebinds.test": [[HERE], ["127.0.0.1"]]})
    places: dict[str, str] = {}

    def handler(asked: Asked) -> Said:
        kind, _, number = asked.path[1:].partition("-")
        if kind == "redirect":
            return Said(status=302, headers=[("Location", places[number])])
        return Said(headers=[("Link", f"<{places[number]}>; rel=next")] if kind == "link" else (), body=b"[1]")

    async with (
        running(postgres_url, connectors=POLL, outbound_allowed=[f"{HERE}/32"]) as node,
        serving(handler) as server,
        serving(lambda asked: Said(body=b"[2]"), host="::1", port=server.port) as inner,
    ):
        places |= {str(number): place.format(port=server.port) for number, place in enumerate(PLACES)}
        for number, place in places.items():
            await polled(node, place, f"direct-{number}", eventsPath="")
            await polled(node, f"{server.url}/redirect-{number}", f"redirect-{number}", eventsPath="")
            await polled(node, f"{server.url}/link-{number}", f"link-{number}", eventsPath="", followLinks=True)
        await polled(node, f"http://rebinds.test:{server.port}/once", "rebinds", eventsPath="")
        for number in places:
            for kind in ("direct", "redirect", "link"):
                why = "is not public; OVERLAY_OUTBOUND_ALLOW allows networks"
                shown = await reached(node, has_failed(why), f"{kind}-{number}")
                assert shown["accepted"] == (kind == "link"), "the page before the link is as good as any"
        shown = await reached(node, has_failed("127.0.0.1, which is not public"), "rebinds")
        assert shown["accepted"] == 1
        assert {asked.address for asked in server.asked} == {HERE}
        assert inner.asked == []


async def test_headers_go_to_their_own_origin_and_are_never_shown(node: Running) -> None:
    listing = Listing(6)
    async with serving(listing.by_link) as other:

        def handler(asked: Asked) -> Said:
            return Said(headers=[("Link", f"<{other.url}/?start=0>; rel=next")], body=b'[{"id": 0}]')

        async with serving(handler) as server:
            await polled(node, server.url, headers={"Authorization": SECRET}, **BY_LINK)
            await reached(node, lambda shown: shown["accepted"] == 7)
            assert server.asked[0].headers["authorization"] == SECRET
            assert all("authorization" not in asked.headers for asked in other.asked)
            assert SECRET not in (await node.client.get("/overlay/sources/s1")).text
            assert SECRET not in (await node.client.get("/overlay/sources/s1/progress")).text


async def test_a_poll_asks_for_so_many_pages_and_the_next_goes_on(node: Running) -> None:
    listing = Listing(10)
    async with serving(listing.by_cursor) as server:
        await polled(node, server.url, **{**BY_CURSOR, "pagesMax": 2, "interval": 3_600})
        shown = await reached(node, lambda shown: shown["detail"] != "")
        assert (shown["accepted"], shown["lag"]) == (6, 4)
        assert shown["detail"] == "more than 2 pages: the next poll continues"
        await node.client.patch(
            "/overlay/sources/s1", json={"configuration": configuration_of(server, "by_cursor", 1)}
        )
        await reached(node, lambda shown: shown["lag"] == 0)
        assert await ids(node) == listing.ids()


async def test_settings_that_mean_other_events_begin_anew(node: Running) -> None:
    listing = Listing(4)
    async with serving(listing.by_cursor) as server:
        await polled(node, f"{server.url}/a", **BY_CURSOR)
        await reached(node, lambda shown: shown["lag"] == 0)
        configuration = {**configuration_of(server, "by_cursor", 1), "url": f"{server.url}/b"}
        await node.client.patch("/overlay/sources/s1", json={"configuration": configuration})
        shown = await reached(node, lambda shown: shown["duplicates"] == 4)
        assert shown["accepted"] == 0
        (first, *_) = [asked for asked in server.asked if asked.path == "/b"]
        assert (first.query, "if-none-match" in first.headers) == ({}, False)


async def an_intake(
    node: Running, source_id: str, settings: PollSourceSettings, compute: Compute | None = None
) -> SourceIntake:
    return SourceIntake(
        source_id=source_id,
        settings=settings,
        position=await mark(node, source_id),
        status=SourceStatus(),
        ingest=node.ingest,
        in_hand=RecordsInHand(Path(tempfile.gettempdir()) / f"overlay-in-hand-{os.getpid()}", crashed=False),
        outbound_allowed=ALLOWED,
        compute=compute or node.ingest.run_beside,
    )
