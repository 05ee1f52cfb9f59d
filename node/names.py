"""How the node's things are called in JSON: agents, times, hashes. One form each, wherever they are shown."""

import datetime

from protocols.messages import IdentityKey, Role

STEPS = {
    Role.NORMALIZE: "normalization",
    Role.VALIDATE: "validation",
    Role.CERTIFY: "certification",
    Role.DISTRIBUTE: "distribution",
}


def agent_id(identity: IdentityKey) -> str:
    """An agent's name: ``agent_`` and its identity key, 66 hex digits."""
    return f"agent_{identity.hex()}"


def rfc3339(time_ms: int) -> str:
    """A time in UTC with milliseconds, like ``2024-01-15T10:30:05.120Z``."""
    moment = datetime.datetime.fromtimestamp(time_ms // 1000, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"


def sha256_text(digest: bytes) -> str:
    """A digest the way the API shows one."""
    return f"sha256:{digest.hex()}"


def whole_ms(microseconds: int) -> int:
    """Milliseconds, rounded to the nearest."""
    return (microseconds + 500) // 1000
