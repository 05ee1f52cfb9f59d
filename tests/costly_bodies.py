"""Bodies that cost a parser the most for their size, within all limits: for tests and for the benchmark.

Each kind is made at any size and read as the node reads it. Some are refused early, which makes them cheap.
"""

import gzip
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias

import attrs
import zstandard

from node.worker.parsing import kafka_messages, webhook_bodies
from node.worker.parsing.bodies import BodyShape, RawEvent, RequestEncoding, admit_form, admit_read
from node.worker.parsing.lines import LineGatherer
from node.worker.parsing.polled import BodyFormat, PollFormat, read_body
from node.worker.parsing.shaping import Shape
from node.worker.parsing.unpacking import Coding, unpacker
from node.worker.parsing.webhook_bodies import FORM_TYPE, ReceivedDelivery, document_of
from protocols.errors import OverlayError
from protocols.limits import EVENT_BYTES_MAX, REQUEST_BYTES_MAX

EVENT_BYTES: Final = 200_000
PART_BYTES: Final = 64 * 1024  # of a body, as it arrives
EVENTS_MAX: Final = 9_000
ATTRIBUTES: Final = (("id", "1"), ("source", "s"), ("specversion", "1.0"), ("type", "t"))
RSS: Final = (
    b'<rss version="2.0" xmlns:itunes="http://www.itunes.com/DTDs/PodCast-1.0.dtd"><channel>%b</channel></rss>'
)

READ_TWICE: Final = frozenset({"small events", "integers", "empty objects", "many keys", "deep arrays"})

Make: TypeAlias = Callable[[int], bytes]


@attrs.frozen(kw_only=True)
class CostlyBody:
    """A kind of body. ``make`` gives one of about so many bytes, ``read`` does what the node does with it."""

    name: str
    make: Make
    read: Callable[[bytes], object]

    def attempt(self, body: bytes) -> None:
        """Read it, whether it is taken or refused."""
        with suppress(OverlayError):
            self.read(body)


def costly_bodies() -> list[CostlyBody]:
    """All kinds."""
    return list(_kinds())


def _kinds() -> Iterator[CostlyBody]:
    for name, make in {**JSON_BODIES, **_with_a_repeated_key(JSON_BODIES)}.items():
        yield CostlyBody(name=f"JSON: {name}", make=make, read=_admit)
    for name, make, coding in PACKED_BODIES:
        yield CostlyBody(name=f"{coding}: {name}", make=make, read=partial(_admit, shape="lines", coding=coding))
        yield CostlyBody(name=f"{coding} in a stream: {name}", make=make, read=partial(_unpack, coding=coding))
    for name, make in LINE_BODIES.items():
        yield CostlyBody(name=f"lines: {name}", make=make, read=partial(_admit, shape="lines"))
        yield CostlyBody(name=f"lines in a stream: {name}", make=make, read=_gather)
    for name, (make, shape) in CLOUD_EVENTS.items():
        yield CostlyBody(name=f"CloudEvents: {name}", make=make, read=partial(_admit, shape=shape))
    for name, (make, reader) in POLLED_BODIES.items():
        read = partial(read_body, reader=PollFormat(shape=Shape(), **reader), headers={})
        yield CostlyBody(name=f"polled: {name}", make=make, read=read)
    for name, make in FEEDS.items():
        read = partial(read_body, reader=PollFormat(shape=Shape(), format="feed"), headers={})
        yield CostlyBody(name=f"feed: {name}", make=make, read=read)
    for name, (make, read_it) in MESSAGES.items():
        yield CostlyBody(name=name, make=make, read=read_it)


# --- how the node reads them -----------------------------------------------------------------------------------


def _admit(body: bytes, *, shape: BodyShape = "request", coding: Coding = "identity") -> object:
    form = RequestEncoding(
        shape=shape,
        coding=coding,
        source_id="s",
        attributes=ATTRIBUTES if shape == "binary" else (),
        media_type="application/json",
    )
    return admit_form(body, form, network="n", event_bytes_max=EVENT_BYTES_MAX, body_bytes_max=REQUEST_BYTES_MAX)


def _unpack(body: bytes, *, coding: Coding) -> None:
    undo = unpacker(coding)
    for start in range(0, len(body), PART_BYTES):
        for _ in undo.feed(body[start : start + PART_BYTES]):
            pass
    undo.close()


def _gather(body: bytes) -> None:
    gatherer = LineGatherer(line_bytes_max=EVENT_BYTES_MAX, piece_bytes_max=1024 * 1024, piece_lines_max=1_000)
    for start in range(0, len(body), PART_BYTES):
        gatherer.feed(body[start : start + PART_BYTES])
    gatherer.finish()


