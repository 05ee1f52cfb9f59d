"""The policy of a source: compiled from its two parts, stored under its hash.

``mappingPolicy`` and ``validationRules`` hold the sections of one policy document between them: each section in
either, none in both. A policy is kept by its hash, so that changing a source never changes what was certified before.
"""

import json
from typing import TYPE_CHECKING, Any, Final

from agents.functions import MissingFunctionError
from agents.policy import policy_document, policy_hash
from node.sources.documents import PolicyObjects, StoredPolicy
from node.worker.plugins import catalogue
from protocols.canonical import parse_json
from protocols.errors import ClientFault, InvalidPolicyError
from protocols.uhrp import uhrp_url
from storage import policies

if TYPE_CHECKING:
    from psycopg import Connection

Json = dict[str, Any]

POLICY_PARTS: Final = {"mapping_policy": "mappingPolicy", "validation_rules": "validationRules"}
MAPPING_SECTIONS: Final = ("version", "mapping", "coercion", "required")


class UnknownPolicyError(ClientFault):
    code = "unknown-policy"


def store(connection: "Connection", policy: Any) -> StoredPolicy:
    """Check a policy and store it, for sources to name by its hash.

    Raises:
        InvalidPolicyError: With ``path``, a JSON pointer into the policy.
    """
    document = _compiled(policy)
    digest = store_compiled(connection, document)
    canonical: Any = parse_json(document)
    return StoredPolicy.model_construct(policy_hash=digest.hex(), objects=policy_objects(digest), policy=canonical)


def find(connection: "Connection", digest: bytes) -> bytes:
    """A canonical policy document by its hash.

    Raises:
        UnknownPolicyError: This node has no such policy.
    """
    document = policies.get(connection, digest)
    if document is None:
        raise UnknownPolicyError(f"this node has no policy {digest.hex()}")
    return document


def compile_parts(mapping: Json, rules: Json) -> bytes:
    """The canonical policy document of a source, from its two parts.

    Raises:
        InvalidPolicyError: With ``path``, a JSON pointer into the source.
    """
    for section in mapping:
        if section in rules:
            path = f"/validationRules/{section}"
            raise InvalidPolicyError(f"{path}: must not be in mappingPolicy too; keep one of them", path=path)
    try:
        return _compiled({**mapping, **rules})
    except InvalidPolicyError as error:
        path = str(error.fields.get("path", ""))
        section = path.split("/")[1] if "/" in path else ""
        part = "validationRules" if section in rules else "mappingPolicy"
        raise InvalidPolicyError(f"in {part}: {error}", path=f"/{part}{path}") from error


def with_policy(connection: "Connection", columns: Json) -> Json:
    """The columns of a source, with the sections of the policy that ``policy_hash`` names, if it names one.

    Raises:
        UnknownPolicyError: This node has no such policy.
        InvalidPolicyError: Sections are given beside the hash.
    """
    named = columns.get("policy_hash")
    rest = {column: value for column, value in columns.items() if column != "policy_hash"}
    if named is None:
        return rest
    for column, member in POLICY_PARTS.items():
        if columns.get(column):
            raise InvalidPolicyError(
                f"/{member}: must be left out beside policyHash", path=f"/{member}", remedy="send one of the two"
            )
    sections: Any = parse_json(find(connection, bytes.fromhex(named)))
    mapping = {name: section for name, section in sections.items() if name in MAPPING_SECTIONS}
    rules = {name: section for name, section in sections.items() if name not in MAPPING_SECTIONS}
    return {**rest, "mapping_policy": mapping, "validation_rules": rules}


def is_same(one: tuple[Json, Json], other: tuple[Json, Json]) -> bool:
    """Whether two policies are equal, each as its two parts. As JSON: to Python, ``true`` equals 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def store_compiled(connection: "Connection", document: bytes) -> bytes:
    """Store a canonical policy document. Returns its hash, 32 bytes."""
    digest = bytes.fromhex(policy_hash(document))
    policies.put(connection, digest, document)
    return digest


def policy_objects(digest: bytes) -> PolicyObjects:
    return PolicyObjects(policy=uhrp_url(digest))


def _compiled(policy: Any) -> bytes:
    names_functions = isinstance(policy, dict) and "functions" in policy
    try:
        return policy_document(policy, catalogue() if names_functions else ())
    except MissingFunctionError as error:
        raise InvalidPolicyError(f"{error}; install its package", path="/functions") from error
