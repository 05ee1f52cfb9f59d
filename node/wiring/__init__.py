"""Puts the parts of a node together, in the order in which they need one another, from settings to finished groups.

Contains: ``configured`` (from settings to what parts take), ``network`` (all between peers and the driver),
``clients`` (all between clients and the driver), ``health`` (the probes of all of them). A part gets what it needs
when it is made.
May import: every package but ``app`` and above. Never belongs here: tasks (``app`` starts them), decisions.
"""
