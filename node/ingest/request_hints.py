"""What a request seems to be, found without parsing it: enough to count it in the right share, proof of nothing."""

import re
from typing import Final

from node.worker.parsing.bodies import RequestEncoding

HEAD_BYTES: Final = 4_096
TAIL_BYTES: Final = 1_024
SOURCE: Final = re.compile(rb'"sourceId"\s{0,8}:\s{0,8}"([^"\\\x00-\x1f]{1,256})"')


def source_of(body: bytes, form: RequestEncoding) -> str | None:
    """The source that a request names, by its parameter or near the ends of its body; None where that is not seen."""
    if form.source_id:
        return form.source_id
    if form.coding != "identity":
        return None
    found = SOURCE.search(body, 0, HEAD_BYTES) or SOURCE.search(body, max(0, len(body) - TAIL_BYTES))
    return found[1].decode(errors="replace") if found is not None else None
