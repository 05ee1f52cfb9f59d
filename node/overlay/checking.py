"""Checks of submitted transactions beyond their amounts, and the names of those that were not made."""

from typing import Final, Protocol

SCRIPTS: Final = "scripts"
MERKLE_PATHS: Final = "merkle-paths"


class TransactionChecker(Protocol):
    """Checks scripts and merkle paths, as far as it can."""

    async def check(self, beef: bytes) -> frozenset[str]:
        """Check a transaction. Returns which of ``SCRIPTS`` and ``MERKLE_PATHS`` were not checked.

        Raises:
            InvalidTransactionError: A script fails, or a merkle path does not lead to a block.
            WorldFault: The chain tracker does not answer.
        """


class Unchecked:
    """Checks neither: for nodes without a chain tracker."""

    async def check(self, beef: bytes) -> frozenset[str]:
        return frozenset({SCRIPTS, MERKLE_PATHS})
