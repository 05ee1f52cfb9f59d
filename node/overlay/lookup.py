"""Lookup services (BRC-24): a query in, transaction outputs out."""

from collections.abc import Sequence
from typing import Any, Protocol

import attrs

from agents.paths import pointer
from protocols.errors import ClientFault


class InvalidQueryError(ClientFault):
    """A query does not have a form that the service accepts. Fields: ``service`` and ``remedy``."""

    code = "invalid-query"


def unknown_member(service: str, name: str, allowed: str) -> InvalidQueryError:
    """The error for a member that a query of this service does not have. ``allowed``: those that it may have."""
    place = pointer(("query", name))
    return InvalidQueryError(
        f"{place}: unknown member", field=place, service=service, remedy=f"allowed members are {allowed}"
    )


@attrs.frozen(kw_only=True)
class LookupOutput:
    """An output that answers a query. Its transaction is the subject of the BEEF."""

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
        """Markdown for people: the queries that it accepts, and its answers."""

    @property
    def topics(self) -> Sequence[str]:
        """The topics whose outputs it finds."""

    async def lookup(self, query: Any) -> Sequence[LookupOutput]:
        """The outputs that match a query, which may be any JSON value.

        Raises:
            InvalidQueryError: It is not a query of this service.
        """
