"""Checks merkle paths against the operator's chain tracker, a Block Headers Service. Scripts are not run.

``POST /api/v1/chain/merkleroot/verify`` takes pairs of root and height, and answers for all together whether they are
roots of blocks of the longest chain. The operator sets the tracker's address: it is not restricted.
"""

from typing import Any, Final

import httpx
import structlog
import trio

from node.overlay.checking import SCRIPTS
from protocols.beef import Beef, read_beef
from protocols.errors import InvalidTransactionError, WorldFault

log = structlog.get_logger(__name__)

PATH: Final = "/api/v1/chain/merkleroot/verify"
ATTEMPTS_MAX: Final = 3
TIMEOUT_S: Final = 5.0
PAUSE_S: Final = 0.25
ANSWER_BYTES_MAX: Final = 1024 * 1024


class TrackerUnavailableError(WorldFault):
    """The chain tracker does not answer, or cannot confirm yet."""


class ChainTracker:
    """A ``TransactionChecker`` for merkle paths."""

    def __init__(self, url: str, token: str = "") -> None:
        self._url = url.rstrip("/") + PATH
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def check(self, beef: bytes) -> frozenset[str]:
        """Check the merkle paths of a transaction. Returns what was not checked.

        Raises:
            InvalidTransactionError: A root is not that of a block of the longest chain.
            TrackerUnavailableError: The tracker does not answer, or cannot confirm yet.
        """
        read = await trio.to_thread.run_sync(read_beef, beef)
        roots = sorted({(path.block_height, path.root[::-1].hex()) for path in read.paths})
        if roots:
            await self._ask(read, [{"blockHeight": height, "merkleRoot": root} for height, root in roots])
        return frozenset({SCRIPTS})

    async def _ask(self, beef: Beef, roots: list[dict[str, Any]]) -> None:
        state = await self._state(roots)
        if state == "INVALID":
            txid = beef.subject_transaction.txid_hex
            raise InvalidTransactionError(
                f"a merkle path of the transaction {txid} does not lead to a block of the longest chain",
                txid=txid,
                why="merkle-path",
            )
        if state != "CONFIRMED":
            raise TrackerUnavailableError(f"the chain tracker answers {state[:80]!r}: send it again later")

    async def _state(self, roots: list[dict[str, Any]]) -> str:
        async with httpx.AsyncClient(timeout=TIMEOUT_S, headers=self._headers, trust_env=False) as client:
            for attempt in range(1, ATTEMPTS_MAX + 1):
                try:
                    answer = await client.post(self._url, json=roots)
                    if answer.is_success and len(answer.content) <= ANSWER_BYTES_MAX:
                        return str(answer.json()["confirmationState"])
                    problem = f"status {answer.status_code}"
                except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                    problem = f"{type(error).__name__}: {error}"
                log.warning("tracker.failed", attempt=attempt, why=problem)
                await trio.sleep(PAUSE_S * 2 ** (attempt - 1))
        raise TrackerUnavailableError("the chain tracker does not answer: send the transaction again later")
