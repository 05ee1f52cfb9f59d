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
