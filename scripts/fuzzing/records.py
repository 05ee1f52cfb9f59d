"""Records of sources in every form that the node takes events in, with hostile values."""

import base64
import gzip
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

import zstandard

from scripts.fuzzing.calls import Call
from scripts.fuzzing.schemas import moment, spoiled
from scripts.fuzzing.values import Draw, to_json
from scripts.fuzzing.world import World

SECRET: Final = base64.b64encode(b"s" * 32).decode()
INGEST: Final = "/overlay/events/ingest"
EVENTS_MAX: Final = 500
EVENTS_USUAL: Final = 250  # in large requests the records cost the node least
RAISED: Final = 0.004  # of requests, the part that asks for more agents than there are
Form = Callable[["Records", Draw], Call]


def _signed(key: bytes, message: bytes) -> hmac.HMAC:
    return hmac.new(key, message, hashlib.sha256)


def _github(body: bytes, now: str) -> dict[str, str]:
    return {"X-Hub-Signature-256": "sha256=" + _signed(SECRET.encode(), body).hexdigest(), "X-GitHub-Event": "push"}


def _stripe(body: bytes, now: str) -> dict[str, str]:
    proof = _signed(SECRET.encode(), now.encode() + b"." + body).hexdigest()
    return {"Stripe-Signature": f"t={now},v1={proof}"}


def _slack(body: bytes, now: str) -> dict[str, str]:
    proof = _signed(SECRET.encode(), b"v0:" + now.encode() + b":" + body).hexdigest()
    return {"X-Slack-Signature": f"v0={proof}", "X-Slack-Request-Timestamp": now}


def _standard(body: bytes, now: str) -> dict[str, str]:
    message = b"m." + now.encode() + b"." + body
    proof = base64.b64encode(_signed(base64.b64decode(SECRET), message).digest()).decode()
    return {"webhook-signature": f"v1,{proof}", "webhook-timestamp": now, "webhook-id": "m"}


def _hmac(body: bytes, now: str) -> dict[str, str]:
    return {"X-Proof": _signed(SECRET.encode(), body).hexdigest()}


SCHEMES: Final[Mapping[str, tuple[dict[str, Any], Callable[[bytes, str], dict[str, str]]]]] = {
    "none": ({"scheme": "none", "eventType": "t"}, lambda body, now: {}),
    "github": ({"scheme": "github", "secret": SECRET}, _github),
    "stripe": ({"scheme": "stripe", "secret": SECRET}, _stripe),
    "slack": ({"scheme": "slack", "secret": SECRET}, _slack),
    "standard": ({"scheme": "standard", "secret": SECRET}, _standard),
    "hmac": ({"scheme": "hmac", "secret": SECRET, "header": "X-Proof", "eventTypePath": "/type"}, _hmac),
    "bearer": (
        {"scheme": "bearer", "secret": SECRET, "eventsPath": "/list", "externalIdPath": "/id"},
        lambda body, now: {"Authorization": f"Bearer {SECRET}"},
    ),
}
"""Configurations of webhook sources by scheme, and how their deliveries are proven."""


