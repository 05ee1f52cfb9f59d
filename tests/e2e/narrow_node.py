"""A node with little room for what others make it store, so that a test can fill it.

``python -m tests.e2e.narrow_node run --config FILE`` is the node's own command with one bound exchanged.
"""

import sys
from typing import Final

from node.cli import main
from storage import foreign_usage
from storage.foreign_usage import Usage

KEPT_MAX: Final = Usage(160, 8 * 1024 * 1024)

if __name__ == "__main__":
    assert foreign_usage.KEPT_MAX.batches > KEPT_MAX.batches, "the bound that replicas are held to"
    vars(foreign_usage)["KEPT_MAX"] = KEPT_MAX
    sys.exit(main())
