"""``ls_ship`` and ``ls_slap``: the hosts of topics and of lookup services (BRC-24, BRC-88).

Answers are the advertisements of this node and its peers, which travel by gossip and expire, then those submitted to
``tm_ship`` and ``tm_slap``. Of several with the same identity, URL and name one is answered, the gossiped one if
there is one: it is known to be in force.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, Final

import attrs

from node.overlay.carrier import carry
from node.overlay.lookup import InvalidQueryError, LookupOutput, unknown_member
from node.runtime.clock import clock_ms
from protocols.advertisement import Kind, Token
from storage import outputs
from storage.database import Database
from storage.outputs import StoredOutput

ANSWERED_MAX: Final = 500
TOPICS_MAX: Final = 64
TEXT_CHARS_MAX: Final = 2_048
SKIPPED_MAX: Final = 1_000_000
IDENTITY: Final = re.compile("0[23][0-9a-f]{64}")
CARRIED_MAX: Final = 4_096

Adverts = Callable[[], Iterable[tuple[Token, bytes]]]
"""SHIP and SLAP tokens in force by gossip with their locking scripts, checked, this node's own among them."""


@attrs.frozen(kw_only=True)
class AdvertQuery:
    """The advertisements to find; None does not filter."""

    names: tuple[str, ...] | None = None
    domain: str | None = None
    identity: bytes | None = None
    skip: int = 0
    limit: int = ANSWERED_MAX

    def matches(self, token: Token) -> bool:
        return (
            (self.names is None or token.name in self.names)
            and (self.domain is None or token.url.rstrip("/") == self.domain)
            and (self.identity is None or token.identity == self.identity)
        )


class AdvertLookup:
    """One of the two services."""

    def __init__(self, kind: Kind, *, database: Database, adverts: Adverts) -> None:
        self.kind = kind
        self.name = f"ls_{kind.lower()}"
        self.topics = (f"tm_{kind.lower()}",)
        self._database = database
        self._adverts = adverts

    @property
    def documentation(self) -> str:
        by = '`{"topics": ["tm_x", ...]}`' if self.kind == "SHIP" else '`{"service": "ls_x"}`'
        what = "topics" if self.kind == "SHIP" else "lookup services"
        return (
            f"# {self.name}\n\nFinds the hosts of {what}. Queries: {by}, `domain`, `identityKey`, `findAll`, with "
            f"`limit` (at most {ANSWERED_MAX}) and `skip`; an advertisement has to match all that are given. Outputs "
            f"are {self.kind} tokens: first those of nodes, in force now and in carrier transactions without coins, "
            "then those submitted.\n"
        )

    async def lookup(self, query: Any) -> Sequence[LookupOutput]:
        wanted = read_query(query, self.kind)
        gossiped = self._gossiped(wanted)
        seen = {(token.identity, token.url, token.name) for token, _ in gossiped}
        room = wanted.skip + wanted.limit
        stored = await self._database.run(
            partial(
                outputs.find,
                topic=self.topics[0],
                names=wanted.names,
                identity=wanted.identity,
                urls=None if wanted.domain is None else (wanted.domain, f"{wanted.domain}/"),
                now_s=clock_ms() // 1_000,
                limit=room,
            )
        )
        kept = [row for row in stored if _is_new(row, seen)]
        found = [LookupOutput(beef=_carried(script), output_index=0) for _, script in gossiped]
        found += [LookupOutput(beef=row.beef, output_index=row.output_index) for row in kept]
        return found[wanted.skip : room]

    def hosts(self, name: str) -> list[str]:
        """URLs of the hosts that advertise a name by gossip now."""
        return [token.url for token, _ in self._gossiped(AdvertQuery(names=(name,)))]

    def _gossiped(self, wanted: AdvertQuery) -> list[tuple[Token, bytes]]:
        found: dict[tuple[bytes, str, str], tuple[Token, bytes]] = {}
        for token, script in self._adverts():
            if token.kind == self.kind and wanted.matches(token):
                found[token.identity, token.url, token.name] = (token, script)
        return [found[key] for key in sorted(found)]


def read_query(query: Any, kind: Kind) -> AdvertQuery:
    """A query in any of the forms that the official services accept.

    Raises:
        InvalidQueryError: It has another form.
    """
    if query == "findAll":
        return AdvertQuery()
    if not isinstance(query, dict):
        raise _invalid(kind, 'must be an object, or "findAll"')
    left = dict(query)
    find_all = left.pop("findAll", None)
    left.pop("sortOrder", None)  # the latest come first
    wanted = AdvertQuery(
        names=_names(left, kind),
        domain=_text(left, "domain", kind),
        identity=_identity(left, kind),
        skip=_number(left, "skip", SKIPPED_MAX, 0, kind),
        limit=_number(left, "limit", ANSWERED_MAX, ANSWERED_MAX, kind),
    )
    if left:
        allowed = f"{_members(kind)}, findAll, sortOrder, limit, skip"
        raise unknown_member(f"ls_{kind.lower()}", min(left), allowed)
    if find_all is not True and (wanted.names, wanted.domain, wanted.identity) == (None, None, None):
        raise _invalid(kind, f"must have one of {_members(kind)}, or findAll true")
    return wanted


def _names(left: dict[str, Any], kind: Kind) -> tuple[str, ...] | None:
    if kind == "SLAP":
        service = _text(left, "service", kind)
        return None if service is None else (service,)
    topics = left.pop("topics", None)
    if topics is None:
        return None
    if not isinstance(topics, list) or len(topics) > TOPICS_MAX or not all(isinstance(each, str) for each in topics):
        raise _invalid(kind, f"must have in 'topics' an array of at most {TOPICS_MAX} strings")
    return tuple(topics)


def _text(left: dict[str, Any], name: str, kind: Kind) -> str | None:
    value = left.pop(name, None)
    if value is not None and not (isinstance(value, str) and 0 < len(value) <= TEXT_CHARS_MAX):
        raise _invalid(kind, f"must have in {name!r} a string of 1 to {TEXT_CHARS_MAX} characters")
    return value.rstrip("/") if isinstance(value, str) else None


def _identity(left: dict[str, Any], kind: Kind) -> bytes | None:
    value = left.pop("identityKey", None)
    if value is None:
        return None
    if not isinstance(value, str) or IDENTITY.fullmatch(value) is None:
        raise _invalid(kind, "must have in 'identityKey' a compressed public key in hexadecimal")
    return bytes.fromhex(value)


def _number(left: dict[str, Any], name: str, most: int, default: int, kind: Kind) -> int:
    value = left.pop(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _invalid(kind, f"must have in {name!r} an integer of at least 0")
    return min(value, most)


def _members(kind: Kind) -> str:
    return f"{'topics' if kind == 'SHIP' else 'service'}, domain, identityKey"


def _invalid(kind: Kind, what: str) -> InvalidQueryError:
    service = f"ls_{kind.lower()}"
    by = '{"topics": ["tm_x"]}' if kind == "SHIP" else '{"service": "ls_x"}'
    return InvalidQueryError(
        f"the query {what}", service=service, remedy=f'send {by}, "domain", "identityKey" or {{"findAll": true}}'
    )


def _is_new(row: StoredOutput, seen: set[tuple[bytes, str, str]]) -> bool:
    key = (row.identity, row.url, row.name)
    if key in seen:
        return False
    seen.add(key)
    return True


@lru_cache(maxsize=CARRIED_MAX)
def _carried(script: bytes) -> bytes:
    return carry(script)