class Records:
    """Draws requests that bring events in."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ids = [source for source in world.sources if not source.startswith("keep-hook-")]

    def call(self, draw: Draw, form: str) -> Call:
        return FORMS[form](self, draw)

    def source(self, draw: Draw) -> tuple[str, Sequence[Any]]:
        source_id = draw.pick(self._ids)
        return source_id, self._world.sources[source_id]

    def data(self, draw: Draw, samples: Sequence[Any]) -> Any:
        """The data of an event: as it is expected, a little different, or anything."""
        if draw.chance(0.3):
            return draw.json(3)
        data = draw.pick(samples)
        for _ in range(draw.below(3)):
            data = spoiled(draw, data)
        return data

    def event(self, draw: Draw, samples: Sequence[Any]) -> Any:
        event: Any = {
            "externalId": f"r-{draw.below(10**6)}" if draw.chance(0.6) else draw.text(512, nul=draw.chance(0.1)),
            "eventType": draw.pick(("reading", "t", "order.created")) if draw.chance(0.6) else draw.text(128, 1),
            "timestamp": moment(draw) if draw.chance(0.9) else draw.json(1),
            "data": self.data(draw, samples),
        }
        for name in ("externalId", "timestamp"):
            if draw.chance(0.15):
                del event[name]
        return spoiled(draw, event) if draw.chance(0.05) else event

    def events(self, draw: Draw, samples: Sequence[Any]) -> list[Any]:
        return [self.event(draw, samples) for _ in range(1 + draw.size(EVENTS_MAX, usual=EVENTS_USUAL))]

    def cloud_event(self, draw: Draw, samples: Sequence[Any]) -> Any:
        event: Any = {
            "specversion": "1.0",
            "id": f"c-{draw.below(10**6)}" if draw.chance(0.7) else draw.text(512),
            "source": "/fuzz",
            "type": "reading" if draw.chance(0.7) else draw.text(128, 1),
        }
        match draw.below(4):
            case 0:
                event["data_base64"] = base64.b64encode(draw.bytes(300)).decode() if draw.chance(0.8) else draw.text()
            case 1 | 2:
                event["data"] = self.data(draw, samples)
            case _:
                event |= {
                    "datacontenttype": draw.pick(("application/json", "text/plain", "x", "")),
                    "data": draw.text(),
                }
        if draw.chance(0.5):
            event |= {"time": moment(draw), "subject": draw.text(), draw.pick(("ext", "a1", "Ä", "")): draw.json(1)}
        return spoiled(draw, event) if draw.chance(0.1) else event

    def options(self, draw: Draw) -> dict[str, Any]:
        """``processingOptions``, or query parameters in their place."""
        options: dict[str, Any] = {}
        if draw.chance(0.2):
            options["distributionTopics"] = [
                draw.text(20) if draw.chance(0.2) else "a.b" for _ in range(draw.below(4))
            ]
        if draw.chance(RAISED):
            options["consensusLevel"] = draw.pick(("enhanced", "critical"))
        if draw.chance(0.05):
            options[draw.pick(("durability", "consensusLevel", "requireCertification", "x"))] = draw.json(1)
        return options

    def wrapped(
        self, draw: Draw, body: bytes, media_type: str, query: Mapping[str, Any], records: int, **headers: bytes
    ) -> Call:
        """A request to ingest: compressed or not, in pieces or not, with the headers that clients add."""
        more = [(name.replace("_", "-"), value) for name, value in headers.items()]
        if draw.chance(0.1):
            body, coding = draw.pick(((gzip.compress(body, 1), b"gzip"), (zstandard.compress(body, 1), b"zstd")))
            more.append(("Content-Encoding", coding))
        if draw.chance(0.3):
            more.append(("Prefer", b"return=minimal"))
        if draw.chance(0.03):
            more.append(("Idempotency-Key", b"key-%d" % draw.below(50)))
        tail = f"?{urlencode(query, errors='replace')}" if query else ""
        return Call(
            operation="ingestEvents",
            method="POST",
            target=INGEST + tail,
            headers=(("Content-Type", media_type.encode()), *more),
            body=body,
            records=records,
            chunked=draw.chance(0.1),
        )


def _array(records: Records, draw: Draw) -> Call:
    source_id, samples = records.source(draw)
    events = records.events(draw, samples)
    document: Any = {"sourceId": source_id, "events": events}
    options = records.options(draw)
    if options:
        document["processingOptions"] = options
    if draw.chance(0.03):
        document = spoiled(draw, document)
    return records.wrapped(draw, to_json(document), "application/json", {}, len(events))


def _query(records: Records, draw: Draw, source_id: str) -> dict[str, Any]:
    options = records.options(draw)
    query = {"sourceId": source_id}
    for name, value in options.items():
        query[name] = ",".join(value) if name == "distributionTopics" else str(value)
    return query


def _lines(records: Records, draw: Draw) -> Call:
    source_id, samples = records.source(draw)
    lines = [to_json(event) for event in records.events(draw, samples)]
    if draw.chance(0.1):
        lines.insert(
            draw.below(len(lines)), draw.pick((b"", b" ", b"{", b"null", draw.bytes(40).replace(b"\n", b"")))
        )
    body = draw.pick((b"\n", b"\r\n", b"\n")).join(lines)
    media_type = draw.pick(("application/x-ndjson", "application/jsonl"))
    return records.wrapped(draw, body, media_type, _query(records, draw, source_id), len(lines))


def _cloud_event(records: Records, draw: Draw) -> Call:
    source_id, samples = records.source(draw)
    body = to_json(records.cloud_event(draw, samples))
    return records.wrapped(draw, body, "application/cloudevents+json", _query(records, draw, source_id), 1)


def _cloud_events(records: Records, draw: Draw) -> Call:
    source_id, samples = records.source(draw)
    events = [records.cloud_event(draw, samples) for _ in range(1 + draw.size(EVENTS_MAX, usual=EVENTS_USUAL))]
    query = _query(records, draw, source_id)
    return records.wrapped(draw, to_json(events), "application/cloudevents-batch+json", query, len(events))


def _binary(records: Records, draw: Draw) -> Call:
    source_id, samples = records.source(draw)
    headers = {
        "ce_specversion": b"1.0",
        "ce_id": quote(draw.text()).encode() or b"1",
        "ce_source": b"/fuzz",
        "ce_type": quote(draw.text()).encode() or b"t",
        "ce_time": moment(draw).encode(),
    }
    if draw.chance(0.1):
        headers[f"ce_{draw.pick(('ext', 'a1', 'datacontenttype'))}"] = header_value(draw)
    json = draw.chance(0.7)
    body = to_json(records.data(draw, samples)) if json else draw.bytes(300)
    media_type = (
        "application/json" if json else draw.pick(("text/plain", "application/octet-stream", "a/b; charset=x"))
    )
    return records.wrapped(draw, body, media_type, _query(records, draw, source_id), 1, **headers)


def _delivery(records: Records, draw: Draw) -> Call:
    scheme = draw.pick(tuple(SCHEMES))
    data = records.data(
        draw, ({"type": "t", "id": "1", "list": [{"id": "1"}, {"id": "2"}], "created": 1_700_000_000},)
    )
    body, media_type = to_json(data), b"application/json"
    if draw.chance(0.1):
        body, media_type = urlencode({"payload": body}).encode(), b"application/x-www-form-urlencoded"
    proof = SCHEMES[scheme][1](body, str(int(time.time())))
    if draw.chance(0.03):
        body += b" "
    headers = {"Content-Type": media_type, **{name: text.encode() for name, text in proof.items()}}
    if draw.chance(0.5):
        headers["X-GitHub-Delivery"] = b"d-%d" % draw.below(10**6)
    return Call(
        operation="takeDelivery",
        method="POST",
        target=f"/overlay/sources/keep-hook-{scheme}/webhook",
        headers=tuple(headers.items()),
        body=body,
        records=1,
    )


def header_value(draw: Draw) -> bytes:
    """What may stand in a header: no control characters but tabs, any byte beyond ASCII."""
    text = draw.text(200).encode() if draw.chance(0.8) else draw.bytes(60)
    return bytes(byte for byte in text if (byte >= 0x20 and byte != 0x7F) or byte == 9).strip()


FORMS: Final[Mapping[str, Form]] = {
    "array": _array,
    "lines": _lines,
    "cloudevent": _cloud_event,
    "cloudevents": _cloud_events,
    "binary": _binary,
    "delivery": _delivery,
}
"""How events come in over HTTP."""