def _admit_read(body: bytes) -> object:
    event = RawEvent(data=body, event_type="e")
    return admit_read([event], source_id="s", network="n", event_bytes_max=EVENT_BYTES_MAX)


def _elements(body: bytes, *, pointer: str = "") -> object:
    return webhook_bodies.elements(body, pointer)


def _form(body: bytes) -> object:
    return document_of(ReceivedDelivery(body=body, media_type=FORM_TYPE), REQUEST_BYTES_MAX)


def _kafka_whole(body: bytes) -> object:
    message = kafka_messages.KafkaMessage(
        topic="t", log="t", partition=0, offset=0, key=None, value=body, headers=(), timestamp_ms=1
    )
    return kafka_messages.events_of([message], kafka_messages.KafkaFormat(shape=Shape(), is_whole=True))


# --- JSON ------------------------------------------------------------------------------------------------------


def _request(events: list[bytes]) -> bytes:
    return b'{"sourceId":"s","events":[%b]}' % b",".join(events)


def _event(data: bytes) -> bytes:
    return b'{"eventType":"e","data":%b}' % data


def _array(unit: bytes, size: int) -> bytes:
    return b"[%b]" % b",".join([unit] * max(1, size // (len(unit) + 1)))


def _object(size: int, value: bytes = b"1", key: bytes = b"k%d") -> bytes:
    count = max(1, size // (len(key) + len(value) + 7))
    return b"{%b}" % b",".join(b'"%b":%b' % (key % number, value) for number in range(count))


def _arrays_of(unit: bytes, size: int) -> bytes:
    """Events of the largest size, with an array of equal values each."""
    return _request([_event(_array(unit, EVENT_BYTES))] * max(1, size // EVENT_BYTES))


def _one_event(make: Make, size: int) -> bytes:
    return _request([_event(make(size))])


def _small_events(size: int) -> bytes:
    return _request([_event(b'{"v":1.5}')] * max(1, size // 40))


def _nested(unit: bytes, close: bytes, inner: bytes, size: int) -> bytes:
    event = _event(unit * 55 + inner + close * 55)
    return _request([event] * max(1, min(size // len(event), EVENTS_MAX)))


def _long_key(inner: Make, size: int) -> bytes:
    return _one_event(lambda half: b'{"%b":%b}' % (b"k" * half, inner(half)), size // 2)


def _repeated_keys(size: int) -> bytes:
    return _request([_event(b'{"a":1,"a":2}')] * max(1, min(size // 40, EVENTS_MAX)))


def _with_a_repeated_key(bodies: dict[str, Make]) -> dict[str, Make]:
    """Bodies with a flaw in a last event, for which they are read a second time."""

    def spoiled(make: Make, size: int) -> bytes:
        return make(size).removesuffix(b"]}") + b"," + _event(b'{"a":1,"a":2}') + b"]}"

    return {f"{name}, read twice": partial(spoiled, make) for name, make in bodies.items() if name in READ_TWICE}


JSON_BODIES: Final[dict[str, Make]] = {
    "small events": _small_events,
    "integers": partial(_arrays_of, b"1"),
    "fractions": partial(_arrays_of, b"0.5"),
    "integral fractions": partial(_arrays_of, b"1.0"),
    "numbers with small exponents": partial(_arrays_of, b"1e-7"),
    "numbers with large exponents": partial(_arrays_of, b"1e22"),
    "subnormal numbers": partial(_arrays_of, b"5e-324"),
    "numbers of 800 digits": partial(_arrays_of, b"0." + b"1" * 800),
    "numbers halfway between doubles": partial(_arrays_of, b"9007199254740993." + b"0" * 760 + b"1"),
    "integers of 4,000 digits": partial(_arrays_of, b"7" * 4_000),
    "numbers that overflow": partial(_arrays_of, b"1e999"),
    "empty strings": partial(_arrays_of, b'""'),
    "escaped characters": partial(_arrays_of, b'"\\u00e9"'),
    "escaped surrogate pairs": partial(_arrays_of, b'"\\ud83d\\ude00"'),
    "halves of surrogate pairs": partial(_arrays_of, b'"\\ud800"'),
    "escaped backslashes before u0000": partial(_arrays_of, b'"' + b"\\\\" * 100 + b'u0000"'),
    "empty arrays": partial(_arrays_of, b"[]"),
    "empty objects": partial(_arrays_of, b"{}"),
    "small objects": partial(_arrays_of, b'{"a":1}'),
    "deep arrays": partial(_nested, b"[", b"]", b""),
    "deep objects": partial(_nested, b'{"k":', b"}", b"1e-7"),
    "too deep": lambda size: _request([_event(b"[" * (size // 2) + b"]" * (size // 2))]),
    "many keys": partial(_one_event, _object),
    "many keys beyond U+FFFF": partial(_one_event, partial(_object, key="\U0001f600%d".encode())),
    "a long key with many numbers in it": partial(_long_key, partial(_array, b"1.0")),
    "a long key with many objects in it": partial(_long_key, partial(_object, value=b"[]")),
    "long keys in each other": lambda size: _request(
        [_event(b'{"%b":' % (b"k" * (size // 60)) * 55 + _array(b"1", 1_000) + b"}" * 55)]
    ),
    "a long string of digits": lambda size: _request([_event(b'"%b"' % (b"0" * size))]),
    "an integer without end": lambda size: _request([_event(b"1" * size)]),
    "a fraction without end": lambda size: _request([_event(b"0." + b"1" * size)]),
    "an exponent without end": lambda size: _request([_event(b"1e" + b"0" * size + b"1")]),
    "a timestamp without end": lambda size: _request([b'{"eventType":"e","timestamp":"%b"}' % (b"2" * size)]),
    "white space": lambda size: b" " * size + _request([b"1"]),
    "repeated keys in every event": _repeated_keys,
    "unknown members": lambda size: b'{"sourceId":"s","events":[1],%b' % _object(size)[1:],
    "many topics": lambda size: (
        b'{"sourceId":"s","events":[1],"processingOptions":{"distributionTopics":%b}}' % _array(b'"a.b"', size)
    ),
}

# --- other forms of requests -----------------------------------------------------------------------------------


def _repeated(unit: bytes, size: int) -> bytes:
    return unit * max(1, size // len(unit))


LINE: Final = b'{"eventType":"e","data":{"v":1.5}}\n'
PACKED_BODIES: Final[tuple[tuple[str, Make, Coding], ...]] = (
    ("empty members", partial(_repeated, gzip.compress(b"")), "gzip"),
    ("members of one line", partial(_repeated, gzip.compress(LINE)), "gzip"),
    ("empty frames", partial(_repeated, zstandard.compress(b"")), "zstd"),
    ("skippable frames", partial(_repeated, b"\x50\x2a\x4d\x18\0\0\0\0"), "zstd"),
    ("frames of one line", partial(_repeated, zstandard.compress(LINE)), "zstd"),
    ("zeros", lambda size: gzip.compress(bytes(100 * size), 9), "gzip"),
    ("zeros", lambda size: zstandard.compress(bytes(100 * size)), "zstd"),
)
LINE_BODIES: Final[dict[str, Make]] = {
    "events": lambda size: LINE * max(1, min(size // len(LINE), EVENTS_MAX)),
    "empty": partial(_repeated, b"\n"),
    "blank": partial(_repeated, b" \t\r\n"),
    "not JSON": partial(_repeated, b"x\n"),
    "without end": lambda size: b"x" * size,
}
CLOUD_EVENT: Final = b'{"id":"1","source":"s","specversion":"1.0","type":"t","data":%b}'
CLOUD_EVENTS: Final[dict[str, tuple[Make, BodyShape]]] = {
    "a batch": (lambda size: _array(CLOUD_EVENT % b"1", min(size, EVENTS_MAX * 60)), "cloudevents"),
    "a batch of numbers": (partial(_array, b"1"), "cloudevents"),
    "one with many numbers": (lambda size: CLOUD_EVENT % _array(b"1e-7", size), "cloudevent"),
    "one with many keys": (lambda size: CLOUD_EVENT % _object(size), "cloudevent"),
    "binary with many arrays": (partial(_array, b"[]"), "binary"),
}

# --- what sources send -----------------------------------------------------------------------------------------


def _reader(form: BodyFormat, **settings: Any) -> dict[str, Any]:
    return {"format": form, **settings}


ARRAY: Final = _reader("json", events_path="")
POLLED_BODIES: Final[dict[str, tuple[Make, dict[str, Any]]]] = {
    "JSON, many small events": (lambda size: _array(b"1.5", min(size, 400_000)), ARRAY),
    "JSON, one large event": (lambda size: b"[%b]" % _array(b"1.5", size), ARRAY),
    "JSON, long integers as cursor": (
        partial(_array, b'{"c":%b}' % (b"7" * 4_000)),
        _reader("json", events_path="", cursor_field="/c"),
    ),
    "JSON, numbers without double as cursor": (
        partial(_array, b'{"c":%b.5e999}' % (b"1" * 64)),
        _reader("json", events_path="", cursor_field="/c"),
    ),
    "lines": (lambda size: b"1\n" * min(size // 2, 99_000), _reader("ndjson")),
    "lines that are not JSON": (lambda size: b"1\n" + b"x\n" * min(size // 2, 99_000), _reader("ndjson")),
    "CSV, small rows": (lambda size: b"a,b\n" + b"1,2\n" * min(size // 4, 99_000), _reader("csv")),
    "CSV, wide rows": (
        lambda size: b",".join(b"%d" % n for n in range(1_000)) + b"\n" + (b"," * 999 + b"\n") * (size // 1_000),
        _reader("csv"),
    ),
    "CSV, short rows": (lambda size: b"a,b\n" + b"1\n" * min(size // 2, 99_000), _reader("csv")),
    "CSV, quotes": (lambda size: b'a,b\n"' + b'""' * (size // 2) + b'",1\n', _reader("csv")),
    "CSV, many names": (lambda size: b",".join(b"%d" % n for n in range(size // 6)) + b"\n", _reader("csv")),
}


def _items(inner: Make, size: int) -> bytes:
    return RSS % (b"<item>%b</item>" % inner(size))


def _numbered(unit: bytes, size: int) -> bytes:
    return b"".join(unit % number for number in range(max(1, size // (len(unit) + 4))))


FEEDS: Final[dict[str, Make]] = {
    "empty items": lambda size: RSS % (b"<item/>" * min(size // 7, 90_000)),
    "small items": lambda size: RSS % (b"<item><title>a</title></item>" * min(size // 29, 45_000)),
    "a long text": partial(_items, lambda size: b"<title>%b</title>" % (b"a" * size)),
    "escaped characters": partial(_items, lambda size: b"<title>%b</title>" % (b"&#65;" * (size // 5))),
    "escaped markup": partial(_items, lambda size: b"<description>%b</description>" % (b"&lt;a&gt;" * (size // 9))),
    "markup": partial(_items, lambda size: b"<description>%b</description>" % (b"<b>a</b>" * min(size // 8, 90_000))),
    "dates that are none": partial(_items, lambda size: b"<pubDate>%b</pubDate>" % (b"Mon, 1 " * (size // 7))),
    "an author of one word": partial(_items, lambda size: b"<author>%b</author>" % (b"a" * size)),
    "an author of dots": partial(_items, lambda size: b"<author>%b@b</author>" % (b"a." * (size // 2))),
    "many authors of long words": lambda size: (
        RSS % (b"<item><author>%b@</author></item>" % (b"a" * 127)) * max(1, size // 170)
    ),
    "many categories in one item": partial(_items, partial(_numbered, b"<category>%d</category>")),
    "many categories in each item": lambda size: (
        RSS % ((b"<item>%b</item>" % _numbered(b"<category>%d</category>", 13_000)) * max(1, size // 13_000))
    ),
    "many keywords": partial(_items, lambda size: b"<itunes:keywords>%b</itunes:keywords>" % _numbered(b"%d,", size)),
    "many namespaces": lambda size: RSS % _numbered(b'<item xmlns:a%d="u"/>', size),
    "a long base": lambda size: (
        b'<rss version="2.0" xml:base="http://a/%b"><channel>%b</channel></rss>'
        % (b"a" * (size // 2), b"<item/>" * (size // 14))
    ),
    "links": partial(_items, lambda size: b'<link href="a"/>' * min(size // 16, 90_000)),
}
MESSAGES: Final[dict[str, tuple[Make, Callable[[bytes], object]]]] = {
    "record read twice": (lambda size: b'[%b,{"a":1,"a":2}]' % _array(b"{}", min(size, 900_000)), _admit_read),
    "record of many keys": (lambda size: _object(min(size, 900_000)), _admit_read),
    "delivery: many elements": (partial(_array, b"[]"), _elements),
    "delivery: many keys before the array": (
        lambda size: b'%b,"z":[1]}' % _object(size)[:-1],
        partial(_elements, pointer="/z"),
    ),
    "delivery: form with escapes": (lambda size: b"payload=" + b"%41" * (size // 3), _form),
    "delivery: form with many fields": (lambda size: b"&" * size, _form),
    "Kafka: key, headers and value": (partial(_array, b"[]"), _kafka_whole),
}
