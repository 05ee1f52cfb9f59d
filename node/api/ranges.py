"""The ``Range`` header (RFC 9110, section 14.2) for answers whose size is known."""

import re
from typing import Final

SPECIFIER: Final = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)


def read_range(header: str | None, size: int) -> range | None:
    """Which bytes of ``size`` are asked for: one range, or the last so many.

    Returns None where all are to be sent: there is no header, another unit, no proper range, or several of them,
    which a server may ignore. An empty range is one that cannot be satisfied.
    """
    match = SPECIFIER.fullmatch(header or "")
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        return range(max(0, size - int(match[2])), size)
    first = int(match[1])
    if match[2] == "":
        return range(first, size)
    if int(match[2]) < first:
        return None
    return range(first, min(int(match[2]) + 1, size))
