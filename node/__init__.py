"""The node process: the imperative shell around the pure packages.

Contains: packages from top to bottom ``api``, ``overlay``, ``sources``, ``delivery``, ``ingest``, ``network``,
``coordination``, ``runtime``, ``worker``; above them the commands, the process and the one place that wires parts.
May import: ``agents``, ``storage``, ``protocols``; inside, only packages further down (import contracts).
Never belongs here: protocol rules and role logic (``protocols``, ``agents``), SQL (``storage``).
"""
