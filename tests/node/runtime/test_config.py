"""Settings: the file, the environment over it, and a refusal with a remedy for whatever cannot be honoured."""

import ast
from pathlib import Path

import pytest

from node.runtime.config import ConfigError, changes, load, settings_table
from node.runtime.setting_types import Only
from node.runtime.settings import Settings

SPECIFIED = {
    "EVENT_INGESTION_ENABLED": "true",
    "EVENT_BATCH_SIZE": "100",
    "EVENT_PROCESSING_TIMEOUT_MS": "30000",
    "EVENT_PARALLEL_WORKERS": "5",
    "OVERLAY_EVENT_TOPICS": "gitdata.events.ingest,gitdata.events.certified",
    "OVERLAY_EVENT_DISTRIBUTION_ENABLED": "true",
    "EVENT_CONSENSUS_REQUIRED": "true",
    "EVENT_CONSENSUS_THRESHOLD": "2",
    "EVENT_PROCESSING_AGENTS_ENABLED": "true",
    "EVENT_NORMALIZATION_REQUIRED": "true",
    "EVENT_CERTIFICATION_REQUIRED": "true",
    "EVENT_AGENT_SELECTION_STRATEGY": "reputation",
    "EVENT_STREAM_SSE_ENABLED": "true",
    "EVENT_STREAM_WEBSOCKET_ENABLED": "true",
    "EVENT_STREAM_MAX_CLIENTS": "1000",
    "EVENT_STREAM_HEARTBEAT_INTERVAL_MS": "15000",
    "EVENT_PROCESSING_CACHE_ENABLED": "true",
    "EVENT_PROCESSING_CACHE_SIZE_MB": "256",
    "EVENT_BATCH_PROCESSING_ENABLED": "true",
    "EVENT_PARALLEL_PROCESSING_ENABLED": "true",
    "BRC22_JOB_ORCHESTRATION_ENABLED": "true",
    "BRC31_EVENT_SIGNING_REQUIRED": "true",
    "EVENT_IDENTITY_VERIFICATION_REQUIRED": "false",
    "EVENT_SIGNATURE_TTL_SECONDS": "300",
}
ON_TOPICS = ("gitdata.events.ingest", "gitdata.events.certified")
FIXED = {
    name: only for name, field in Settings.model_fields.items() for only in field.metadata if isinstance(only, Only)
}
ROOT = Path(__file__).resolve().parents[3]


