"""Policy files and bodies: JSON, or YAML with the same values."""

from typing import Any

from protocols.canonical import parse_json
from protocols.errors import InvalidJsonError, InvalidPolicyError
from protocols.limits import JSON_DEPTH_MAX, POLICY_BYTES_MAX

YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml")


def read_policy(data: bytes, *, yaml: bool) -> Any:
    """The value of a file or a body. YAML 1.2 (RFC 9512) without anchors, tags or several documents.

    Raises:
        InvalidPolicyError: It cannot be read. ``path`` is empty; the text has line and column.
    """
    if len(data) > POLICY_BYTES_MAX:
        raise InvalidPolicyError(
            f"a policy may have at most {POLICY_BYTES_MAX} bytes, this one has {len(data)}", path=""
        )
    if yaml:
        return _read_yaml(data)
    try:
        return parse_json(data)
    except InvalidJsonError as error:
        raise InvalidPolicyError(str(error), path="") from error


def _step(token: str) -> int:
    """The change of depth by a token of YAML: collections of both styles begin and end with one."""
    if token.endswith(("SequenceStartToken", "MappingStartToken")):
        return 1
    return -1 if token.endswith(("SequenceEndToken", "MappingEndToken", "BlockEndToken")) else 0


def _read_yaml(data: bytes) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.tokens import AliasToken, AnchorToken, TagToken

    try:
        text = data.decode()
        depth = 0
        for token in YAML(typ="safe", pure=True).scan(text):
            depth += _step(type(token).__name__)
            if depth > JSON_DEPTH_MAX:
                place = token.start_mark.line + 1
                raise InvalidPolicyError(f"line {place}: nested deeper than {JSON_DEPTH_MAX} levels", path="")
            if isinstance(token, AnchorToken | AliasToken | TagToken):
                raise InvalidPolicyError(
                    f"line {token.start_mark.line + 1}: anchors, aliases and tags are not allowed",
                    path="",
                )
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InvalidPolicyError(f"not valid YAML: {' '.join(str(error).split())[:300]}", path="") from error
