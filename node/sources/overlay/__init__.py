"""Certified batches of other nodes as sources, read from this node's log of certificates in its order.

Batches of one source of one coordinator are used in the order of the log. A batch that no peer sends is put aside,
with all that follow it from the same source, and asked for again; other sources continue meanwhile. When its time is
over it becomes one of the source's rejections, so that no batch is skipped silently. The saved position is how far
the log has been read and which batches are aside; it commits with the events.
"""

from node.sources.overlay.reader import OverlayReader

__all__ = ["OverlayReader"]
