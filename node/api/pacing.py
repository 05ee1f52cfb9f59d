"""A request whose body is counted as it arrives, whatever route it is for, and may be read at the route's own pace;
and tasks beside the answer to it.
"""

from typing import Final

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart import Request
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers.request import TrioBody, TrioRequest

from node.ingest.admission_control import ByteBudget
from node.ingest.backlog import OverloadedError

BODY_BUDGET: Final = "BODY_BUDGET"
"""In the app's configuration: makes the budget of a client's request, given its address."""


class PacedBody(TrioBody):
    """A body that is received as fast as its client sends, or no faster than it is read."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, max_content_length)
        self._pace: int | None = None
        self._taken = trio.Event()
        self._budget: ByteBudget | None = None

    def count_in(self, budget: ByteBudget) -> None:
        """Count what arrives in ``budget``, for as long as the request lasts."""
        self._budget = budget

    def append(self, data: bytes) -> None:
        """Keep a part that arrived; where it does not fit, drop the body and raise OverloadedError in its reader."""
        if data and self._budget is not None and self._must_raise is None:
            try:
                self._budget.take(len(data))
            except OverloadedError as full:
                self._must_raise = full
                self.clear()
                self.set_complete()
        super().append(data)

    def pace(self, bytes_max: int) -> None:
        """From now on receive nothing while ``bytes_max`` bytes wait to be read. The body may be of any length; its
        reader counts the bytes that it keeps.
        """
        if self._budget is not None:
            self._budget.resize(0)
            self._budget = None
        self._pace = bytes_max
        self._max_content_length = None

    async def __anext__(self) -> bytes:
        try:
            data = await super().__anext__()
        except StopAsyncIteration:
            if self._must_raise is not None:  # meanwhile: it did not end here
                raise self._must_raise from None
            raise
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
    budget: Where its body is counted; None where nothing arrives over a connection.
    """

    body_class = PacedBody
    body: PacedBody
    tasks: trio.Nursery
    budget: ByteBudget | None = None


class PacedConnection(TrioASGIHTTPConnection):
    """One request and its answer."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        request = self._create_request_from_scope(send)
        assert isinstance(request, PacedRequest), "the app makes no others"
        with self.app.config[BODY_BUDGET](request.remote_addr) as budget:
            request.budget = budget
            request.body.count_in(budget)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.handle_messages, nursery, request, receive)
                nursery.start_soon(self.handle_request, nursery, request, send)

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
