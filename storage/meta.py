"""The node that a database belongs to: its rows are valid for one identity key and one network only."""

import psycopg

from storage.errors import ForeignDatabaseError


def bind(connection: psycopg.Connection, *, network: str, identity: bytes) -> None:
    """Bind the database to a node the first time; check the binding every other time.

    Raises:
        ForeignDatabaseError: it belongs to another identity key or network.
    """
    mine = {"network": network, "identity": identity.hex()}
    for name, value in mine.items():
        connection.execute(
            "INSERT INTO node_meta (name, value) VALUES (%s, %s) ON CONFLICT DO NOTHING", (name, value)
        )
    stored = {str(name): str(value) for name, value in connection.execute("SELECT name, value FROM node_meta")}
    for name, value in mine.items():
        if stored[name] != value:
            raise ForeignDatabaseError(
                f"this database is that of a node with {name} {stored[name]}, not {value}: "
                "restore that node's key and network, or give this node a database of its own",
                name=name,
                stored=stored[name],
            )
