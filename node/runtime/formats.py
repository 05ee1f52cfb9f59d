"""Hashes and durations as JSON values; ``protocols.certificate`` formats agent ids and times."""


def sha256_text(digest: bytes) -> str:
    """A digest as the API shows it."""
    return f"sha256:{digest.hex()}"


def whole_ms(microseconds: int) -> int:
    """Milliseconds, rounded to the nearest."""
    return (microseconds + 500) // 1000
