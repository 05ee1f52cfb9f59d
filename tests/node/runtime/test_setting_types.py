"""Each kind of setting: the values it accepts, what they become, and the text that refuses the others."""

import math
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import annotated_types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.runtime.access import CallerRole, TrustedCertifier
from node.runtime.config import ConfigError, accepted, load
from node.runtime.settings import Settings
from protocols.limits import TOPIC_CHARS_MAX, TOPICS_PER_BATCH_MAX

KEY = "02" + "ab" * 32
OTHER_KEY = "03" + "cd" * 32
TYPE = "A" * 43 + "="
NUMBERS: dict[str, tuple[float, int]] = {
    name: (low.ge, high.le)  # type: ignore[misc]
    for name, field in Settings.model_fields.items()
    for low in field.metadata
    for high in field.metadata
    if isinstance(low, annotated_types.Ge) and isinstance(high, annotated_types.Le)
}
SWITCHES = sorted(name for name, field in Settings.model_fields.items() if field.annotation is bool)


def problem_of(variable: str, text: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load(None, {variable: text})
    problems = refused.value.fields["problems"]
    assert isinstance(problems, list)
    assert len(problems) == 1
    return str(problems[0])


def from_toml(directory: Path, line: str) -> Settings:
    path = directory / "node.toml"
    path.write_text(line)
    return load(path, {})


def toml_problem(directory: Path, line: str) -> str:
    with pytest.raises(ConfigError) as refused:
        from_toml(directory, line)
    problems = refused.value.fields["problems"]
    assert isinstance(problems, list)
    assert len(problems) == 1
    return str(problems[0])


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("OVERLAY_OPERATOR_KEYS", f"{KEY}, {OTHER_KEY}", (bytes.fromhex(KEY), bytes.fromhex(OTHER_KEY))),
        ("OVERLAY_MEMBERS", KEY, (bytes.fromhex(KEY),)),
        ("OVERLAY_MEMBER_CERTIFIERS", f"{KEY}:{TYPE}", ((bytes.fromhex(KEY), TYPE),)),
        (
            "OVERLAY_CERTIFIERS",
            f"{KEY}:{TYPE}:owner:name+e-mail",
            (
                TrustedCertifier(
                    certifier=bytes.fromhex(KEY), type=TYPE, role=CallerRole.OWNER, fields=("name", "e-mail")
                ),
            ),
        ),
        (
            "OVERLAY_CERTIFIERS",
            f"{KEY}:{TYPE}:reader",
            (TrustedCertifier(certifier=bytes.fromhex(KEY), type=TYPE, role=CallerRole.READER),),
        ),
        ("OVERLAY_REVOKED_CERTIFICATES", TYPE, (TYPE,)),
        ("OVERLAY_OUTBOUND_ALLOW", "10.0.0.0/8,fd00::/8", (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))),
        ("OVERLAY_OUTBOUND_ALLOW", "192.0.2.7", (ip_network("192.0.2.7/32"),)),
        ("OVERLAY_P2P_LISTEN", "/ip6/::/tcp/4001", ("/ip6/::/tcp/4001",)),
        ("OVERLAY_BOOTSTRAP", "/dns4/a.example/tcp/1/p2p/16Uiu2", ("/dns4/a.example/tcp/1/p2p/16Uiu2",)),
        ("OVERLAY_HTTP_BIND", "[::1]:0", "[::1]:0"),
        ("OVERLAY_HTTP_BIND", "node.example:65535", "node.example:65535"),
        ("OVERLAY_PUBLIC_URL", "https://a.example/node/", "https://a.example/node"),
        ("OVERLAY_CHAIN_TRACKER_URL", "https://headers.example/", "https://headers.example/"),
        ("OVERLAY_CHAIN_TRACKER_URL", "", ""),
        ("OVERLAY_NETWORK", "a-network.of_3", "a-network.of_3"),
        ("OVERLAY_EVENT_TOPICS", "a.b, c", ("a.b", "c")),
        ("OVERLAY_EVENT_TOPICS", "", ()),
        ("OVERLAY_ROLES", "certify", ("certify",)),
        ("OVERLAY_SHUTDOWN_GRACE_S", "0.5", 0.5),
    ],
)
def test_a_value_is_parsed_into_what_the_parts_use(variable: str, text: str, value: Any) -> None:
    assert getattr(load(None, {variable: text}), variable.lower()) == value


