"""Sources that this node reads itself, each under supervision: what they say becomes committed batches."""

from node.sources.intake import Connector, Intake, Mark, SourceFault, Taken
from node.sources.manager import SourceKeeper
from node.sources.webhooks import Webhooks

__all__ = ["Connector", "Intake", "Mark", "SourceFault", "SourceKeeper", "Taken", "Webhooks"]
