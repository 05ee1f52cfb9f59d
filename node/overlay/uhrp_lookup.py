"""``ls_uhrp``: who serves an object, as the official storage downloader asks it.

This node answers for itself, passes on what its peers advertise of what they hold now, and what hosts submitted to
``tm_uhrp``. Advertisements of nodes are minted when asked for, see ``node.overlay.objects.adverts``.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import structlog
import trio

from node.overlay.carrier import carry
from node.overlay.lookup import InvalidQueryError, LookupOutput
from node.overlay.objects import DIGESTS_MAX, Objects
from node.runtime.clock import clock_ms
from protocols.beef import read_beef
from protocols.errors import PeerFault
from protocols.messages import IdentityKey
from protocols.uhrp import UhrpAdvert, check_uhrp_advert, read_uhrp_url

log = structlog.get_logger(__name__)

TOPIC: Final = "tm_uhrp"
HOLDERS_MAX: Final = 16  # of one object, besides this node
PATIENCE_S: Final = 2.0  # the official resolver gives up after 5 s
PATIENCE_WITH_ANSWER_S: Final = 0.25  # and takes little after its first answer

Submitted: TypeAlias = Callable[[Sequence[bytes]], Awaitable[Sequence[LookupOutput]]]
"""Outputs that stand in ``tm_uhrp`` for objects of these digests."""

DOCUMENTATION: Final = f"""# ls_uhrp

Who serves an object (UHRP, BRC-26). Queries:

- `{{"uhrpUrl": "XU..."}}`: the URL bare, or after `uhrp:` or `uhrp://`.
- `{{"uhrpUrls": ["XU...", ...]}}`: at most {DIGESTS_MAX} of them.

Each output is a UHRP advertisement: identity key, SHA-256, URL, expiry (Unix seconds), size, signature. This node and
its peers advertise what they hold: batches' records, quorum certificates, policies; others as they submitted it to
`{TOPIC}`. None is expired when it leaves. Check the hash of what you download.
"""


class UhrpLookup:
    """Finds holders of objects."""

    name: Final = "ls_uhrp"
    documentation: Final = DOCUMENTATION
    topics: Final = (TOPIC,)

    def __init__(self, *, objects: Objects, submitted: Submitted, allow_local_urls: bool) -> None:
        self._objects = objects
        self._submitted = submitted
        self._allow_local_urls = allow_local_urls

    async def lookup(self, query: Any) -> Sequence[LookupOutput]:
        """Raises InvalidUhrpUrlError for a text that is no URL; otherwise as any lookup service."""
        digests = read_query(query)
        own = [script for script in await self._objects.own_adverts(digests) if script is not None]
        submitted = await self._submitted(digests)
        patience_s = PATIENCE_WITH_ANSWER_S if own or submitted else PATIENCE_S
        told = await self._objects.peer_adverts(digests, patience_s)
        read = partial(_admitted, told, now_s=clock_ms() // 1_000, allow_local_urls=self._allow_local_urls)
        peers = await trio.to_thread.run_sync(read)
        carried = [LookupOutput(beef=carry(script), output_index=0) for script in (*own, *peers)]
        return [*carried, *submitted]


async def advertised_holders(submitted: Submitted, allow_local_urls: bool, digest: bytes) -> Sequence[IdentityKey]:
    """Identities whose advertisements of an object were submitted here: whom to ask for it first."""
    adverts = [
        check_uhrp_advert(_script(output), allow_local_urls=allow_local_urls)
        for output in (await submitted([digest]))[:HOLDERS_MAX]
    ]
    return [IdentityKey(advert.identity) for advert in adverts]


def read_query(query: Any) -> list[bytes]:
    """The digests that a query names, each once.

    Raises:
        InvalidQueryError: it names none, or too many. InvalidUhrpUrlError: a text is no URL.
    """
    match query:
        case {"uhrpUrl": str(url), **rest} if not rest:
            urls = [url]
        case {"uhrpUrls": list(urls), **rest} if not rest and 0 < len(urls) <= DIGESTS_MAX and _texts(urls):
            pass
        case _:
            raise InvalidQueryError(
                "the query names no object",
                service=UhrpLookup.name,
                remedy=f'send {{"uhrpUrl": "XU..."}}, or "uhrpUrls" with a list of at most {DIGESTS_MAX}',
            )
    return list(dict.fromkeys(map(read_uhrp_url, urls)))


def _texts(urls: list[Any]) -> bool:
    return all(isinstance(url, str) for url in urls)


def _admitted(told: Sequence[tuple[IdentityKey, bytes, bytes]], *, now_s: int, allow_local_urls: bool) -> list[bytes]:
    """The scripts that are a peer's own word, in force, that it holds what was asked for."""
    kept: dict[bytes, list[bytes]] = {}
    for peer, digest, script in told:
        scripts = kept.setdefault(digest, [])
        if len(scripts) < HOLDERS_MAX and _holds(peer, digest, script, now_s, allow_local_urls):
            scripts.append(script)
    return [script for scripts in kept.values() for script in scripts]


def _holds(peer: IdentityKey, digest: bytes, script: bytes, now_s: int, allow_local_urls: bool) -> bool:
    try:
        said: UhrpAdvert = check_uhrp_advert(script, allow_local_urls=allow_local_urls)
    except PeerFault as fault:
        log.info("uhrp.advert_refused", peer=peer.hex(), why=str(fault))
        return False
    return (said.identity, said.digest) == (peer, digest) and said.expires_s > now_s


def _script(output: LookupOutput) -> bytes:
    return read_beef(output.beef).subject_transaction.outputs[output.output_index].locking_script
