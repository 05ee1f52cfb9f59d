"""Every parameter and member of every operation with values that nobody should send: refused, never by a failure."""

import json
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final
from urllib.parse import quote

import attrs
import httpx
import pytest
import trio

from node.api.operations import Document, Route, path_names
from node.api.resources import RESOURCES
from node.api.wire import JSON_TYPE
from tests.node.running import Running, running

LONG: Final = "a" * 1_000_000
TEXTS: Final = (
    "a%00b",
    "%00",
    "%ed%a0%80",  # a lone surrogate in UTF-8
    "%ff%fe",
    "%F4%90%80%80",  # past the last code point
    "1e400",
    "-0",
    "18446744073709551616",
    "-9223372036854775809",
    "9" * 5_000,
    quote("\u202e\U0001f600'\";--"),
    "a" * 9_000,
)
"""In a path or a query, encoded for it. More is refused by the bound on headers."""
VALUES: Final = (
    '"a\\u0000b"',
    '"\\ud800"',
    '{"a\\u0000b": "\\u0000"}',
    "1e400",
    "-0",
    "-0.0",
    "1e30",
    "18446744073709551616",
    "-9007199254740993",
    "9" * 5_000,
    "[" * 10_000 + "]" * 10_000,
    "null",
    "true",
    '""',
    "[]",
    "{}",
    '[null, "\\u0000", 1e308]',
    f'"{LONG[:900_000]}"',
    '"\\u202e\\ud83d\\ude00\\uffff"',
)
"""JSON texts, in the place of a member."""
HEADERS: Final = (
    "Accept",
    "Accept-Encoding",
    "Authorization",
    "Content-Encoding",
    "Content-Type",
    "Host",
    "If-None-Match",
    "If-Range",
    "Last-Event-ID",
    "Origin",
    "Range",
    "X-Forwarded-For",
    "X-Request-Id",
    "ce-id",
    "ce-source",
    "ce-specversion",
    "ce-time",
    "x-bsv-auth-identity-key",
    "x-bsv-auth-nonce",
    "x-bsv-auth-version",
)
"""Those that the node, or what it is built with, may read; beside those that operations describe."""
HEADER_VALUES: Final = (
    b"",
    b"\xff\xfe",
    b"a, b;q=1e400, c;q=" + b"9" * 5_000,
    b"9" * 5_000,
    b"bytes=" + b"9" * 5_000 + b"-",
    b"bytes=-18446744073709551616",
    b'["a\\u0000b"]',
    b'["\\ud800"]',
    b"text/\xe9; charset=nothing; boundary=",
    b"application/json; charset=utf-7",
    b"multipart/form-data",
    b"[::1",
    b"{" * 9_000,
    b"a%00b",
)
HELD_BACK: Final = "\x01"


@attrs.frozen
class Call:
    method: str
    path: str
    body: str | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url) as started:
        await started.source()
        await started.post({"externalId": "a", "eventType": "t", "data": {"v": 1}})
        yield started


def filled(path: str, values: dict[str, str]) -> str:
    """A route's path with values for its parts."""
    parts = [part.partition(">") for part in path.split("<")]
    rest = [values.get(name.rpartition(":")[2], "a") + tail for name, _, tail in parts[1:]]
    return parts[0][0] + "".join(rest)


def example_of(route: Route) -> Any:
    body = route.operation.body
    if body is None or JSON_TYPE not in body.examples:
        return None
    return body.examples[JSON_TYPE]


def calls_of(route: Route) -> Iterator[Call]:
    """The operation as it is described, but for one value."""
    example = example_of(route)
    body = None if example is None else json.dumps(example)
    for name in path_names(route.path):
        for text in TEXTS:
            yield Call(route.method, filled(route.path, {name: text}), body)
    parameters = route.operation.parameters
    for name, field in ({} if parameters is None else parameters.model_fields).items():
        for text in TEXTS:
            yield Call(route.method, f"{filled(route.path, {})}?{field.alias or name}={text}", body)
    for path in TEXTS[:2]:
        yield Call(route.method, f"{filled(route.path, {})}?{path}={path}", body)
    if route.operation.body is not None:
        for text in VALUES:
            yield Call(route.method, filled(route.path, {}), text)
    if example is not None:
        for changed in changes(example):
            for text in VALUES:
                yield Call(route.method, filled(route.path, {}), json.dumps(changed).replace('"\\u0001"', text))


def headers_of(route: Route, rng: random.Random) -> Iterator[Call]:
    """Every header, with some of the values."""
    described = () if route.operation.headers is None else route.operation.headers.model_fields.values()
    body = json.dumps(example_of(route))
    for name in (*HEADERS, *(str(field.alias) for field in described)):
        for value in rng.sample(HEADER_VALUES, 2):
            yield Call(route.method, filled(route.path, {}), body, ((name, value),))
            if name == "Range":
                yield Call(route.method, filled(route.path, {}), None, ((name, value),))


def changes(value: Any) -> Iterator[Any]:
    """The value with one of its parts held back, at any depth; and the members a model may have beside."""
    if isinstance(value, dict):
        for name, part in value.items():
            for changed in (HELD_BACK, *changes(part)):
                yield {**value, name: changed}
    elif isinstance(value, list):
        for index, part in enumerate(value):
            for changed in (HELD_BACK, *changes(part)):
                yield [*value[:index], changed, *value[index + 1 :]]


def members_of(route: Route) -> Iterator[Call]:
    """Every member that the model of a document has, whether its example shows it or not."""
    body = route.operation.body
    if not isinstance(body, Document):
        return
    for name, field in body.model.model_fields.items():
        whole = {**body.example, field.alias or name: HELD_BACK}
        for text in VALUES:
            yield Call(route.method, filled(route.path, {}), json.dumps(whole).replace('"\\u0001"', text))


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.name)
async def test_no_value_makes_an_operation_fail(node: Running, resource: Any) -> None:
    failures: list[tuple[int, Call]] = []
    rng = random.Random(14)  # the same every time
    limit = trio.CapacityLimiter(8)

    async def make(client: httpx.AsyncClient, call: Call) -> None:
        headers = {name.encode(): value for name, value in call.headers}
        if call.body is not None:
            headers.setdefault(b"Content-Type", JSON_TYPE.encode())
        async with (
            limit,
            client.stream(call.method, call.path, content=call.body, headers=headers) as response,
        ):
            if response.status_code >= 500 and response.status_code != 503:
                failures.append((response.status_code, call))

    async with httpx.AsyncClient(base_url=node.url, timeout=60) as client, trio.open_nursery() as nursery:
        for route in resource.routes:
            for call in dict.fromkeys((*calls_of(route), *members_of(route), *headers_of(route, rng))):
                nursery.start_soon(make, client, call)
    shown = [(status, attrs.evolve(call, body=(call.body or "")[:400])) for status, call in failures]
    assert not shown
    assert not any(node.quarantine.counts.values())
