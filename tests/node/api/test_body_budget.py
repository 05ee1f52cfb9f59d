"""Bytes of bodies in memory are counted as they arrive, whatever route they are for."""

import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import trio

from node.api.operations import Route
from node.api.resources import RESOURCES
from node.ingest.admission_control import IngestLimits
from tests.node.running import Running, running, until

BYTES_MAX = 1_000
SENT = 300
SOURCE = {"sourceId": "x", "name": "X", "sourceType": "webhook", "configuration": {"scheme": "none"}}
ROUTES = [route for resource in RESOURCES for route in resource.routes if route.method in ("POST", "PUT", "PATCH")]


@pytest.fixture
async def node(postgres_url: str) -> AsyncIterator[Running]:
    async with running(postgres_url, limits=IngestLimits(bytes_in_flight_max=BYTES_MAX)) as started:
        assert (await started.client.post("/overlay/sources", json=SOURCE)).status_code == 201
        yield started


def path_of(route: Route) -> str:
    return "".join("x" + part.partition(">")[2] if ">" in part else part for part in route.path.split("<"))


class Upload:
    """The first ``SENT`` bytes of a body, and a wait for the rest."""

    def __init__(self, node: Running, route: Route) -> None:
        media_type = next(iter(route.operation.body.content)) if route.operation.body else "application/json"
        head = f"{route.method} {path_of(route)} HTTP/1.1\r\nHost: x\r\nContent-Type: {media_type}\r\n"
        if route.endpoint == "overlay.submit":
            head += 'X-Topics: ["tm_ship"]\r\n'
        address = urlsplit(node.url)
        self._socket = socket.create_connection((address.hostname, address.port), timeout=20)
        self._socket.sendall(f"{head}Content-Length: {SENT + 1}\r\n\r\n".encode() + b"{" * SENT)

    def __enter__(self) -> "Upload":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def status(self) -> int:
        """Of the answer, once there is one."""
        return int(self._socket.recv(12)[-3:])


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.endpoint)
async def test_every_route_counts_what_arrives_and_refuses_what_does_not_fit(node: Running, route: Route) -> None:
    """A second body may be as long as all of its address that is free: the third does not fit."""
    waits = route.operation.body is not None
    with Upload(node, route) as first:
        if not waits:  # answered without a look at the body
            assert await trio.to_thread.run_sync(first.status) < 500
            await until(lambda: node.ingest.admission.bytes_in_flight == 0)
            return
        await until(lambda: node.ingest.admission.bytes_in_flight == SENT)
        with Upload(node, route):
            await until(lambda: node.ingest.admission.bytes_in_flight == 2 * SENT)
            with Upload(node, route) as third:
                assert await trio.to_thread.run_sync(third.status) == 429
            assert node.ingest.admission.bytes_in_flight == 2 * SENT
    await until(lambda: node.ingest.admission.bytes_in_flight == 0)