@pytest.mark.parametrize(
    ("variable", "text", "reason"),
    [
        ("OVERLAY_OPERATOR_KEYS", f"{KEY},{KEY[:-1]}", f"'{KEY[:-1]}' is not an identity key: 66 hex digits"),
        ("OVERLAY_OPERATOR_KEYS", KEY.upper(), "is not an identity key: 66 hex digits that begin with 02 or 03"),
        ("OVERLAY_MEMBERS", "04" + "ab" * 32, "is not an identity key: 66 hex digits that begin with 02 or 03"),
        ("OVERLAY_MEMBER_CERTIFIERS", KEY, "is not certifier:type, an identity key and 32 bytes in base64"),
        ("OVERLAY_CERTIFIERS", f"{KEY}:{TYPE}:king", "is not certifier:type:role:fields"),
        ("OVERLAY_CERTIFIERS", f"{KEY}:{TYPE}:owner:", "is not certifier:type:role:fields"),
        ("OVERLAY_REVOKED_CERTIFICATES", "abc=", "'abc=' is not a serial number: 32 bytes in base64"),
        ("OVERLAY_OUTBOUND_ALLOW", "10.0.0.1/8", "'10.0.0.1/8' is not a network like 10.0.0.0/8 or fd00::/8"),
        ("OVERLAY_OUTBOUND_ALLOW", "everywhere", "'everywhere' is not a network like 10.0.0.0/8"),
        ("OVERLAY_P2P_LISTEN", "/ip4/192.0.2.1/udp/1", "is not a TCP multiaddr like /ip4/192.0.2.1/tcp/4001"),
        ("OVERLAY_P2P_LISTEN", "", "should have at least 1 item"),
        ("OVERLAY_HTTP_BIND", "a b:80", "is not host:port"),
        ("OVERLAY_PUBLIC_URL", "https://", "is not an http:// or https:// URL"),
        ("OVERLAY_PUBLIC_URL", f"https://{'a' * 512}", "should have at most 512 characters"),
        ("OVERLAY_CHAIN_TRACKER_URL", "headers.example", "is not an http:// or https:// URL"),
        ("OVERLAY_NETWORK", "a" * 64, "is not the name of a network"),
        ("OVERLAY_EVENT_TOPICS", "t" * (TOPIC_CHARS_MAX + 1), "is not a topic"),
        ("OVERLAY_EVENT_TOPICS", "a\tb", "is not a topic: 1 to 128 printable characters without spaces and commas"),
        ("OVERLAY_EVENT_TOPICS", ",".join(["t"] * (TOPICS_PER_BATCH_MAX + 1)), f"at most {TOPICS_PER_BATCH_MAX}"),
        ("OVERLAY_REGION", "r" * 129, "should have at most 128 characters"),
    ],
)
def test_a_refusal_names_the_setting_the_fault_and_what_is_allowed(variable: str, text: str, reason: str) -> None:
    problem = problem_of(variable, text)
    assert problem.startswith(f"{variable} = ")
    assert reason in problem
    assert problem.endswith(f". Set it to {accepted(Settings.model_fields[variable.lower()])}")


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_a_number_is_taken_at_its_bounds_and_refused_past_them(name: str) -> None:
    least, most = NUMBERS[name]
    for value in (least, most):
        assert getattr(load(None, {name.upper(): str(value)}), name) == value
    for value in (least - 1, most + 1):
        assert problem_of(name.upper(), str(value)).endswith(f" from {least} to {most}")


@given(st.sampled_from(sorted(NUMBERS)), st.data())
def test_a_number_within_its_bounds_is_kept_exactly(name: str, data: st.DataObject) -> None:
    least, most = NUMBERS[name]
    value = data.draw(st.integers(math.ceil(least), most))
    assert getattr(load(None, {name.upper(): str(value)}), name) == value


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_true_is_not_a_number(name: str, tmp_path: Path) -> None:
    problem = toml_problem(tmp_path, f"{name} = true\n")
    assert f": {name} = true: is true or false where a number is expected. Set it to " in problem


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_true_or_false(name: str, tmp_path: Path) -> None:
    default = Settings.model_fields[name].default
    assert getattr(load(None, {name.upper(): str(default).lower()}), name) is default
    assert getattr(from_toml(tmp_path, f"{name} = {str(default).lower()}\n"), name) is default
    assert " Set it to true" in problem_of(name.upper(), "perhaps") or not default


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('overlay_event_topics = ["a topic"]', "'a topic' is not a topic"),
        ("overlay_event_topics = [1]", "1 is not a topic"),
        ('overlay_event_topics = ["a,b"]', "'a,b' is not a topic"),
        ("overlay_operator_keys = [5]", "5 is not an identity key"),
        ("overlay_outbound_allow = [1]", "1 is not a network"),
        ('overlay_roles = "certify"', ": is not a list. Set it to a list of"),
        ("overlay_node_name = 5", ": is not a text. Set it to text of"),
        ("overlay_key_file = true", ": is not a path. Set it to a path"),
    ],
)
def test_a_value_of_another_kind_in_the_file_is_refused(tmp_path: Path, line: str, reason: str) -> None:
    problem = toml_problem(tmp_path, line + "\n")
    assert problem.startswith(f"{tmp_path}/node.toml: {line.split(' = ')[0]} = ")
    assert reason in problem


@given(st.text(max_size=200))
def test_no_text_in_the_environment_breaks_the_reading(text: str) -> None:
    """Every setting takes or refuses any text; nothing else escapes."""
    for name in ("overlay_certifiers", "overlay_outbound_allow", "overlay_http_bind", "overlay_p2p_listen"):
        with suppress(ConfigError):
            load(None, {name.upper(): text})


@pytest.mark.parametrize("name", ["database_url", "overlay_chain_tracker_token"])
def test_a_secret_is_unset_by_an_empty_variable(name: str) -> None:
    assert getattr(load(None, {name.upper(): ""}), name) is None


def test_settings_cannot_be_changed_once_they_are_read() -> None:
    settings = load(None, {})
    with pytest.raises(ValueError, match="frozen"):
        settings.overlay_price = 7


def test_the_allowlist_and_the_certifiers_count_only_under_their_membership() -> None:
    lists = {"OVERLAY_MEMBERS": KEY, "OVERLAY_MEMBER_CERTIFIERS": f"{OTHER_KEY}:{TYPE}"}
    by_membership = {
        membership: load(None, lists | {"OVERLAY_MEMBERSHIP": membership})
        for membership in ("open", "allowlist", "certified")
    }
    assert {name: settings.members for name, settings in by_membership.items()} == {
        "open": None,
        "allowlist": {bytes.fromhex(KEY)},
        "certified": None,
    }
    assert {name: settings.member_certifiers for name, settings in by_membership.items()} == {
        "open": None,
        "allowlist": None,
        "certified": {(bytes.fromhex(OTHER_KEY), TYPE)},
    }
