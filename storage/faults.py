"""What to do about an error of the database, decided once for all of its errors.

``RETRY``: the server, the network or another transaction is in the way, and the same work may succeed later.
``REFUSE``: the database cannot hold what it was given; it never will.
``STOP``: the schema or the program is wrong.
"""

from enum import Enum
from typing import Final

import attrs
import psycopg

from storage.errors import DatabaseUnavailableError


class Reaction(Enum):
    RETRY = "retry"
    REFUSE = "refuse"
    STOP = "stop"


@attrs.frozen
class Verdict:
    """``cause``: Why, for machines; the field of that name of ``DatabaseUnavailableError``."""

    reaction: Reaction
    cause: str


UNREACHABLE: Final = Verdict(Reaction.RETRY, "unreachable")
REFUSED: Final = Verdict(Reaction.REFUSE, "value")
SCHEMA: Final = Verdict(Reaction.STOP, "schema")
PROGRAM: Final = Verdict(Reaction.STOP, "program")

# by SQLSTATE, or by its class: the first two characters
VERDICTS: Final = {
    "08": UNREACHABLE,
    "22": REFUSED,
    "23": REFUSED,
    "23505": Verdict(Reaction.RETRY, "conflict"),  # rows are written ON CONFLICT: a race with another transaction
    "25006": Verdict(Reaction.RETRY, "read-only"),
    "25P03": UNREACHABLE,
    "3F000": SCHEMA,
    "40": Verdict(Reaction.RETRY, "conflict"),
    "42703": SCHEMA,
    "42883": SCHEMA,
    "42P01": SCHEMA,
    "44": REFUSED,
    "53": Verdict(Reaction.RETRY, "overloaded"),
    "53100": Verdict(Reaction.RETRY, "disk-full"),
    "53300": Verdict(Reaction.RETRY, "too-many-connections"),
    "54": REFUSED,
    "55": Verdict(Reaction.RETRY, "unavailable"),
    "55P03": Verdict(Reaction.RETRY, "locked"),
    "57": Verdict(Reaction.RETRY, "restarting"),
    "57014": Verdict(Reaction.RETRY, "slow"),
    "58": Verdict(Reaction.RETRY, "server-disk"),
    "XX": Verdict(Reaction.RETRY, "damaged"),
}
CAUSES: Final = {
    "read-only": "the database is read-only",
    "disk-full": "the disk of the database is full",
    "too-many-connections": "the database has no connection left",
    "locked": "a table of the database is locked",
    "slow": "the database takes too long",
    "restarting": "the database is starting or stopping",
    "damaged": "the database reports damaged data",
    "server-disk": "the database cannot read or write its files",
    "stopping": "the node is stopping",
}
"""What operators read; of other causes that the database does not answer."""


def unavailable(cause: str) -> DatabaseUnavailableError:
    """The fault for one of the causes of this module."""
    text = CAUSES.get(cause, "the database does not answer")
    return DatabaseUnavailableError(f"{text}; the request can be repeated", cause=cause)


def verdict_of(error: Exception) -> Verdict:
    """What to do about an error that work on a connection raised."""
    if isinstance(error, UnicodeEncodeError):  # text with half of a surrogate pair, before anything was sent
        return REFUSED
    if not isinstance(error, psycopg.Error):
        return PROGRAM
    state = error.sqlstate
    if state is not None:
        return VERDICTS.get(state) or VERDICTS.get(state[:2], PROGRAM)
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return UNREACHABLE
    return REFUSED if isinstance(error, psycopg.DataError) else PROGRAM
