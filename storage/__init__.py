"""Postgres and objects in it: one module per table or concern, plain functions on a connection.

Contains: the repositories, the pool with its retries (``database``), migrations, and a server of the node's own
(``embedded``). May import: ``protocols`` and, alone in this tree, psycopg. A repository never opens a connection:
``Database.run`` gives it one, with a transaction.
Never belongs here: decisions about batches, the network, HTTP statuses.
"""
