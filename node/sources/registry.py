"""The sources that are registered on this node: created, changed, read and deleted, with their policies."""

from typing import TYPE_CHECKING, Any, Final

from node.delivery.history import timestamp
from node.ingest.terms import UnknownSourceError
from node.runtime.access import Caller, NotPermittedError
from node.sources import settings as source_settings
from node.sources.documents import (
    SourceChange,
    SourceDocument,
    SourceInput,
    SourcePage,
    SourceProgress,
    SourceRejection,
)
from node.sources.policies import compile_parts, is_same, policy_objects, store_compiled, with_policy
from node.worker.parsing.text import printable
from storage import sources

if TYPE_CHECKING:
    from psycopg import Connection

Json = dict[str, Any]

HEAD_CHARS_MAX: Final = 1_024
OPERATORS_COLUMNS: Final = {"identity_key": "identityKey", "trust_score": "trustScore"}


def create(connection: "Connection", source: SourceInput, caller: Caller) -> SourceDocument:
    """Create a source. Owners create sources bound to themselves, operators any.

    Raises:
        NotPermittedError: The caller may not create it. SourceExistsError: The id is taken.
        InvalidConfigurationError, InvalidPolicyError, UnknownPolicyError, InvalidSourceError: See the field named.
    """
    if not caller.operates and (caller.identity is None or source.identity_key != caller.identity.hex()):
        raise NotPermittedError(
            "owners may only create sources that are bound to themselves",
            field="/identityKey",
            remedy="send your own identity key as identityKey, or ask an operator",
        )
    columns = with_policy(connection, source.columns())
    source_settings.read(columns["source_type"], columns["configuration"])
    compiled = compile_parts(columns["mapping_policy"], columns["validation_rules"])
    digest = store_compiled(connection, compiled)
    row = sources.create(connection, {**columns, "source_id": source.source_id, "policy_hash": digest})
    return _document(row)


def change(
    connection: "Connection", source_id: str, change: SourceChange | SourceInput, caller: Caller
) -> SourceDocument:
    """Change a source, or replace it, and its policy with it. Owners change only their own sources.

    A policy that stays as it is is not checked again: its functions may not be installed any more.

    Raises:
        UnknownSourceError: There is no such source. Otherwise as ``create``.
    """
    known = find(connection, source_id)
    columns = change.columns()
    if not caller.operates:
        _refuse_others(known, columns, caller)
    columns = with_policy(connection, columns)
    if "configuration" in columns:
        columns["configuration"] = source_settings.merged(columns["configuration"], known.configuration)
    if {"configuration", "source_type"} & set(columns):
        source_settings.read(
            columns.get("source_type", known.source_type), columns.get("configuration", known.configuration)
        )
    mapping = columns.get("mapping_policy", known.mapping_policy)
    rules = columns.get("validation_rules", known.validation_rules)
    if not is_same((mapping, rules), (known.mapping_policy, known.validation_rules)):
        columns["policy_hash"] = store_compiled(connection, compile_parts(mapping, rules))
    updated = sources.update(connection, source_id, columns)
    assert updated is not None, "the source was found in this transaction"
    return _document(updated)


def find(connection: "Connection", source_id: str) -> sources.Source:
    """The row of a source.

    Raises:
        UnknownSourceError: There is no such source.
    """
    found = sources.get(connection, source_id)
    if found is None:
        raise UnknownSourceError(f"no source {source_id[:100]!r} is registered on this node")
    return found


def get(connection: "Connection", source_id: str) -> SourceDocument:
    """A source as clients get it, without its state.

    Raises:
        UnknownSourceError: There is no such source.
    """
    return _document(find(connection, source_id))


def page(connection: "Connection", *, after: str, limit: int) -> SourcePage:
    """Sources in the order of their ids, from the first one after ``after``."""
    rows = sources.list_sources(connection, after=after, limit=limit)
    is_full = len(rows) == limit
    return SourcePage.model_construct(
        sources=[_document(row) for row in rows], next_after=rows[-1].source_id if is_full else None
    )


def delete(connection: "Connection", source_id: str, caller: Caller) -> None:
    """Delete a source. Its events stay, certified as they are.

    Raises:
        UnknownSourceError: There is no such source. NotPermittedError: It belongs to another identity.
    """
    known = find(connection, source_id)
    if not caller.operates:
        _refuse_others(known, {}, caller)
    sources.delete(connection, source_id)


def rewind(connection: "Connection", source_id: str, caller: Caller) -> None:
    """Have a source read from its beginning again; events that are known already are repeats.

    Raises:
        UnknownSourceError: There is no such source. NotPermittedError: It belongs to another identity.
    """
    known = find(connection, source_id)
    if not caller.operates:
        _refuse_others(known, {}, caller)
    sources.forget_mark(connection, source_id)


def progress(connection: "Connection", source_id: str) -> SourceProgress:
    """How far a source that this node reads was read, and what it sent that is not an event.

    Raises:
        UnknownSourceError: There is no such source.
    """
    find(connection, source_id)
    rejections = [
        SourceRejection.model_construct(
            external_id=rejected.external_id,
            field=rejected.field,
            reason=rejected.reason,
            remedy=rejected.remedy,
            head=printable(rejected.head.decode(errors="replace"), HEAD_CHARS_MAX),
            rejected_at=timestamp(at),
        )
        for rejected, at in sources.rejected(connection, source_id)
    ]
    return SourceProgress.model_construct(
        source_id=source_id, mark=sources.mark(connection, source_id), rejections=rejections
    )


def _refuse_others(known: sources.Source, columns: Json, caller: Caller) -> None:
    """Refuse callers that do not own a source, and changes that are the operator's to make."""
    if caller.identity is None or known.identity_key != caller.identity.hex():
        raise NotPermittedError(
            f"the source {known.source_id!r} belongs to another identity", remedy="ask its owner, or an operator"
        )
    for column, member in OPERATORS_COLUMNS.items():
        if columns.get(column, getattr(known, column)) != getattr(known, column):
            raise NotPermittedError(
                f"/{member}: may only be changed by an operator", field=f"/{member}", remedy="leave it as it is"
            )


def _document(row: sources.Source) -> SourceDocument:
    """Rows are not checked again: one that an earlier version wrote is shown as it is."""
    return SourceDocument.model_construct(
        source_id=row.source_id,
        name=row.name,
        source_type=row.source_type,
        configuration=source_settings.hidden(row.configuration),
        mapping_policy=row.mapping_policy,
        validation_rules=row.validation_rules,
        overlay_topics=row.overlay_topics,
        identity_key=row.identity_key,
        trust_score=row.trust_score,
        enabled=row.enabled,
        disabled_reason=row.disabled_reason,
        policy_hash=row.policy_hash.hex(),
        objects=policy_objects(row.policy_hash),
        last_activity_at=timestamp(row.last_activity_at),
        created_at=timestamp(row.created_at),
        updated_at=timestamp(row.updated_at),
    )
