"""This node's UHRP advertisements, made on request.

An advertisement states where an object is served and until when. Two for every batch, signed, stored and renewed
every day, would cost more than certifying the batch, and few would ever be read. A signature is a function of key and
content, so repeated requests within a day get the same bytes as if they had been stored.
"""

from collections import OrderedDict
from typing import Final

from protocols.errors import UnreadableFieldError
from protocols.keys import PrivateKey
from protocols.uhrp import build_uhrp_advert, uhrp_url
from storage.objects import StoredObject

DAY_S: Final = 86_400
ADVERTS_MAX: Final = 4_096
PATH: Final = "/uhrp/"


class AdvertMaker:
    """Signs advertisements with the node's identity."""

    def __init__(self, key: PrivateKey, public_url: str) -> None:
        self._key = key
        self._address = public_url.rstrip("/") + PATH
        self._recent: OrderedDict[tuple[bytes, int], bytes] = OrderedDict()

    def make(self, known: StoredObject, now_ms: int) -> bytes | None:
        """The locking script for an object, good for one to two days; None if it cannot be advertised."""
        expires_s = (now_ms // (1_000 * DAY_S) + 2) * DAY_S
        script = self._recent.get((known.digest, expires_s))
        if script is not None:
            return script
        url = self._address + uhrp_url(known.digest)
        try:
            script = build_uhrp_advert(self._key, digest=known.digest, url=url, expires_s=expires_s, size=known.size)
        except UnreadableFieldError:
            return None
        self._recent[known.digest, expires_s] = script
        if len(self._recent) > ADVERTS_MAX:
            self._recent.popitem(last=False)
        return script
