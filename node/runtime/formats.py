"""How hashes and durations are shown in JSON; agents and times are named by ``protocols.certificate``."""


def sha256_text(digest: bytes) -> str:
    """A digest the way the API shows one."""
    return f"sha256:{digest.hex()}"


def whole_ms(microseconds: int) -> int:
    """Milliseconds, rounded to the nearest."""
    return (microseconds + 500) // 1000
