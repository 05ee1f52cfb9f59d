"""What a submitted transaction is checked for beyond its amounts, and what the answer says was not checked."""

from typing import Final, Protocol

SCRIPTS: Final = "scripts"
MERKLE_PATHS: Final = "merkle-paths"


class TransactionChecker(Protocol):
    """Looks at scripts and merkle paths, as far as it can."""

    async def check(self, beef: bytes) -> frozenset[str]:
        """What of ``SCRIPTS`` and ``MERKLE_PATHS`` was not checked; the rest holds.

        Raises:
            InvalidTransactionError: a script fails, or a path leads nowhere.
            WorldFault: it is not known: the chain tracker does not answer.
        """


class Unchecked:
    """Checks neither: this node has no chain tracker."""

    async def check(self, beef: bytes) -> frozenset[str]:
        return frozenset({SCRIPTS, MERKLE_PATHS})
