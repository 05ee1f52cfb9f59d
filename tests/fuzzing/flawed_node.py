"""A node with two bugs that hostile values reach: ``python -m tests.fuzzing.flawed_node run --config FILE``.

It is the node's own command with two functions exchanged: each fails over text beyond ASCII, one in a peer's message,
one in a query.
"""

import sys
from collections.abc import Callable
from typing import Any

from node.api import operations
from node.cli import main
from node.network.receiver import Receiver
from protocols.messages import Message, SealConfirmed


class FlawedReceiver(Receiver):
    """Looks a text up where it cannot be."""

    def _is_by_members(self, message: Message) -> bool:
        if isinstance(message, SealConfirmed) and not message.batch_id.isascii():
            raise KeyError(message.batch_id)
        return super()._is_by_members(message)


def flawed(read_query: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A reader of queries that fails over a text."""

    def read(model: Any, asked: Any) -> Any:
        if not "".join(asked.args.values()).isascii():
            raise UnicodeError("text beyond ASCII")
        return read_query(model, asked)

    return read


if __name__ == "__main__":
    from node.wiring import network

    assert vars(network)["Receiver"] is Receiver, "the module that makes the node's receiver"
    vars(network)["Receiver"] = FlawedReceiver
    vars(operations)["read_query"] = flawed(vars(operations)["read_query"])
    sys.exit(main())
