"""What runs in worker processes: parsing of raw bytes, the agents' roles, an operator's own functions.

May import: ``agents`` and ``protocols`` only; it stays lean, since every worker process loads it.
Raw bytes and an operator's code are handled here and nowhere else: what hangs or crashes costs one worker process.
Never belongs here: trio, structlog, storage, the network.
"""
