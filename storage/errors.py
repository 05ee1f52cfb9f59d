"""Errors between the node and its database."""

from protocols.errors import ClientFault, OverlayError, OwnFault, WorldFault


class DatabaseUnavailableError(WorldFault):
    code = "database-unavailable"


class StorageRefusedError(ClientFault):
    """The database cannot hold a value: text with U+0000 or half of a surrogate pair, a number out of range."""

    code = "storage-refused"


class DatabaseInUseError(OverlayError):
    """Another node process holds this database."""

    code = "database-in-use"


class ForeignDatabaseError(OverlayError):
    """The database belongs to a node with another identity key or network."""

    code = "foreign-database"


class SchemaError(OwnFault):
    """The database's schema is not one this program can bring up to date."""

    code = "schema"


class StatementError(OwnFault):
    """A statement of this program is wrong, whatever its parameters are."""

    code = "wrong-statement"


class EmbeddedPostgresError(OverlayError):
    code = "embedded-postgres"


class DataDirectoryInUseError(EmbeddedPostgresError):
    """Another process runs a server in this data directory."""

    code = "data-directory-in-use"


class SourceExistsError(ClientFault):
    code = "source-exists"


class DoubleSpendError(ClientFault):
    """A coin is spent by another transaction that was submitted before."""

    code = "double-spend"


class TopicFullError(ClientFault):
    code = "topic-full"


class SubscriptionExistsError(ClientFault):
    code = "subscription-exists"
