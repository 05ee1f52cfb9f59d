"""The node's settings: a flat TOML file, overridden by the environment. Nothing that is set is ignored.

A TOML key is the variable's name in lower case. A setting that this version cannot honour is refused when it
is set to such a value; the few whose default in the specification cannot be honoured are reported by ``notes``.
An unknown key of the file is refused. An unknown variable of ours is only warned of, by ``warnings``: orchestrators
put variables like ``OVERLAY_NODE_SERVICE_HOST`` into environments that nobody wrote by hand.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import attrs
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from protocols.errors import OverlayError, WorldFault
from protocols.limits import (
    EVENT_BYTES_MAX,
    EVENTS_PER_BATCH_MAX,
    REQUEST_BYTES_MAX,
    TOPIC_CHARS_MAX,
    TOPICS_PER_BATCH_MAX,
)

RoleName = Literal["normalize", "validate", "certify"]
CallerRoleName = Literal["operator", "owner", "reader"]
ReadGroup = Literal["events", "stream", "sources", "network", "metrics", "lookup", "objects"]

PREFIXES: Final = re.compile(r"(EVENT|OVERLAY|BRC\d*)_")
BIND: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(\d{1,5})")
MULTIADDR: Final = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/[^/\s]+/tcp/\d{1,5}(/p2p/[^/\s]+)?")
NETWORK: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$"
IDENTITY: Final = re.compile("0[23][0-9a-f]{64}")
CERTIFIER: Final = re.compile(
    rf"0[23][0-9a-f]{{64}}:[A-Za-z0-9+/]{{43}}=:({'|'.join(get_args(CallerRoleName))})"
    r"(:[A-Za-z0-9 _.-]{1,50}(\+[A-Za-z0-9 _.-]{1,50})*)?"
)
MEMBER_CERTIFIER: Final = re.compile("0[23][0-9a-f]{64}:[A-Za-z0-9+/]{43}=")
SERIAL: Final = re.compile("[A-Za-z0-9+/]{43}=")
ONLY: Final[dict[str, tuple[bool | int, str]]] = {
    "event_normalization_required": (True, "validators and certifiers work on normalized data alone"),
    "event_certification_required": (True, "an event ends certified, invalid or dead, never unjudged"),
    "brc22_job_orchestration_enabled": (True, "there is no other way to have a batch processed"),
    "brc31_event_signing_required": (True, "every statement between nodes is signed and checked"),
}
"""Settings that can have one value in this version, and why. Unset, their default stands."""
SECRETS: Final = ("database_url", "overlay_chain_tracker_token")
KINDS: Final = {
    "overlay_http_bind": "host:port",
    "database_url": "a postgresql:// URL",
    "overlay_chain_tracker_token": "a token",
}
ITEMS: Final[dict[str, str]] = {
    "overlay_event_topics": f"at most {TOPICS_PER_BATCH_MAX} topics",
    "overlay_operator_keys": "identity keys, 66 hex digits each",
    "overlay_owner_keys": "identity keys, 66 hex digits each",
    "overlay_reader_keys": "identity keys, 66 hex digits each",
    "overlay_members": "identity keys, 66 hex digits each",
    "overlay_member_certifiers": "certifier:type",
    "overlay_certifiers": "certifier:type:role or certifier:type:role:field+field",
    "overlay_revoked_certificates": "serial numbers, 32 bytes in base64 each",
    "overlay_outbound_allow": "networks like 10.0.0.0/8",
}
"""What the items of a list are, where that is not what most lists hold: multiaddrs."""


class ConfigError(OverlayError):
    """Settings are wrong: one line for each problem, with the setting, its value and the remedy.

    Field ``problems``: those lines.
    """

    code = "config"


@attrs.frozen(kw_only=True)
class RestartPolicy:
    """When a component is started again, and after how long.

    Attributes:
        delay_s_first: The first pause, doubled each time up to ``delay_s_max``.
        jitter: The part of a pause that is drawn at random, so that nodes do not retry in step.
        stable_s: A run that lasted so long starts again with the first pause.
        restart_on: What the world does to a component; any other error stops the node.
    """

    delay_s_first: float = 0.5
    delay_s_max: float = 30.0
    jitter: float = 0.3
    stable_s: float = 60.0
    restart_on: tuple[type[Exception], ...] = (WorldFault, OSError)


def _flag(default: bool, text: str) -> Any:
    return Field(default, description=text)


def _number(default: int, least: int, most: int, text: str) -> Any:
    return Field(default, ge=least, le=most, description=text)


def _text(default: str, chars_max: int, text: str) -> Any:
    return Field(default, max_length=chars_max, description=text)


class Settings(BaseModel):
    """Every setting by its variable's name in lower case. Frozen; made by ``load``."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    overlay_node_name: str = Field("node", min_length=1, max_length=64, description="Name of this node in its logs")
    overlay_network: str = Field(
        "overlay-main", pattern=NETWORK, description="Network to take part in; signed into every message"
    )
    overlay_operator: str = _text("", 128, "Who runs this node; level 'critical' wants distinct operators")
    overlay_region: str = _text("", 128, "Where this node runs, told to the others")
    overlay_roles: tuple[RoleName, ...] = Field(
        ("normalize", "validate", "certify"), description="Roles offered to the network, list"
    )
    overlay_price: int = _number(0, 0, 2**53 - 1, "Price asked per batch and role, satoshis")
    overlay_capacity: int = _number(64, 1, 4_096, "Batches of others held at once")
    overlay_data_dir: Path = Field(Path("var/node"), description="Directory of the key and the embedded Postgres")
    overlay_key_file: Path = Field(
        default_factory=lambda chosen: chosen.get("overlay_data_dir", Path()) / "identity.key",
        description="File of the identity key, mode 0600; unset: identity.key in the data directory",
    )
    overlay_http_bind: str = Field("127.0.0.1:8080", description="host:port of the HTTP interface; port 0 picks one")
    overlay_public_url: str = Field(
        default_factory=lambda chosen: f"http://{chosen.get('overlay_http_bind', '')}",
        max_length=512,
        description="URL that others reach this node's HTTP interface by; unset: http:// and the bind",
    )
    overlay_p2p_listen: tuple[str, ...] = Field(
        ("/ip4/0.0.0.0/tcp/4001",), min_length=1, description="Multiaddrs to listen on for peers, list"
    )
    overlay_p2p_announce: tuple[str, ...] = Field(
        (), description="Multiaddrs told to peers in place of those listened on (behind NAT), list"
    )
    overlay_bootstrap: tuple[str, ...] = Field(
        (), description="Multiaddrs of nodes to join the network through, list"
    )
    overlay_membership: Literal["open", "allowlist", "certified"] = Field(
        "open",
        description="Who may take part: every identity, OVERLAY_MEMBERS alone, or those certified by "
        "OVERLAY_MEMBER_CERTIFIERS",
    )
    overlay_member_certifiers: tuple[str, ...] = Field(
        (),
        description="Certificates (BRC-52) that make a node a member where the membership is certified: "
        "certifier:type, list",
    )
    overlay_member_certificate: Path | None = Field(
        None, description="File with this node's own membership certificate, JSON"
    )
    overlay_members: tuple[str, ...] = Field(
        (), description="Identity keys that may take part where the membership is an allowlist, list"
    )
    overlay_eclipse_protection: bool = _flag(True, "Wants peers from 3 addresses or more; off for a single machine")
    overlay_bid_window_ms: int = _number(300, 10, 60_000, "How long bids for announced work are taken, ms")
    overlay_lease_ms: int = _number(60_000, 1_000, 3_600_000, "How long awarded agents keep a source's batches, ms")
    overlay_lease_batches: int = _number(1_000, 1, 1_000_000, "Batches after which work is announced anew")
    overlay_advertisement_ttl_ms: int = _number(60_000, 3_000, 86_400_000, "Life of an advertisement not renewed, ms")
    overlay_resend_ms: int = _number(2_000, 100, 60_000, "Pause before an unanswered message is sent again, ms")
    overlay_durability: Literal["local", "replicated"] = Field(
        "local", description="replicated: no batch is acknowledged before OVERLAY_REPLICAS peers hold it too"
    )
    overlay_replicas: int = _number(2, 1, 8, "Peers that hold a replicated batch before it is acknowledged")
    overlay_adopt_ms: int = _number(
        4_000,
        500,
        600_000,
        "How long a batch held for another node is left to it before it is asked and taken over, ms",
    )
    overlay_attempts_max: int = _number(
        5, 1, 16, "Attempts at a batch before it is dead; waiting for enough agents is none"
    )
    overlay_certificates_max: int = _number(
        1_000_000, 1_000, 1_000_000_000, "Certificates of other nodes' batches kept, the latest"
    )
    overlay_unsettled_events_max: int = _number(
        100_000, 1, 10_000_000, "Events acknowledged and not yet ended, past which requests are answered 429"
    )
    overlay_request_bytes_max: int = _number(
        REQUEST_BYTES_MAX, 1_024, REQUEST_BYTES_MAX, "Largest request body, bytes; 413 past it"
    )
    overlay_event_bytes_max: int = _number(EVENT_BYTES_MAX, 256, EVENT_BYTES_MAX, "Largest event, bytes of JSON")
    overlay_operator_keys: tuple[str, ...] = Field(
        (), description="Identity keys that may use every route; this node's own key may always, list"
    )
    overlay_owner_keys: tuple[str, ...] = Field(
        (), description="Identity keys that may create sources bound to themselves, and change those, list"
    )
    overlay_reader_keys: tuple[str, ...] = Field(
        (), description="Identity keys that may read what OVERLAY_PUBLIC_READS leaves out, list"
    )
    overlay_certifiers: tuple[str, ...] = Field(
        (),
        description="Certificates (BRC-52) that give their holders a role: certifier:type:role:field+field, "
        "the fields asked for being optional, list",
    )
    overlay_revoked_certificates: tuple[str, ...] = Field(
        (), description="Serial numbers (base64) of certificates no longer accepted, list"
    )
    overlay_public_reads: tuple[ReadGroup, ...] = Field(
        get_args(ReadGroup), description="What anybody may read without proving an identity, list"
    )
    overlay_open_admin: bool = _flag(
        False, "Anybody may use the operators' routes; for a machine that nobody else can reach"
    )
    overlay_outbound_allow: tuple[str, ...] = Field(
        (), description="Networks (CIDR) besides public addresses that this node may call on others' word, list"
    )
    overlay_chain_tracker_url: str = Field(
        "",
        pattern=r"^(https?://[^\s/]+(/\S*)?)?$",
        max_length=512,
        description="Block Headers Service that merkle paths of submitted transactions are checked against; "
        "unset: they are not checked, and answers say so",
    )
    overlay_chain_tracker_token: SecretStr | None = Field(None, description="Bearer token for that service")
    overlay_shutdown_grace_s: float = Field(10.0, ge=0, le=300, description="Time to end in order after SIGTERM, s")
    database_url: SecretStr | None = Field(
        None, description="postgresql:// URL; unset: a Postgres of the node's own in the data directory"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity logged")
    log_format: Literal["json", "console"] = Field("json", description="Form of the log on stderr")

    event_ingestion_enabled: bool = _flag(True, "Takes events in; off: requests to ingest are answered 503")
    event_batch_size: int = _number(100, 1, EVENTS_PER_BATCH_MAX, "Most events in a batch")
    event_processing_timeout_ms: int = _number(
        30_000, 1_000, 600_000, "How long an attempt at a batch may take before others are asked, ms"
    )
    event_parallel_workers: int = _number(5, 1, 64, "Worker processes for roles, at most; started as needed")

    overlay_event_topics: tuple[str, ...] = Field(
        ("gitdata.events.ingest", "gitdata.events.certified"),
        max_length=TOPICS_PER_BATCH_MAX,
        description="Topics that certified events go to where their source names none, list",
    )
    overlay_event_distribution_enabled: bool = _flag(
        True, "Events go to the topics of their request, their source or OVERLAY_EVENT_TOPICS; off: to none"
    )
    event_consensus_required: bool = _flag(
        True,
        "Nothing is certified below level 'enhanced' and EVENT_CONSENSUS_THRESHOLD; off: the level asked for decides",
    )
    event_consensus_threshold: int = _number(2, 1, 32, "Agents that must agree at least, if consensus is required")

    event_processing_agents_enabled: bool = _flag(True, "Offers OVERLAY_ROLES to the network; off: offers none")
    event_normalization_required: bool = _flag(True, "Events are normalized before they are judged")
    event_certification_required: bool = _flag(True, "Every event is judged and certified")
    event_agent_selection_strategy: Literal["reputation", "latency", "cost"] = Field(
        "reputation", description="What ranks bids first; the other two break ties"
    )

    event_stream_sse_enabled: bool = _flag(True, "Serves the event stream (SSE)")
    event_stream_websocket_enabled: bool = _flag(True, "Serves the event stream over WebSocket")
    event_stream_max_clients: int = _number(1_000, 1, 100_000, "Streams served at once; 503 past it")
    event_stream_heartbeat_interval_ms: int = _number(15_000, 100, 600_000, "Pause between heartbeats, ms")

    event_processing_cache_enabled: bool = _flag(True, "Caches results of processing")
    event_processing_cache_size_mb: int = _number(256, 1, 65_536, "Size of that cache, MB")
    event_batch_processing_enabled: bool = _flag(True, "Requests may share batches; off: each has its own")
    event_parallel_processing_enabled: bool = _flag(True, "Batches are processed in parallel; off: one worker")

    brc22_job_orchestration_enabled: bool = _flag(True, "Work is announced, bid for and awarded")
    brc31_event_signing_required: bool = _flag(True, "Statements about events are signed")
    event_identity_verification_required: bool = _flag(False, "Senders of events prove their identity")
    event_signature_ttl_seconds: int = _number(300, 1, 86_400, "Age after which a signature is refused, s")

    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @field_validator("*", mode="before")
    @classmethod
    def _a_flag_is_no_number(cls, value: Any, info: Any) -> Any:
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("is true or false where another kind of value is wanted")
        return value

    @field_validator("*")
    @classmethod
    def _only_what_is_honoured(cls, value: Any, info: Any) -> Any:
        only = ONLY.get(info.field_name)
        if only is not None and value != only[0]:
            raise ValueError(f"cannot be honoured by this version: {only[1]}")
        return value

    @field_validator("overlay_http_bind")
    @classmethod
    def _binds(cls, value: str) -> str:
        match = BIND.fullmatch(value)
        if match is None or int(match[2]) > 65_535:
            raise ValueError("is not host:port")
        return value

    @field_validator("overlay_public_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value):
            raise ValueError("is no http:// or https:// URL")
        return value.rstrip("/")

    @field_validator("overlay_p2p_listen", "overlay_p2p_announce", "overlay_bootstrap")
    @classmethod
    def _are_multiaddrs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            if not MULTIADDR.fullmatch(address):
                raise ValueError(f"{address!r:.100} is no TCP multiaddr like /ip4/192.0.2.1/tcp/4001")
        return value

    @field_validator("overlay_operator_keys", "overlay_owner_keys", "overlay_reader_keys", "overlay_members")
    @classmethod
    def _are_identities(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for key in value:
            if not IDENTITY.fullmatch(key):
                raise ValueError(f"{key!r:.100} is no identity key: 66 hex digits that begin with 02 or 03")
        return value

    @field_validator("overlay_member_certifiers")
    @classmethod
    def _are_member_certifiers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            if not MEMBER_CERTIFIER.fullmatch(entry):
                raise ValueError(f"{entry!r:.200} is not certifier:type, an identity key and 32 bytes in base64")
        return value

    @field_validator("overlay_certifiers")
    @classmethod
    def _are_certifiers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            if not CERTIFIER.fullmatch(entry):
                raise ValueError(
                    f"{entry!r:.200} is not certifier:type:role:fields, "
                    "an identity key, 32 bytes in base64, operator, owner or reader, and names joined by +"
                )
        return value

    @field_validator("overlay_revoked_certificates")
    @classmethod
    def _are_serials(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for serial in value:
            if not SERIAL.fullmatch(serial):
                raise ValueError(f"{serial!r:.100} is no serial number: 32 bytes in base64")
        return value

    @field_validator("overlay_outbound_allow")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ip_network(network)
            except ValueError:
                raise ValueError(f"{network!r:.100} is no network like 10.0.0.0/8 or fd00::/8") from None
        return value

    @field_validator("overlay_event_topics")
    @classmethod
    def _are_topics(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for topic in value:
            if not re.fullmatch(rf"[!-~]{{1,{TOPIC_CHARS_MAX}}}", topic):
                raise ValueError(f"{topic!r:.100} is no topic: 1 to {TOPIC_CHARS_MAX} visible ASCII characters")
        return value

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("is no postgresql:// URL")
        return value

    @property
    def role_names(self) -> tuple[RoleName, ...]:
        """The roles offered: none while agents are disabled."""
        return self.overlay_roles if self.event_processing_agents_enabled else ()

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics of events whose request and source name none; advertised, too."""
        return self.overlay_event_topics if self.overlay_event_distribution_enabled else ()

    @property
    def workers(self) -> int:
        """Worker processes for roles, at most."""
        return self.event_parallel_workers if self.event_parallel_processing_enabled else 1

    @property
    def consensus_threshold(self) -> int:
        """The least number of agents that must agree; 1 leaves it to the level."""
        return self.event_consensus_threshold if self.event_consensus_required else 1

    def notes(self) -> list[str]:
        """What of the specification's defaults this version does not do; to be logged once at start."""
        return [
            f"{name.upper()} is {_shown(field.default)} by default and has no effect: {ONLY[name][1]}"
            for name, field in type(self).model_fields.items()
            if name in ONLY and field.default != ONLY[name][0] and name not in self.model_fields_set
        ]

    def warnings(self) -> tuple[str, ...]:
        """Variables that look like settings and are none; to be logged once at start."""
        return self._warnings


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read a TOML file, if one is given, and the environment over it.

    Raises:
        ConfigError: naming every setting that is unknown, out of bounds or cannot be honoured.
    """
    from_file = _read(path) if path is not None else {}
    known = Settings.model_fields
    problems = [_unknown(f"{path}: {name}", name, list(known)) for name in from_file if name not in known]
    from_environ = {name: _from_text(name, environ[name.upper()]) for name in known if name.upper() in environ}
    values = {name: value for name, value in from_file.items() if name in known} | from_environ
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += _problems(error, values, {name: name.upper() for name in from_environ}, path)
        raise ConfigError("\n".join(problems), problems=problems) from None
    if problems:
        raise ConfigError("\n".join(problems), problems=problems)
    upper = [name.upper() for name in known]
    strangers = [name for name in sorted(environ) if PREFIXES.match(name) and name not in upper]
    settings._warnings = tuple(_unknown(name, name, upper) for name in strangers)
    return settings


def settings_table() -> str:
    """Every setting as a Markdown table."""
    lines = [
        "| environment variable (TOML key: the same in lower case) | default | what it is | accepted |",
        "| --- | --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        default = (
            ""
            if field.default_factory is not None or field.default in (None, (), "")
            else f"`{_shown(field.default)}`"
        )
        lines.append(f"| `{name.upper()}` | {default} | {field.description} | {_accepted(name, field)} |")
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"{path}: cannot be read ({error.strerror}). Name a file that can"
        raise ConfigError(problem, problems=[problem]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problem = f"{path}: is not TOML ({error}). Mend that line"
        raise ConfigError(problem, problems=[problem]) from None


def _from_text(name: str, text: str) -> Any:
    if _is_list(Settings.model_fields[name]):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if not text and name in SECRETS:
        return None
    return text


def _is_list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple


def _unknown(place: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    remedy = f"Did you mean {near[0]}?" if near else "Remove it; 'overlay-node settings' lists them all"
    return f"{place}: is no setting of this version. {remedy}"


def _problems(
    error: ValidationError, values: Mapping[str, Any], from_environ: Mapping[str, str], path: Path | None
) -> Iterator[str]:
    seen = set()
    for detail in error.errors(include_url=False, include_context=False):
        name = str(detail["loc"][0])
        if name in values and name not in seen:  # one that is not set only follows from one that is wrong
            seen.add(name)
            field = Settings.model_fields[name]
            place = from_environ.get(name) or f"{path}: {name}"
            value = "(hidden)" if name in SECRETS else f"{_shown(values[name]):.200}"
            yield f"{place} = {value}: {_reason(name, detail)}. Set it to {_accepted(name, field)}"


def _reason(name: str, detail: ErrorDetails) -> str:
    if detail["type"] == "string_pattern_mismatch":
        return "is no URL" if name.endswith("_url") else f"is no name of a {name.removeprefix('overlay_')}"
    return detail["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)


def _accepted(name: str, field: FieldInfo) -> str:
    if name in ONLY:
        only = _shown(ONLY[name][0])
        return only if field.default == ONLY[name][0] else f"{only}, or leave it unset"
    kind = field.annotation
    if kind is bool:
        return "true or false"
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    bounds = {type(bound).__name__: bound for bound in field.metadata}
    if kind in (int, float):
        return f"{'an integer' if kind is int else 'a number'} from {bounds['Ge'].ge} to {bounds['Le'].le}"
    if name == "overlay_network":
        return "1 to 63 lower-case letters, digits, dots, hyphens, underscores"
    if _is_list(field):
        return f"a list of {_items(name, field)} (comma-separated in the environment)"
    if name in ("overlay_public_url", "overlay_chain_tracker_url"):
        return "an http:// or https:// URL"
    if kind is str and "MaxLen" in bounds:
        return (
            f"text of 1 to {bounds['MaxLen'].max_length} characters"
            if "MinLen" in bounds
            else f"text of at most {bounds['MaxLen'].max_length} characters"
        )
    return KINDS.get(name, "a path")


def _items(name: str, field: FieldInfo) -> str:
    words = get_args(get_args(field.annotation)[0])
    if words:
        return ", ".join(words)
    return ITEMS.get(name, "multiaddrs like /ip4/192.0.2.1/tcp/4001")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)
