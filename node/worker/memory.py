"""How a process handles its memory: cycles are collected rarely, and what a batch freed is kept for the next one."""

import ctypes
import gc
from contextlib import suppress
from typing import Final

THRESHOLDS: Final = (20_000, 10, 10)  # a batch in parsing holds some 10,000 containers, hardly any of them in a cycle
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
KEPT_BYTES: Final = 64 * 1024 * 1024
BLOCK_BYTES_MAX: Final = 32 * 1024 * 1024  # the most that glibc takes


def collect_rarely() -> None:
    """To be called when everything is imported and started: what is there now is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def keep_freed_memory() -> None:
    """Keep up to ``KEPT_BYTES`` that are freed, instead of giving them back to the kernel after each batch.

    Otherwise each batch of 500 events takes 2,300 page faults, which cost as much as half its computation. Without
    glibc nothing happens.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, BLOCK_BYTES_MAX)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
