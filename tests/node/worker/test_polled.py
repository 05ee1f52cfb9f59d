"""Bodies of answers to events; what is hostile, or in another format, is refused in words."""

from functools import partial
from typing import Any

import orjson
import pytest

from node.runtime.workers import Workers
from node.worker.parsing.bodies import RawEvent, admit_read
from node.worker.parsing.polled import EVENTS_MAX, PART_EVENTS_MAX, Polled, PollFormat, greater, read_body, unpacked
from node.worker.parsing.shaping import Shape
from node.worker.parsing.text import UnreadableBodyError

PLAIN = Shape()


def read(body: bytes | str, form: Any = "json", media_type: str = "", **more: Any) -> Polled:
    shape = more.pop("shape", PLAIN)
    encoded = body.encode() if isinstance(body, str) else body
    digest_before = more.pop("digest_before", "")
    reader = PollFormat(shape=shape, format=form, **more)
    return read_body(encoded, reader, headers={"content-type": media_type}, digest_before=digest_before)


def events(polled: Polled) -> list[RawEvent]:
    return [event for part in polled.parts for event in unpacked(part)]


def data(polled: Polled) -> list[Any]:
    return [orjson.loads(event.data) for event in events(polled)]


# --- JSON --------------------------------------------------------------------------------------------------------


def test_a_document_is_one_event_or_an_array_of_them() -> None:
    document = '{"items": [{"id": 1, "at": {"t": 1700000000}}, {"id": "b"}], "next": "c 1", "left": 7}'
    shape = Shape(event_type="r", external_id_path="/id", timestamp_path="/at/t")
    polled = read(document, shape=shape, events_path="/items", cursor_path="/next", lag_path="/left")
    assert events(polled) == [
        RawEvent(
            data=b'{"id":1,"at":{"t":1700000000}}',
            event_type="r",
            external_id="1",
            timestamp="2023-11-14T22:13:20.000Z",
        ),
        RawEvent(data=b'{"id":"b"}', event_type="r", external_id="b"),
    ]
    assert (polled.events, polled.cursor, polled.lag) == (2, "c 1", 7)
    assert [event.data for event in events(read(document))] == [document.encode()]
    assert data(read("[1,2]", events_path="")) == [1, 2]
    assert read("[]", events_path="").parts == ()


def test_numbers_keep_their_digits_until_admission_judges_them() -> None:
    polled = read('[1.10, 1e999, 1e-7, 123456789012345678901234567890, {"v": [2.50]}]', events_path="")
    assert [event.data for event in events(polled)][:3] == [b"1.10", b"1e999", b"1e-7"]
    admitted = admit_read(events(polled), source_id="s", network="n", event_bytes_max=1_000)
    assert [rejection.index for rejection in admitted.rejections] == [1, 3]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("<html>", "is not JSON"),
        ("", "is not JSON"),
        ('{"items": 1}', "no array at /items"),
        ('{"items": [NaN]}', "is not JSON"),
        ('{"items": [{"a":1,"a":2}]}', 'member "a" occurs twice'),
        (b'{"items": ["\xff"]}', "is not JSON"),
        (b'{"items":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "nested too deeply"),
        (b'{"items":[' + b"[]," * 1_000_000 + b"[]]}", "has 1000001 events"),
        ('{"items": [], "next": "%s"}' % ("x" * 2_000), "a cursor of 2000 characters"),
    ],
)
def test_json_that_is_refused(body: str | bytes, why: str) -> None:
    with pytest.raises(UnreadableBodyError, match=why):
        read(body, events_path="/items", cursor_path="/next")


@pytest.mark.parametrize("end", ["null", '""', "{}", "true", "[1]"])
def test_a_value_that_cannot_be_a_cursor(end: str) -> None:
    assert read(f'{{"items": [], "next": {end}}}', events_path="/items", cursor_path="/next").cursor == ""


def test_numbers_as_cursors() -> None:
    for text in ("17", "-1", "1.50", "12345678901234567890123"):
        assert read(f'{{"next": {text}}}', cursor_path="/next").cursor == text


def test_the_greatest_value_of_a_field() -> None:
    field = {"events_path": "", "cursor_field": "/at"}
    assert read('[{"at": 9}, {"at": 10}, {}, 5, {"at": null}]', **field).cursor == "10"
    assert read('[{"at": "2024-01-02"}, {"at": "2024-01-10"}]', **field).cursor == "2024-01-10"
    assert read("[]", **field).cursor == ""
    assert read("at\n9\n10\n", "csv", cursor_field="/at").cursor == "10"
    assert read('{"at":1.5}\n{"at":1.25}\n', "ndjson", cursor_field="/at").cursor == "1.5"
    assert greater("", "0") == "0"
    assert greater("zebra", "99") == "zebra"
    assert greater("1e3", "999") == "1e3"


