"""``ls_uhrp``: the hosts of an object, for clients such as the official storage downloader.

Answers are this node's own advertisements, those of peers that hold the object now, and those that hosts submitted to
``tm_uhrp``. Nodes make their advertisements on request, see ``node.overlay.objects.adverts``.
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
PATIENCE_WITH_ANSWER_S: Final = 0.25  # and waits only briefly after its first answer

Submitted: TypeAlias = Callable[[Sequence[bytes]], Awaitable[Sequence[LookupOutput]]]
"""Outputs in ``tm_uhrp`` for objects of these digests."""

DOCUMENTATION: Final = f"""# ls_uhrp

Finds the hosts of objects (UHRP, BRC-26). Queries:

- `{{"uhrpUrl": "XU..."}}`: the URL alone, or after `uhrp:` or `uhrp://`.
- `{{"uhrpUrls": ["XU...", ...]}}`: 1 to {DIGESTS_MAX} URLs.

Each output is a UHRP advertisement: identity key, SHA-256, URL, expiry (Unix seconds), size, signature. This node and
its peers advertise what they hold: records of batches, quorum certificates, policies. Other hosts' advertisements are
those submitted to `{TOPIC}`. Expired ones are left out. Check the hash of what you download.
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
        """As any lookup service; raises InvalidUhrpUrlError as well, for a string that is not a UHRP URL."""
        digests = read_query(query)
        own = [script for script in await self._objects.own_adverts(digests) if script is not None]
        submitted = await self._submitted(digests)
        patience_s = PATIENCE_WITH_ANSWER_S if own or submitted else PATIENCE_S
        found = await self._objects.peer_adverts(digests, patience_s)
        read = partial(_valid_scripts, found, now_s=clock_ms() // 1_000, allow_local_urls=self._allow_local_urls)
        peers = await trio.to_thread.run_sync(read)
        carried = [LookupOutput(beef=carry(script), output_index=0) for script in (*own, *peers)]
        return [*carried, *submitted]


async def advertised_holders(submitted: Submitted, allow_local_urls: bool, digest: bytes) -> Sequence[IdentityKey]:
    """Identities whose advertisements of an object were submitted here: the first to ask for it."""
    adverts = [
        check_uhrp_advert(_script(output), allow_local_urls=allow_local_urls)
        for output in (await submitted([digest]))[:HOLDERS_MAX]
    ]
    return [IdentityKey(advert.identity) for advert in adverts]


def read_query(query: Any) -> list[bytes]:
    """The digests that a query names, each once.

    Raises:
        InvalidQueryError: It names no object, or too many. InvalidUhrpUrlError: A string is not a UHRP URL.
    """
    match query:
        case {"uhrpUrl": str(url), **rest} if not rest:
            urls = [url]
        case {"uhrpUrls": list(urls), **rest} if not rest and 0 < len(urls) <= DIGESTS_MAX and _are_strings(urls):
            pass
        case _:
            raise InvalidQueryError(
                f"the query must have either uhrpUrl, a string, or uhrpUrls, an array of 1 to {DIGESTS_MAX} strings",
                service=UhrpLookup.name,
                remedy='send {"uhrpUrl": "XU..."}, or {"uhrpUrls": ["XU...", ...]}',
            )
    return list(dict.fromkeys(map(read_uhrp_url, urls)))


def _are_strings(urls: list[Any]) -> bool:
    return all(isinstance(url, str) for url in urls)


def _valid_scripts(
    found: Sequence[tuple[IdentityKey, bytes, bytes]], *, now_s: int, allow_local_urls: bool
) -> list[bytes]:
    """The scripts that are unexpired advertisements of the peer itself, for the object asked for."""
    kept: dict[bytes, list[bytes]] = {}
    for peer, digest, script in found:
        scripts = kept.setdefault(digest, [])
        if len(scripts) < HOLDERS_MAX and _holds(peer, digest, script, now_s, allow_local_urls):
            scripts.append(script)
    return [script for scripts in kept.values() for script in scripts]


def _holds(peer: IdentityKey, digest: bytes, script: bytes, now_s: int, allow_local_urls: bool) -> bool:
    try:
        advert: UhrpAdvert = check_uhrp_advert(script, allow_local_urls=allow_local_urls)
    except PeerFault as fault:
        log.info("uhrp.advert_refused", peer=peer.hex(), why=str(fault))
        return False
    return (advert.identity, advert.digest) == (peer, digest) and advert.expires_s > now_s


def _script(output: LookupOutput) -> bytes:
    return read_beef(output.beef).subject_transaction.outputs[output.output_index].locking_script
