"""A request whose body a route may read at its own pace, and tasks beside the answer to it."""

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart import Request
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers.request import TrioBody, TrioRequest


class PacedBody(TrioBody):
    """A body that is received as fast as its client sends, or no faster than it is read."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, max_content_length)
        self._pace: int | None = None
        self._taken = trio.Event()

    def pace(self, bytes_max: int) -> None:
        """From now on receive nothing while ``bytes_max`` bytes wait to be read. The body may be of any length."""
        self._pace = bytes_max
        self._max_content_length = None

    async def __anext__(self) -> bytes:
        data = await super().__anext__()
        self._taken.set()
        self._taken = trio.Event()
        return data

    async def wait_for_space(self) -> None:
        """Wait until more may be received."""
        while self._pace is not None and len(self._data) >= self._pace:
            await self._taken.wait()


class PacedRequest(TrioRequest):
    """Attributes:
    tasks: Run beside the answer, and end with it.
    """

    body_class = PacedBody
    body: PacedBody
    tasks: trio.Nursery


class PacedConnection(TrioASGIHTTPConnection):
    """One request and its answer."""

    async def handle_messages(  # type: ignore[override]  # as in its base
        self, nursery: trio.Nursery, request: Request, receive: ASGIReceiveCallable
    ) -> None:
        assert isinstance(request, PacedRequest), "the app makes no others"
        while True:
            message = await receive()
            if message["type"] == "http.request":
                request.body.append(message.get("body", b""))
                if not message.get("more_body", False):
                    request.body.set_complete()
                await request.body.wait_for_space()
            elif message["type"] == "http.disconnect":
                nursery.cancel_scope.cancel()
                return

    async def handle_request(  # type: ignore[override]  # as in its base
        self, nursery: trio.Nursery, request: Request, send: ASGISendCallable
    ) -> None:
        assert isinstance(request, PacedRequest), "the app makes no others"
        request.tasks = nursery
        await super().handle_request(nursery, request, send)
