"""Sources that this node reads itself, each under supervision: what they say becomes committed batches."""

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
