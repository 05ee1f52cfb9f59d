"""BSV overlay services (BRC-22, BRC-24, BRC-26): topic managers, lookup services, content by hash (``objects``).

May import: everything below ``overlay`` in ``node``. Answers are made here, rendered to HTTP in ``api``.
Never belongs here: gossip between nodes (``network``), Quart.
"""
