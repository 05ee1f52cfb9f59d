"""How many files the process may have open: every connection of a client or a peer is one."""

import resource
from typing import Final

WANTED: Final = 65_536


def raise_limit() -> int:
    """Raise the soft limit, often 1,024, as far as the hard one lets it, up to ``WANTED``; what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
