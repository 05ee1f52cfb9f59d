"""A node in which one record reaches a fault that ends the process, as a library written in C may have."""

import faulthandler
import sys
from typing import Any

from node.cli import main
from node.ingest.pipeline import Ingest

submit_read = Ingest.submit_read


async def _submit_read(self: Ingest, source_id: str, events: Any, *rest: Any, **more: Any) -> Any:
    if any(b"poison" in event.data for event in events):
        faulthandler._sigsegv()  # type: ignore[attr-defined]  # what a fault in C does
    return await submit_read(self, source_id, events, *rest, **more)


if __name__ == "__main__":
    Ingest.submit_read = _submit_read  # type: ignore[method-assign]
    sys.exit(main())
