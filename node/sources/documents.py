"""Sources as clients send and see them, and the policy document that each stands for.

``mappingPolicy`` and ``validationRules`` hold the sections of one policy document between them: each section
in either, none in both. The document is kept by its hash, so that a change of a source never changes what
was certified under it before.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from agents.functions import MissingFunctionError
from agents.policy import policy_document, policy_hash
from node.delivery.history import timestamp
from node.runtime.access import Caller, NotPermittedError
from node.sources import settings as source_settings
from node.worker.plugins import catalogue
from protocols.canonical import parse_json
from protocols.errors import ClientFault, InvalidPolicyError
from protocols.limits import SOURCE_ID_CHARS_MAX, TOPIC_CHARS_MAX, TOPICS_PER_BATCH_MAX
from protocols.uhrp import uhrp_url
from storage import policies, sources

if TYPE_CHECKING:
    from psycopg import Connection

Document = dict[str, Any]

SOURCE_TYPES: Final = ("webhook", "poll", "mqtt", "kafka", "overlay")
SOURCE_ID: Final = re.compile(rf"[A-Za-z0-9._:-]{{1,{SOURCE_ID_CHARS_MAX}}}")
IDENTITY_KEY: Final = re.compile("0[23][0-9a-f]{64}")
POLICY_HASH: Final = re.compile("[0-9a-f]{64}")
NAME_CHARS_MAX: Final = 256
POLICY_PARTS: Final = ("mappingPolicy", "validationRules")
MAPPING_SECTIONS: Final = ("version", "mapping", "coercion", "required")


class InvalidSourceError(ClientFault):
    code = "invalid-request"


class UnknownSourceError(ClientFault):
    code = "unknown-source"


class UnknownPolicyError(ClientFault):
    code = "unknown-policy"


def _is_topic(value: object) -> bool:
    return (
        isinstance(value, str)
        and 0 < len(value) <= TOPIC_CHARS_MAX
        and value.isprintable()
        and not {" ", ","} & set(value)
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and len(value.strip()) > 0 and len(value) <= NAME_CHARS_MAX and value.isprintable()


def _is_topics(value: object) -> bool:
    return isinstance(value, list) and len(value) <= TOPICS_PER_BATCH_MAX and all(map(_is_topic, value))


def _is_score(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 100


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and POLICY_HASH.fullmatch(value) is not None


def _is_identity(value: object) -> bool:
    return value is None or (isinstance(value, str) and IDENTITY_KEY.fullmatch(value) is not None)


# field: (column, default, check, what is asked for)
FIELDS: Final[dict[str, tuple[str, Any, Callable[[Any], bool], str]]] = {
    "name": ("name", None, _is_name, f"1 to {NAME_CHARS_MAX} printable characters"),
    "sourceType": ("source_type", None, lambda value: value in SOURCE_TYPES, f"one of {', '.join(SOURCE_TYPES)}"),
    "configuration": ("configuration", {}, lambda value: isinstance(value, dict), "an object"),
    "mappingPolicy": ("mapping_policy", {}, lambda value: isinstance(value, dict), "an object"),
    "validationRules": ("validation_rules", {}, lambda value: isinstance(value, dict), "an object"),
    "policyHash": ("policy_hash", None, _is_hash, "the hash of a policy on this node, 64 hex digits"),
    "overlayTopics": ("overlay_topics", [], _is_topics, f"at most {TOPICS_PER_BATCH_MAX} topics"),
    "identityKey": ("identity_key", None, _is_identity, "a compressed public key in hexadecimal, or null"),
    "trustScore": ("trust_score", 50, _is_score, "an integer from 0 to 100"),
    "enabled": ("enabled", True, lambda value: isinstance(value, bool), "true or false"),
}
REQUIRED: Final = ("name", "sourceType")
OPERATORS_FIELDS: Final = ("identityKey", "trustScore")


def read_values(document: Mapping[str, Any]) -> Document:
    """The columns that a document sets.

    Raises:
        InvalidSourceError: A field is unknown or not what it should be.
    """
    values = {}
    for field, value in document.items():
        if field not in FIELDS:
            known = ", ".join(("sourceId", *FIELDS))
            raise InvalidSourceError(
                f"/{field[:80]}: unknown field", field=f"/{field[:80]}", remedy=f"known here are {known}"
            )
        column, _, check, wanted = FIELDS[field]
        if not check(value):
            raise InvalidSourceError(f"/{field}: is not {wanted}", field=f"/{field}", remedy=f"send {wanted}")
        values[column] = value
    return values


def whole(document: Mapping[str, Any], *, source_id: str | None = None) -> Document:
    """The columns of a whole source: what the document leaves out gets its default.

    Args:
        source_id: From the address; the document may repeat it.
    """
    given = document.get("sourceId", source_id)
    if not isinstance(given, str) or SOURCE_ID.fullmatch(given) is None:
        raise InvalidSourceError(
            "/sourceId: is missing or not usable",
            field="/sourceId",
            remedy=f"send 1 to {SOURCE_ID_CHARS_MAX} letters, digits and any of . _ : -",
        )
    if source_id is not None and given != source_id:
        raise InvalidSourceError(
            "/sourceId: is not the one in the address", field="/sourceId", remedy="leave it out, or repeat it"
        )
    for field in REQUIRED:
        if field not in document:
            raise InvalidSourceError(f"/{field}: is missing", field=f"/{field}", remedy=f"send {FIELDS[field][3]}")
    values = {column: default for column, default, _, _ in FIELDS.values()}
    values.update(read_values({field: value for field, value in document.items() if field != "sourceId"}))
    return {**values, "source_id": given}


def compile_source(mapping: Document, rules: Document) -> bytes:
    """The canonical policy document of a source.

    Raises:
        InvalidPolicyError: With ``path``, a JSON pointer into the source.
    """
    for section in mapping:
        if section in rules:
            path = f"/validationRules/{section}"
            raise InvalidPolicyError(f"{path}: stands in mappingPolicy too; keep one", path=path)
    try:
        return _compiled({**mapping, **rules})
    except InvalidPolicyError as error:
        path = str(error.fields.get("path", ""))
        section = path.split("/")[1] if "/" in path else ""
        part = "validationRules" if section in rules else "mappingPolicy"
        raise InvalidPolicyError(f"in {part}: {error}", path=f"/{part}{path}") from error


def keep_policy(connection: "Connection", value: Any) -> Document:
    """Check a policy and put it on the shelf, for sources to name by its hash.

    Raises:
        InvalidPolicyError: With ``path``, a JSON pointer into it.
    """
    document = _compiled(value)
    digest = _keep(connection, document)
    return {"policyHash": digest.hex(), "objects": {"policy": uhrp_url(digest)}, "policy": parse_json(document)}


def _compiled(document: Any) -> bytes:
    named = isinstance(document, dict) and "functions" in document
    try:
        return policy_document(document, catalogue() if named else ())
    except MissingFunctionError as error:
        raise InvalidPolicyError(f"{error}; install its package", path="/functions") from error


def with_policy(connection: "Connection", values: Document) -> Document:
    """The columns with the sections of the policy that ``policyHash`` names, where it names one.

    Raises:
        UnknownPolicyError: This node has no such policy. InvalidSourceError: sections stand beside it.
    """
    named = values.get("policy_hash")
    rest = {column: value for column, value in values.items() if column != "policy_hash"}
    if named is None:
        return rest
    for field in POLICY_PARTS:
        if values.get(FIELDS[field][0]):
            raise InvalidSourceError(
                f"/{field}: stands beside policyHash", field=f"/{field}", remedy="send one of the two"
            )
    sections: Any = parse_json(policy(connection, bytes.fromhex(named)))
    mapping = {name: section for name, section in sections.items() if name in MAPPING_SECTIONS}
    rules = {name: section for name, section in sections.items() if name not in MAPPING_SECTIONS}
    return {**rest, "mapping_policy": mapping, "validation_rules": rules}


def create(connection: "Connection", values: Document, caller: Caller) -> Document:
    """Create a source. Owners create sources bound to themselves, operators any."""
    if not caller.operates and (caller.identity is None or values["identity_key"] != caller.identity.hex()):
        raise NotPermittedError(
            "an owner creates sources that are bound to itself",
            field="/identityKey",
            remedy="send your own identity key as identityKey, or ask an operator",
        )
    values = with_policy(connection, values)
    source_settings.read(values["source_type"], values["configuration"])
    document = compile_source(values["mapping_policy"], values["validation_rules"])
    return _shown(sources.create(connection, {**values, "policy_hash": _keep(connection, document)}))


def change(connection: "Connection", source_id: str, values: Document, caller: Caller) -> Document:
    """Change the columns in ``values``, and the policy with them. Owners change their own sources alone.

    A policy that stays as it is is not checked again: its functions may not be installed any more.
    """
    known = find(connection, source_id)
    if not caller.operates:
        _refuse_strangers(known, values, caller)
    values = with_policy(connection, values)
    if "configuration" in values:
        values = {**values, "configuration": source_settings.merged(values["configuration"], known.configuration)}
    if {"configuration", "source_type"} & set(values):
        source_settings.read(
            values.get("source_type", known.source_type), values.get("configuration", known.configuration)
        )
    mapping = values.get("mapping_policy", known.mapping_policy)
    rules = values.get("validation_rules", known.validation_rules)
    columns = {column: value for column, value in values.items() if column != "source_id"}
    if _text([mapping, rules]) != _text([known.mapping_policy, known.validation_rules]):
        columns["policy_hash"] = _keep(connection, compile_source(mapping, rules))
    updated = sources.update(connection, source_id, columns)
    assert updated is not None, "the source was found in this transaction"
    return _shown(updated)


def _refuse_strangers(known: sources.Source, values: Document, caller: Caller) -> None:
    if caller.identity is None or known.identity_key != caller.identity.hex():
        raise NotPermittedError(
            f"the source {known.source_id!r} belongs to another identity", remedy="ask its owner, or an operator"
        )
    for field in OPERATORS_FIELDS:
        column = FIELDS[field][0]
        if values.get(column, getattr(known, column)) != getattr(known, column):
            raise NotPermittedError(
                f"/{field}: is the operator's to change", field=f"/{field}", remedy="leave it as it is"
            )


def find(connection: "Connection", source_id: str) -> sources.Source:
    found = sources.get(connection, source_id)
    if found is None:
        raise UnknownSourceError(f"no source {source_id[:100]!r} is registered on this node")
    return found


def get(connection: "Connection", source_id: str) -> Document:
    return _shown(find(connection, source_id))


def delete(connection: "Connection", source_id: str, caller: Caller) -> None:
    """Take a source away. What it said stays, certified as it is."""
    known = find(connection, source_id)
    if not caller.operates:
        _refuse_strangers(known, {}, caller)
    sources.delete(connection, source_id)


def rewind(connection: "Connection", source_id: str, caller: Caller) -> None:
    """Have a source read from its beginning again; what is known already is a repeat."""
    known = find(connection, source_id)
    if not caller.operates:
        _refuse_strangers(known, {}, caller)
    sources.forget_mark(connection, source_id)


def progress(connection: "Connection", source_id: str) -> Document:
    """How far a source that this node reads was taken in, and what it said that is no event."""
    find(connection, source_id)
    return {
        "sourceId": source_id,
        "mark": sources.mark(connection, source_id),
        "rejections": [
            {
                "externalId": each.external_id,
                "field": each.field,
                "reason": each.reason,
                "remedy": each.remedy,
                "head": each.head.decode(errors="replace"),
                "rejectedAt": timestamp(at),
            }
            for each, at in sources.rejected(connection, source_id)
        ],
    }


def page(connection: "Connection", *, after: str, limit: int) -> Document:
    rows = sources.list_sources(connection, after=after, limit=limit)
    full = len(rows) == limit
    return {"sources": [_shown(row) for row in rows], "nextAfter": rows[-1].source_id if full else None}


def policy(connection: "Connection", digest: bytes) -> bytes:
    """A canonical policy document by its hash."""
    document = policies.get(connection, digest)
    if document is None:
        raise UnknownPolicyError(f"this node has no policy {digest.hex()}")
    return document


def _text(value: Any) -> str:
    """JSON to compare by: to Python, ``true`` equals 1."""
    return json.dumps(value, sort_keys=True)


def _keep(connection: "Connection", document: bytes) -> bytes:
    digest = bytes.fromhex(policy_hash(document))
    policies.put(connection, digest, document)
    return digest


def _shown(row: sources.Source) -> Document:
    fields = {field: getattr(row, column) for field, (column, _, _, _) in FIELDS.items() if field != "policyHash"}
    fields["configuration"] = source_settings.hidden(row.configuration)
    return {
        "sourceId": row.source_id,
        **fields,
        "policyHash": row.policy_hash.hex(),
        "objects": {"policy": uhrp_url(row.policy_hash)},
        "lastActivityAt": timestamp(row.last_activity_at),
        "createdAt": timestamp(row.created_at),
        "updatedAt": timestamp(row.updated_at),
    }
