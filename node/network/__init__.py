"""Messages between nodes: transport, sender, receiver, discovery, membership, content exchange, sync.

May import: ``coordination`` and everything below it. Only ``p2p`` imports libp2p; ``Transport`` is the seam above it.
Never belongs here: what a message means for a batch (``protocols.coordination``), HTTP.
"""
