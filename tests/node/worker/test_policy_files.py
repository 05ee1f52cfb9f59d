"""Policy files: the same values from JSON and YAML, and what YAML is not allowed."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from node.worker.policy_files import read_policy
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
        (b"a: 1\na: 2", "not valid YAML"),
        (b"a: [1", "not valid YAML"),
        (b"--- 1\n--- 2", "not valid YAML"),
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


@pytest.mark.parametrize("text", [b"", b"{", b"a: 1", b'{"a": 1, "a": 2}', b"NaN", b"\xff", b"1e999"])
def test_json_that_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidPolicyError):
        read_policy(text, yaml=False)


def test_depth_within_the_bound_is_read() -> None:
    block = "\n".join("  " * depth + "a:" for depth in range(JSON_DEPTH_MAX - 1)) + " 1"
    assert read_policy(block.encode(), yaml=True) == YAML(typ="safe").load(block)
