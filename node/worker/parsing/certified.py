"""Outputs of a batch as a peer sent them, held against the certificate."""

from collections.abc import Callable
from typing import Any

from protocols.errors import MalformedError
from protocols.identifiers import content_hash
from protocols.merkle import leaf_hash, root_of_leaves
from protocols.messages import Statement


def read_certified(
    leaves: bytes, normalized: bytes, statement: Statement, read_verdict: Callable[[bytes], dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The verdicts of a certified batch and the data that they are about, in batch order.

    The statement's normalized root is over data and the issues of that step alone, which nobody keeps: what binds the
    data is the content hash in each verdict, under the output root.

    Args:
        leaves, normalized: Newline-joined, as a peer sent them.
        read_verdict: Reads one leaf that was certified; raises what the caller answers for.

    Raises:
        MalformedError: these are not the verdicts or the data that were certified: the sender is at fault.
    """
    lines, data = leaves.split(b"\n"), normalized.split(b"\n")
    if len(lines) != statement.events or len(data) != statement.events:
        raise MalformedError(f"{len(lines)} verdicts and {len(data)} data, certified were {statement.events} events")
    if root_of_leaves([leaf_hash(line) for line in lines]) != statement.output_root:
        raise MalformedError("the verdicts are not those that were certified")
    verdicts = list(map(read_verdict, lines))
    for index, (verdict, line) in enumerate(zip(verdicts, data, strict=True)):
        if verdict["contentHash"] != content_hash(line):
            raise MalformedError(f"the data of event {index} are not those that were certified", index=index)
    return verdicts, data