def refusal(environ: dict[str, str], path: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load(path, environ)
    problems = refused.value.fields["problems"]
    assert isinstance(problems, list)
    assert str(refused.value).splitlines() == problems
    return problems


@pytest.mark.parametrize("variable", ["OVERLAY_DATA_DIR", "OVERLAY_KEY_FILE", "OVERLAY_MEMBER_CERTIFICATE"])
def test_an_empty_path_is_not_the_current_directory(variable: str) -> None:
    with pytest.raises(ConfigError, match=f"^{variable} = : is empty. Set it to a path$"):
        load(None, {variable: ""})


def test_a_setting_in_upper_case_in_a_file_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text("EVENT_BATCH_SIZE = 5\n")
    with pytest.raises(ConfigError, match=r"EVENT_BATCH_SIZE: .* Did you mean event_batch_size\?$"):
        load(path, {})


def test_the_specified_variables_have_the_specified_defaults() -> None:
    unset = load(None, {})
    set_to_default = load(None, SPECIFIED)
    for name in SPECIFIED:
        assert getattr(unset, name.lower()) == getattr(set_to_default, name.lower()), name
    assert unset.overlay_event_topics == ON_TOPICS


def test_every_default_has_its_effect() -> None:
    assert {name: Settings.model_fields[name].default for name in FIXED} == {
        name: only.value for name, only in FIXED.items()
    }


@pytest.mark.parametrize("name", sorted(FIXED))
def test_a_value_that_cannot_be_honoured_is_refused_with_reason_and_remedy(name: str) -> None:
    only = FIXED[name]
    other, wanted = str(not only.value).lower(), str(only.value).lower()
    variable = name.upper()
    (problem,) = refusal({variable: other})
    assert problem == (f"{variable} = {other}: cannot be honoured by this version: {only.reason}. Set it to {wanted}")
    assert getattr(load(None, {variable: wanted}), name) == only.value


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("EVENT_BATCH_SIZE", "0", "an integer from 1 to 4000"),
        ("EVENT_BATCH_SIZE", "4001", "an integer from 1 to 4000"),
        ("EVENT_BATCH_SIZE", "many", "an integer from 1 to 4000"),
        ("EVENT_BATCH_SIZE", "", "an integer from 1 to 4000"),
        ("EVENT_PARALLEL_WORKERS", "65", "an integer from 1 to 64"),
        ("EVENT_CONSENSUS_THRESHOLD", "33", "an integer from 1 to 32"),
        ("EVENT_INGESTION_ENABLED", "perhaps", "true or false"),
        ("EVENT_AGENT_SELECTION_STRATEGY", "luck", "reputation or latency or cost"),
        ("OVERLAY_ROLES", "certify,distribute", "a list of normalize, validate, certify"),
        ("OVERLAY_NETWORK", "Main Net", "1 to 63 lower-case letters, digits"),
        ("OVERLAY_NODE_NAME", "", "text of 1 to 64 characters"),
        ("OVERLAY_HTTP_BIND", "8080", "host:port"),
        ("OVERLAY_HTTP_BIND", "localhost:70000", "host:port"),
        ("OVERLAY_PUBLIC_URL", "ftp://node", "an http:// or https:// URL"),
        ("OVERLAY_BOOTSTRAP", "192.0.2.1:4001", "a list of multiaddrs like /ip4/192.0.2.1/tcp/4001"),
        ("OVERLAY_EVENT_TOPICS", "a topic", "a list of at most 16 topics"),
        ("OVERLAY_SHUTDOWN_GRACE_S", "-1", "a number from 0 to 300"),
        ("LOG_FORMAT", "xml", "json or console"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_what_is_accepted(variable: str, value: str, remedy: str) -> None:
    (problem,) = refusal({variable: value})
    assert problem.startswith(f"{variable} = {value}: ")
    assert f"Set it to {remedy}" in problem


def test_every_problem_is_reported_at_once() -> None:
    problems = refusal({"EVENT_BATCH_SIZE": "0", "OVERLAY_PRICE": "-1", "LOG_LEVEL": "loud"})
    assert [problem.split(" ")[0] for problem in problems] == ["LOG_LEVEL", "OVERLAY_PRICE", "EVENT_BATCH_SIZE"]


@pytest.mark.parametrize(
    ("variable", "near"),
    [("OVERLAY_PRIZE", "OVERLAY_PRICE"), ("EVENT_BATCHSIZE", "EVENT_BATCH_SIZE")],
)
def test_an_unknown_variable_is_warned_of_with_the_nearest(variable: str, near: str) -> None:
    warnings = load(None, {variable: "1"}).warnings()
    assert warnings == (f"{variable}: is not a setting of this version. Did you mean {near}?",)


def test_what_an_orchestrator_adds_to_the_environment_does_not_stop_the_node() -> None:
    settings = load(None, {"OVERLAY_NODE_SERVICE_HOST": "10.0.0.1", "OVERLAY_NODE_PORT": "tcp://10.0.0.1:80"})
    assert [warning.split(":")[0] for warning in settings.warnings()] == [
        "OVERLAY_NODE_PORT",
        "OVERLAY_NODE_SERVICE_HOST",
    ]


def test_variables_of_other_programs_are_ignored() -> None:
    assert load(None, {"PATH": "/bin", "EVENTUALLY": "1", "HOME": "/"}).warnings() == ()


def test_every_setting_is_read_somewhere_or_can_have_one_value_only() -> None:
    """A setting that the node takes and forgets would be worse than one that it refuses."""
    read = {
        node.attr
        for path in (ROOT / "node").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert set(Settings.model_fields) - set(FIXED) - read == set()
    assert read & set(FIXED) == set(), "one that is read could honour more than one value"


def test_an_unknown_key_of_the_file_is_refused_by_file_and_name(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text("event_batch_sise = 5\nevent_batch_size = true\n")
    unknown, wrong = refusal({}, path)
    assert unknown == f"{path}: event_batch_sise: is not a setting of this version. Did you mean event_batch_size?"
    assert wrong.startswith(f"{path}: event_batch_size = true: ")


@pytest.mark.parametrize("text", ["a = ", "a = 1\na = 2\n"])
def test_a_file_that_is_not_toml_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(text)
    (problem,) = refusal({}, path)
    assert problem.startswith(f"{path}: is not TOML")


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    (problem,) = refusal({}, tmp_path / "none.toml")
    assert problem.startswith(f"{tmp_path}/none.toml: cannot be read (No such file or directory)")


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('event_batch_size = 5\noverlay_bootstrap = ["/ip4/192.0.2.1/tcp/1"]\noverlay_price = 7\n')
    bootstrap = " /ip4/192.0.2.2/tcp/2 , /dns4/a.example/tcp/3/p2p/QmX,"
    settings = load(path, {"EVENT_BATCH_SIZE": "6", "OVERLAY_BOOTSTRAP": bootstrap})
    assert settings.event_batch_size == 6
    assert settings.overlay_bootstrap == ("/ip4/192.0.2.2/tcp/2", "/dns4/a.example/tcp/3/p2p/QmX")
    assert settings.overlay_price == 7
    assert load(path, {"OVERLAY_BOOTSTRAP": ""}).overlay_bootstrap == ()


def test_what_follows_from_other_settings() -> None:
    settings = load(None, {"OVERLAY_DATA_DIR": "/srv/a", "OVERLAY_HTTP_BIND": "[::1]:80"})
    assert settings.overlay_key_file == Path("/srv/a/identity.key")
    assert settings.overlay_public_url == "http://[::1]:80"
    assert load(None, {"OVERLAY_PUBLIC_URL": "https://a.example/x/"}).overlay_public_url == "https://a.example/x"


def test_switches_decide_what_they_switch() -> None:
    on, off = (
        load(None, {}),
        load(
            None,
            {
                "EVENT_PARALLEL_PROCESSING_ENABLED": "false",
                "EVENT_PROCESSING_AGENTS_ENABLED": "false",
                "EVENT_CONSENSUS_REQUIRED": "false",
                "OVERLAY_EVENT_DISTRIBUTION_ENABLED": "false",
            },
        ),
    )
    assert (on.workers, on.consensus_threshold) == (5, 2)
    assert on.role_names == ("normalize", "validate", "certify")
    assert on.topics == ON_TOPICS
    assert (off.workers, off.consensus_threshold, off.role_names, off.topics) == (1, 1, (), ())


def test_the_database_url_is_in_no_error_and_no_repr() -> None:
    (problem,) = refusal({"DATABASE_URL": "mysql://u:hunter2@h/d"})
    assert "hunter2" not in problem
    settings = load(None, {"DATABASE_URL": "postgresql://u:hunter2@h/d"})
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://u:hunter2@h/d"
    assert "hunter2" not in repr(settings) + str(settings)
    assert load(None, {"DATABASE_URL": ""}).database_url is None


def test_the_table_lists_every_setting_with_its_meaning() -> None:
    table = settings_table()
    for name, field in Settings.model_fields.items():
        assert f"| `{name.upper()}` |" in table
        assert field.description, name
    assert all(line.count("|") == 5 for line in table.splitlines())


@pytest.mark.parametrize("name", ["node.toml", "demo.toml"])
def test_the_files_that_come_with_the_project_are_accepted(name: str) -> None:
    assert load(ROOT / "configs" / name, {}).overlay_node_name


def test_what_differs_is_told_as_it_is_written_and_secrets_are_hidden() -> None:
    key, kind = "02" + "ab" * 32, "A" * 43 + "="
    before = load(None, {"DATABASE_URL": "postgresql://a:hunter2@one/x", "OVERLAY_READER_KEYS": key})
    after = load(
        None,
        {
            "DATABASE_URL": "postgresql://a:hunter3@one/x",
            "LOG_LEVEL": "debug",
            "OVERLAY_CERTIFIERS": f"{key}:{kind}:reader:name+email",
            "OVERLAY_MEMBER_CERTIFIERS": f"{key}:{kind},{key}:{kind}",
            "OVERLAY_PUBLIC_READS": "events,objects",
            "EVENT_INGESTION_ENABLED": "false",
        },
    )
    told = {change.name: (change.before, change.after) for change in changes(before, after)}
    assert told == {
        "database_url": ("(hidden)", "(hidden)"),
        "log_level": ("info", "debug"),
        "overlay_reader_keys": (key, ""),
        "overlay_certifiers": ("", f"{key}:{kind}:reader:name+email"),
        "overlay_member_certifiers": ("", f"{key}:{kind},{key}:{kind}"),
        "overlay_public_reads": ("events,stream,sources,network,metrics,lookup,objects", "events,objects"),
        "event_ingestion_enabled": ("true", "false"),
    }
    assert changes(after, after) == ()