def test_the_body_of_before_is_not_read_again() -> None:
    first = read("[1]", events_path="")
    again = read("[1]", events_path="", digest_before=first.digest)
    assert (first.is_same, again.is_same, again.parts) == (False, True, ())
    assert not read("[2]", events_path="", digest_before=first.digest).is_same


def test_many_events_come_in_parts() -> None:
    polled = read(orjson.dumps([{"n": number} for number in range(2 * PART_EVENTS_MAX + 1)]), events_path="")
    assert [len(unpacked(part)) for part in polled.parts] == [PART_EVENTS_MAX, PART_EVENTS_MAX, 1]
    assert [each["n"] for each in data(polled)] == list(range(2 * PART_EVENTS_MAX + 1))
    large = read(orjson.dumps(["x" * 400_000] * 5), events_path="")
    assert [len(unpacked(part)) for part in large.parts] == [2, 2, 1]


# --- lines and rows ----------------------------------------------------------------------------------------------


def test_a_line_that_is_not_json_is_rejected_alone() -> None:
    found = events(read(b'\xef\xbb\xbf{"a":1}\r\n\n  \nnope\n{"a":1,"a":2}\n[2]', "ndjson"))
    admitted = admit_read(found, source_id="s", network="n", event_bytes_max=1_000)
    assert [rejection.index for rejection in admitted.rejections] == [1, 2]
    assert len(admitted.lines) == 2
    with pytest.raises(UnreadableBodyError, match="has no line that is JSON: line 1"):
        read("<html>\n</html>\n", "ndjson")
    with pytest.raises(UnreadableBodyError, match=f"more than {EVENTS_MAX}"):
        read(b"1\n" * (EVENTS_MAX + 1), "ndjson")
    assert read("", "ndjson").events == 0


def test_rows_are_objects_of_texts() -> None:
    text = '\ufeffid;name;value\r\n1;"Müller; ""M""\nzwei";1,50\r\n\r\n2;;NA\r\n'
    polled = read(text, "csv", delimiter=";", shape=Shape(external_id_path="/id"))
    assert data(polled) == [
        {"id": "1", "name": 'Müller; "M"\nzwei', "value": "1,50"},
        {"id": "2", "name": "", "value": "NA"},
    ]
    assert [event.external_id for event in events(polled)] == ["1", "2"]
    latin = read("a\nMüller".encode("latin-1"), "csv", 'text/csv; charset="ISO-8859-1"')
    assert data(latin) == [{"a": "Müller"}]
    assert read("", "csv").events == read("a,b\n", "csv").events == 0


def test_a_row_of_another_length_is_rejected_by_itself() -> None:
    found = events(read("a,b\n1\n2,3\n4,5,6\n", "csv"))
    admitted = admit_read(found, source_id="s", network="n", event_bytes_max=1_000)
    assert [rejection.index for rejection in admitted.rejections] == [0, 2]
    assert found[2].data == b"row at line 4 has 3 cells, not 2: 4,5,6"


@pytest.mark.parametrize(
    ("body", "media_type", "why"),
    [
        (b'a\n"' + b"x" * 200_000 + b'"', "", "field larger than field limit"),
        (b'a\n"open', "", "line 2: unexpected end"),
        (b'a\n"x"y', "", "is not CSV"),
        (b"a,a\n1,2", "", "all different"),
        (b"," * 4_000_000, "", "at most 1024 names"),
        (b"a\n\xff", "", "is not valid utf-8 at byte 2"),
        (b"a\nb", "text/csv; charset=zip", "is in the charset zip; supported are"),
        (b"a\nb", "text/csv;charset=idna", "is in the charset idna"),
        (b"a\n" + b"1\n" * (EVENTS_MAX + 1), "", "more than"),
    ],
)
def test_csv_that_is_refused(body: bytes, media_type: str, why: str) -> None:
    with pytest.raises(UnreadableBodyError, match=why):
        read(body, "csv", media_type)


# --- feeds -------------------------------------------------------------------------------------------------------

RSS = """<?xml version="1.0" encoding="utf-8"?>
<rss version="2.0"><channel><title>News</title>
<item><title>Füchse &amp; <![CDATA[<b>Hasen</b>]]></title><guid isPermaLink="false">g-1</guid>
 <link>https://x.test/1</link><pubDate>Mon, 06 Sep 2021 16:45:00 +0200</pubDate><category>wild</category></item>
<item><link>https://x.test/2</link><description>&lt;script&gt;alert(1)&lt;/script&gt;</description></item>
<item><title>neither</title></item></channel></rss>"""
ATOM = """<feed xmlns="http://www.w3.org/2005/Atom" xmlns:georss="http://www.georss.org/georss"><title>Quakes</title>
<entry><id>urn:q:1</id><title>M 4.2</title><updated>2003-12-13T18:30:02Z</updated>
<georss:point>45.2 -71.9</georss:point><link href="https://x.test/q1"/></entry></feed>"""
RDF = """<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/">
<item rdf:about="https://x.test/r1"><title>r</title><link>https://x.test/r1</link></item></rdf:RDF>"""


