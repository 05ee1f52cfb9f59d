"""Collection of cycles: rare, and only over what came since the start."""

import gc
from typing import Final

THRESHOLDS: Final = (20_000, 10, 10)  # a batch in parsing holds some 10,000 containers, hardly any of them in a cycle


def collect_rarely() -> None:
    """To be called when everything is imported and started: what is there now is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
