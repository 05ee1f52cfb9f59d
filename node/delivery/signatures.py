"""Standard Webhooks: the id and signatures by which a receiver recognizes a delivery.

Source: https://www.standardwebhooks.com, "Webhook Signatures": HMAC-SHA256 over ``id.timestamp.body`` under a secret
of 24 to 64 bytes, which is written ``whsec_`` and its base64.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Final

from node.delivery.cursor import Cursor

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
SECRET_BYTES_MIN: Final = 24
SECRET_BYTES_MAX: Final = 64


def make_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def read_secret(text: str) -> bytes:
    """The key in a secret.

    Raises:
        ValueError: The text is not a secret.
    """
    if not text.startswith(PREFIX) or len(text) > 2 * SECRET_BYTES_MAX:
        raise ValueError("a secret must be whsec_ followed by base64")
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("a secret must be whsec_ followed by base64") from error
    if not SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX:
        raise ValueError(f"a secret must hold {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes")
    return key


def message_id(subscription_id: str, cursors: Sequence[Cursor]) -> str:
    """The id of a delivery: the same whenever these events go to this subscription together."""
    digest = hashlib.sha256(f"{subscription_id} {' '.join(map(str, cursors))}".encode())
    return "msg_" + digest.hexdigest()[:32]


def signed_headers(name: str, timestamp_s: int, body: bytes, keys: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """The headers of a delivery, with a signature under each key."""
    content = b"%b.%d.%b" % (name.encode(), timestamp_s, body)
    signatures = [b"v1," + base64.b64encode(hmac.digest(key, content, "sha256")) for key in keys]
    return [
        (b"webhook-id", name.encode()),
        (b"webhook-timestamp", b"%d" % timestamp_s),
        (b"webhook-signature", b" ".join(signatures)),
    ]
