"""Sources of events: their documents, settings and registry, and the connectors that this node runs to read them.

May import: everything below ``sources`` in ``node``. Events leave through ``ingest``, which commits them.
Never belongs here: HTTP routes (``api``), parsing of raw bytes (``worker``).
"""

from node.sources.intake import IntakeCounts, SavedPosition, SourceConnector, SourceFault, SourceIntake
from node.sources.manager import SourceManager
from node.sources.webhooks import Webhooks

__all__ = [
    "IntakeCounts",
    "SavedPosition",
    "SourceConnector",
    "SourceFault",
    "SourceIntake",
    "SourceManager",
    "Webhooks",
]
