"""The life of batches inside this node: the driver, the dispatcher of its effects, the parts that
carry them out and store what came of them.

May import: ``runtime``, ``worker``, ``storage``, ``protocols.coordination``. Batches and leases change in the driver
alone; effects leave after the commit that caused them.
Never belongs here: the network (it is handed in as callables), HTTP, ingest.
"""