def test_entries_of_feeds() -> None:
    first, second, third = events(read(RSS, "feed", shape=Shape(event_type="news")))
    assert (first.external_id, first.timestamp, first.event_type) == ("g-1", "2021-09-06T14:45:00.000Z", "news")
    assert orjson.loads(first.data)["title"] == "Füchse & <b>Hasen</b>"
    assert orjson.loads(first.data)["tags"][0]["term"] == "wild"
    assert (second.external_id, second.timestamp) == ("https://x.test/2", None)
    assert orjson.loads(second.data)["summary"] == "<script>alert(1)</script>", "it keeps the markup of the feed"
    assert third.external_id is None, "its content is its id"
    (quake,) = events(read(ATOM, "feed"))
    assert (quake.external_id, quake.timestamp) == ("urn:q:1", "2003-12-13T18:30:02.000Z")
    assert orjson.loads(quake.data)["where"] == {"type": "Point", "coordinates": [-71.9, 45.2]}
    (item,) = events(read(RDF, "feed"))
    assert item.external_id == "https://x.test/r1"
    by_path = read(ATOM, "feed", shape=Shape(external_id_path="/title", timestamp_path="/updated"))
    assert events(by_path)[0].external_id == "M 4.2"


@pytest.mark.parametrize(
    ("encoding", "media_type"),
    [
        ("utf-8", "application/rss+xml"),
        ("iso-8859-1", "application/rss+xml"),
        ("utf-16", ""),
        ("iso-8859-1", "text/xml; charset=ISO-8859-1"),
    ],
)
def test_feeds_in_other_encodings(encoding: str, media_type: str) -> None:
    body = RSS.replace("utf-8", "utf-8" if "charset" in media_type else encoding).encode(encoding)
    assert data(read(body, "feed", media_type))[0]["title"] == "Füchse & <b>Hasen</b>"


def bomb(kind: str) -> str:
    if kind == "laughs":
        entities = ['<!ENTITY l0 "lol">']
        entities += [f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10)]
        return f"<!DOCTYPE rss [{''.join(entities)}]><rss><channel><item><title>&l9;</title></item></channel></rss>"
    if kind == "quadratic":
        return f'<!DOCTYPE rss [<!ENTITY a "{"a" * 4_000}">]><rss><title>{"&a;" * 50_000}</title></rss>'
    if kind == "file":
        return '<!DOCTYPE rss [<!ENTITY f SYSTEM "file:///etc/passwd">]><rss><title>&f;</title></rss>'
    return '<!DOCTYPE rss [<!ENTITY % p SYSTEM "http://127.0.0.1/x.dtd"> %p;]><rss/>'


HOSTILE_FEEDS = {
    "declares entities": [bomb(kind) for kind in ("laughs", "quadratic", "file", "parameter")],
    "nested deeper than 64 levels": ["<rss>" + "<a>" * 100_000],
    "more than 100000 elements": ["<rss><channel><item>" + "<a/>" * 200_000 + "</item></channel></rss>"],
    "more than 8192 bytes before its first element": [
        "\n" * 3_000_000 + "<rss/>",
        "<!--" + "-" * 9_000 + "--><rss/>",
    ],
    "more than 256 attributes": ["<rss " + " ".join(f'a{n}="1"' for n in range(300)) + "/>"],
    "not well-formed XML": ["", "nonsense", "<rss><channel></rss>", "<rss>&nbsp;</rss>", RSS[:-20], '{"a": 1}'],
    "is not RSS or Atom: its root element is html": ["<html><body/></html>"],
}


@pytest.mark.parametrize(("why", "bodies"), HOSTILE_FEEDS.items())
def test_feeds_that_are_refused(why: str, bodies: list[str]) -> None:
    for body in bodies:
        with pytest.raises(UnreadableBodyError, match=why):
            read(body, "feed")


async def test_bodies_are_read_in_a_process_of_their_own() -> None:
    """The errors come back as themselves, and a document that is the name of a file is not opened."""
    async with Workers(1) as workers:
        reader = PollFormat(shape=PLAIN, format="feed")
        polled = await workers.read(partial(read_body, RSS.encode(), reader, headers={}))
        assert polled == read(RSS, "feed")
        for name in (b"/etc/hostname", b"https://x.test/feed"):
            with pytest.raises(UnreadableBodyError, match="not well-formed XML"):
                await workers.read(partial(read_body, name, reader, headers={}))
