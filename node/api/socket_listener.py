"""The reading half of a stream over WebSocket: what the client sends, in order, within bounds."""

from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

import trio
from quart import Websocket

from node.api.socket_messages import (
    Acknowledge,
    ChangeFilter,
    Ending,
    GrantCredit,
    InvalidMessageError,
    Ping,
    Reply,
    TooManyMessagesError,
    acknowledged_message,
    error_message,
    read_request,
)
from node.api.stream_clients import StreamClient
from node.delivery.cursor import Cursor
from node.runtime.token_bucket import Rate, TokenBucket
from protocols.errors import ClientFault

MESSAGE_RATE: Final = Rate(per_s=20.0, burst=50.0)  # of one client
FAULTS_MAX: Final = 5  # then the connection is closed
COMMANDS_MAX: Final = 16  # that wait to be carried out; then nothing more is read from the client
POLICY: Final = 1008  # RFC 6455, section 7.4.1

Command: TypeAlias = ChangeFilter | GrantCredit | Ping | Ending | Reply


class SocketListener:
    """Reads the client's messages; what the writer has to do about them waits in a channel.

    Attributes:
        acknowledged: The furthest place that the client acknowledged.
    """

    def __init__(
        self, socket: Websocket, client: StreamClient, *, sent: Callable[[], Cursor], wake: Callable[[], None]
    ) -> None:
        """Args:
        sent: How far events have been sent.
        wake: Makes the writer look at the commands.
        """
        self._socket = socket
        self._client = client
        self._sent = sent
        self._wake = wake
        self._send, self._receive = trio.open_memory_channel[Command](COMMANDS_MAX)
        self.acknowledged: Cursor | None = None

    @property
    def has_commands(self) -> bool:
        return self._receive.statistics().current_buffer_used > 0

    def next_command(self) -> Command | None:
        """The next command; None where none waits."""
        try:
            return self._receive.receive_nowait()
        except trio.WouldBlock:
            return None

    async def run(self) -> None:
        """Read until the client leaves. One that sends too much that is not understood is disconnected."""
        tokens, faults = TokenBucket(MESSAGE_RATE, trio.current_time), 0
        while faults < FAULTS_MAX:
            text = await self._socket.receive()
            try:
                if not tokens.take():
                    raise TooManyMessagesError(
                        f"at most {MESSAGE_RATE.per_s:.0f} messages a second are read", remedy="send fewer"
                    )
                command = self._command(text)
            except ClientFault as fault:
                faults += 1
                command = partial(error_message, fault)
            await self._send.send(command)
            self._wake()
        await self._send.send(Ending(POLICY, "too many messages that were not understood"))
        self._wake()
        while True:
            await self._socket.receive()

    def _command(self, text: str | bytes) -> Command:
        """What the writer is to do about a message.

        Raises:
            ClientFault: It is not understood.
        """
        request = read_request(text)
        if isinstance(request, Acknowledge):
            return partial(acknowledged_message, self._acknowledge(request.cursor))
        if isinstance(request, ChangeFilter) and self._client.acknowledge is not None:
            raise InvalidMessageError(
                "/type: the filter is the subscription's", field="/type", remedy="change the subscription"
            )
        return request

    def _acknowledge(self, cursor: Cursor) -> Cursor:
        if cursor > self._sent():
            raise InvalidMessageError(
                f"/sequence: must be at most {self._sent()}, up to which events were sent",
                field="/sequence",
                remedy="acknowledge what was received",
            )
        self.acknowledged = cursor if self.acknowledged is None else max(cursor, self.acknowledged)
        if self._client.acknowledge is not None:
            self._client.acknowledge(self.acknowledged)
        return self.acknowledged
