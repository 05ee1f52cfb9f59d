"""The life of batches inside this node: the driver, the executor of its effects, what they record.

May import: ``runtime``, ``worker``, ``storage``, ``protocols.coordination``. Batches and leases change in the driver
alone; effects leave after the commit that caused them.
Never belongs here: the network (it is handed in as callables), HTTP, ingest.
"""
