"""Merkle paths against a chain tracker that answers, refuses, does not know, fails, or is gone."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import orjson
import pytest
import trio
from quart import Response, request
from quart_trio import QuartTrio

from node.api.server import serve
from node.overlay import chain_tracker
from node.overlay.chain_tracker import ChainTracker, TrackerUnavailableError
from node.overlay.checking import SCRIPTS
from protocols.beef import read_beef
from protocols.errors import InvalidTransactionError
from tests.node.overlay.test_overlay import PARENT, beef_of, spend

BEEF = beef_of(PARENT, spend(PARENT, 0, b"\x51"))
PATH = read_beef(BEEF).paths[0]
ROOT = {"blockHeight": PATH.block_height, "merkleRoot": PATH.root[::-1].hex()}


class Headers:
    """The part of a Block Headers Service that is asked: it knows one root, and wants a token."""

    def __init__(self, known: dict[str, object], failures: int = 0) -> None:
        self.known = known
        self.failures = failures

    def app(self) -> QuartTrio:
        app = QuartTrio("headers")

        @app.post("/api/v1/chain/merkleroot/verify")
        async def verify() -> Response:
            if self.failures:
                self.failures -= 1
                return Response(b"busy", status=500)
            if request.headers.get("Authorization") != "Bearer secret":
                return Response(b"", status=401)
            asked = orjson.loads(await request.get_data(as_text=False, cache=True, parse_form_data=False))
            height = self.known["blockHeight"]
            assert isinstance(height, int)
            if any(each["blockHeight"] > height for each in asked):
                state = "UNABLE_TO_VERIFY"
            else:
                state = "CONFIRMED" if all(each == self.known for each in asked) else "INVALID"
            return Response(orjson.dumps({"confirmationState": state}), content_type="application/json")

        return app


@asynccontextmanager
async def asking(headers: Headers, token: str = "secret") -> AsyncIterator[ChainTracker]:
    async with trio.open_nursery() as nursery:
        url: str = await nursery.start(partial(serve, headers.app(), "127.0.0.1:0"))
        yield ChainTracker(url, token)
        nursery.cancel_scope.cancel()


async def test_a_root_of_the_chain_passes_and_scripts_stay_unchecked() -> None:
    async with asking(Headers(ROOT, failures=1)) as tracker:
        assert await tracker.check(BEEF) == frozenset({SCRIPTS})


async def test_a_root_of_no_block_is_refused() -> None:
    async with asking(Headers({**ROOT, "merkleRoot": "00" * 32})) as tracker:
        with pytest.raises(InvalidTransactionError) as caught:
            await tracker.check(BEEF)
        assert caught.value.fields["why"] == "merkle-path"


async def test_what_the_tracker_does_not_know_is_not_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chain_tracker, "PAUSE_S", 0.01)
    for headers, token in (
        (Headers({**ROOT, "blockHeight": 1}), "secret"),
        (Headers(ROOT, failures=9), "secret"),
        (Headers(ROOT), "wrong"),
    ):
        async with asking(headers, token) as tracker:
            with pytest.raises(TrackerUnavailableError):
                await tracker.check(BEEF)
    with pytest.raises(TrackerUnavailableError):
        await ChainTracker("http://127.0.0.1:9").check(BEEF)


class Strange:
    """A tracker that answers with something else than the service it should be."""

    def __init__(self, body: bytes, status: int = 200) -> None:
        self.body, self.status = body, status
        self.asked: list[object] = []

    def app(self) -> QuartTrio:
        app = QuartTrio("strange")

        @app.post("/api/v1/chain/merkleroot/verify")
        async def verify() -> Response:
            self.asked.append(orjson.loads(await request.get_data(as_text=False, cache=True, parse_form_data=False)))
            return Response(self.body, status=self.status, content_type="application/json")

        return app


@asynccontextmanager
async def strange(tracker: Strange, *, path: str = "") -> AsyncIterator[ChainTracker]:
    async with trio.open_nursery() as nursery:
        url: str = await nursery.start(partial(serve, tracker.app(), "127.0.0.1:0"))
        yield ChainTracker(url + path)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b'{"confirmationState": null}',
        b'{"confirmationState": "confirmed"}',
        b'{"confirmationState": "' + b"x" * 5_000 + b'"}',
        b'{"confirmationState": "CONFIRMED"}' + b" " * chain_tracker.ANSWER_BYTES_MAX,
    ],
)
async def test_an_answer_in_another_form_decides_nothing(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_tracker, "PAUSE_S", 0.001)
    async with strange(Strange(body)) as tracker:
        with pytest.raises(TrackerUnavailableError) as caught:
            await tracker.check(BEEF)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("status", [301, 400, 404, 503])
async def test_a_status_that_is_no_success_is_tried_again_and_decides_nothing(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_tracker, "PAUSE_S", 0.001)
    server = Strange(b'{"confirmationState": "CONFIRMED"}', status)
    async with strange(server) as tracker:
        with pytest.raises(TrackerUnavailableError):
            await tracker.check(BEEF)
    assert len(server.asked) == chain_tracker.ATTEMPTS_MAX


async def test_each_root_is_asked_for_once_with_its_height_and_a_slash_at_the_end_of_the_url_is_harmless() -> None:
    server = Strange(b'{"confirmationState": "CONFIRMED"}')
    async with strange(server, path="/") as tracker:
        assert await tracker.check(BEEF) == frozenset({SCRIPTS})
    assert server.asked == [[ROOT]]
