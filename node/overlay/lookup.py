"""Lookup services (BRC-24): a query in, outputs with the transactions they stand in out."""

from collections.abc import Sequence
from typing import Any, Protocol

import attrs

from protocols.errors import ClientFault


class InvalidQueryError(ClientFault):
    """The service does not know the query's form. Field: ``service``."""

    code = "invalid-query"


@attrs.frozen(kw_only=True)
class LookupOutput:
    """An output that answers a query: its transaction is the subject of the BEEF."""

    beef: bytes
    output_index: int
    context: bytes | None = None


class LookupService(Protocol):
    """Answers queries about the outputs of some topics."""

    @property
    def name(self) -> str:
        """``ls_`` and a name (BRC-87)."""

    @property
    def documentation(self) -> str:
        """Markdown for people: the queries it takes, and what comes back."""

    @property
    def topics(self) -> Sequence[str]:
        """Whose outputs it finds."""

    async def lookup(self, query: Any) -> Sequence[LookupOutput]:
        """The outputs that a query, any JSON value, asks for.

        Raises:
            InvalidQueryError: it is no query of this service.
        """
