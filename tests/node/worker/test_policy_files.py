"""Policy files: the same values from JSON and YAML, and what YAML is not allowed."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from node.worker.policy_files import YAML_NODES_MAX, read_policy
from protocols.errors import InvalidPolicyError
from protocols.limits import JSON_DEPTH_MAX, POLICY_BYTES_MAX

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "configs/policies").glob("*.json")))
def test_json_is_yaml_with_the_same_value(name: str) -> None:
    data = (ROOT / "configs/policies" / f"{name}.json").read_bytes()
    assert read_policy(data, yaml=True) == read_policy(data, yaml=False)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text("ab: -#\"'", max_size=6),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_value_is_the_same_in_both(value: object) -> None:
    data = json.dumps(value).encode()
    assert read_policy(data, yaml=True) == read_policy(data, yaml=False) == value


def test_yaml_is_version_1_2() -> None:
    """``no`` and ``on`` are strings, and ``010`` is ten: a country or a time would change its meaning otherwise."""
    assert read_policy(b"[no, on, yes, 010, 0o10, 1.5, ~, true]", yaml=True) == [
        "no", "on", "yes", 10, 8, 1.5, None, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"a: &x 1", "line 1: anchors, aliases and tags"),
        (b"a: 1\nb: *x", "line 2: anchors, aliases and tags"),
        (b"a: 1\n\nb: !!python/object:os.system {}", "line 3: anchors, aliases and tags"),
        (b"a: 1\na: 2", "line 2: the key 'a' stands there twice"),
        (b'{"a": 1, "\\u0061": 2}', "line 1: the key 'a' stands there twice"),
        (b"a: [1", "not valid YAML"),
        (b"--- 1\n--- 2", "line 2: one document only"),
        ('a: "b\u0085c"'.encode(), r"line 1: U\+0085 ends a line in YAML 1.1 alone"),
        ('a: 1\nb: "\u2028"'.encode(), r"line 2: U\+2028 ends a line"),
        ('a: "\u2029"'.encode(), r"line 1: U\+2029 ends a line"),
        (b"%YAML 1.1\n--- yes", "line 2: directives are not allowed"),
        (b"%TAG ! tag:example.org,2000:\n--- 1", "line 2: directives are not allowed"),
        (b"a:\n  <<: {b: 1}", "line 2: merge keys"),
        (b"<<: [{b: 1}, {c: 2}]", "line 1: merge keys"),
        (b'"<<": {b: 1}', "line 1: merge keys"),
        (b"- .inf", "line 1: .inf has no JSON form"),
        (b"- -.INF", "line 1: -.INF has no JSON form"),
        (b"- .nan", "line 1: .nan has no JSON form"),
        (b"- 1e400", "line 1: a number that is too large"),
        (b"- 9007199254740992", "line 1: an integer beyond"),
        (b"- 0xffffffffffffffffff", "line 1: an integer beyond"),
        (b"- " + b"9" * 5_000, "line 1: a number may have at most"),
        (b"- 0." + b"1" * 5_000, "line 1: a number may have at most"),
        (b"\n1: x", "line 2: a key must be a string: write '1' in quotes"),
        (b"true: x", "line 1: a key must be a string"),
        (b": x", "line 1: a key must be a string"),
        (b"? [a]\n: b", "line 1: a key must be a string"),
        (b'"\\ud800"', "line 1: half of a surrogate pair"),
        (b'a: "\\udc00x"', "line 1: half of a surrogate pair"),
        (b"[" + b"a," * YAML_NODES_MAX + b"b]", f"line 1: more than {YAML_NODES_MAX} keys and values"),
        (b"a: b\n" + b"".join(b"k%d:\n" % n for n in range(YAML_NODES_MAX)), "larger documents are sent as JSON"),
        (b"\xff", "not valid YAML"),
        (b"a: \x00", "not valid YAML"),
        (b"[" * (JSON_DEPTH_MAX + 1) + b"]" * (JSON_DEPTH_MAX + 1), f"nested deeper than {JSON_DEPTH_MAX} levels"),
        (b"#" * (POLICY_BYTES_MAX + 1), f"may have at most {POLICY_BYTES_MAX} bytes, this one has"),
    ],
)
def test_yaml_that_is_refused(text: bytes, why: str) -> None:
    with pytest.raises(InvalidPolicyError, match=why) as refused:
        read_policy(text, yaml=True)
    assert refused.value.fields["path"] == ""


@pytest.mark.parametrize("yaml", [True, False])
@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        (b'{"required": ["a", "x\\u0000y"]}', "/required/1"),
        (b'{"schema": {"a/b~c": {"\\u0000": 1}}}', "/schema/a~1b~0c"),
        (b'"\\u0000"', ""),
    ],
)
def test_text_that_no_column_can_hold_is_refused(text: bytes, pointer: str, yaml: bool) -> None:
    """Fails where policies are checked less than other documents: an issue that quotes one cannot be stored."""
    with pytest.raises(InvalidPolicyError, match=r"must not contain U\+0000") as refused:
        read_policy(text, yaml=yaml)
    assert refused.value.fields["path"] == pointer


@given(st.recursive(st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists, max_leaves=5))
def test_numbers_and_texts_of_all_kinds_are_the_same_in_both(value: object) -> None:
    for escapes in (True, False):
        data = json.dumps(value, ensure_ascii=escapes).encode("utf-8", "surrogatepass")
        outcomes = []
        for yaml in (True, False):
            try:
                outcomes.append(read_policy(data, yaml=yaml))
            except InvalidPolicyError:
                outcomes.append("refused")
        if escapes or outcomes[0] != "refused":  # YAML takes some characters in their escaped form only
            assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    "text", ["2024-01-15", "2024-01-15T10:30:00Z", "1_000", "1:30", "=", "0b11", "0o8", "0xg", "yes"]
)
def test_what_is_no_number_in_the_core_schema_is_text(text: str) -> None:
    assert read_policy(text.encode(), yaml=True) == text


@pytest.mark.parametrize("text", [b"", b"{", b"a: 1", b'{"a": 1, "a": 2}', b"NaN", b"\xff", b"1e999"])
def test_json_that_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidPolicyError):
        read_policy(text, yaml=False)


def test_depth_within_the_bound_is_read() -> None:
    block = "\n".join("  " * depth + "a:" for depth in range(JSON_DEPTH_MAX - 1)) + " 1"
    assert read_policy(block.encode(), yaml=True) == YAML(typ="safe").load(block)
