"""From settings to what each part takes: every value that an operator sets arrives where it works."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from node.api.server_limits import ServerLimits
from node.network.discovery import make_tokens
from node.runtime.config import ConfigError, load
from node.runtime.settings import Settings
from node.runtime.token_bucket import Rate
from node.wiring.configured import (
    access,
    api_settings,
    ingest_limits,
    ingest_policy,
    make_offer,
    own_certificate,
    rules,
    server_limits,
    transport_config,
)
from protocols import membership
from protocols.advertisement import check_token
from protocols.keys import PrivateKey
from protocols.messages import Level, Role
from protocols.rules import Strategy

NODE = PrivateKey.from_bytes(bytes(31) + b"\1")
CERTIFIER = PrivateKey.from_bytes(bytes(31) + b"\2")
OTHER = PrivateKey.from_bytes(bytes(31) + b"\3")
TYPE = "A" * 43 + "="
SERIAL = f"{'A' * 42}Q="


def settings_of(**variables: str) -> Settings:
    return load(None, {name.upper(): text for name, text in variables.items()})


async def never(outpoint: str) -> bool:
    return False


def test_the_transport_gets_the_key_the_network_and_its_addresses() -> None:
    config = transport_config(
        settings_of(
            overlay_network="farm",
            overlay_p2p_listen="/ip4/127.0.0.1/tcp/1",
            overlay_p2p_announce="/dns4/a.example/tcp/2",
            overlay_bootstrap="/ip4/192.0.2.1/tcp/3",
            overlay_eclipse_protection="false",
        ),
        NODE,
        ("jobs",),
    )
    assert (config.secret, config.network, config.topics) == (NODE.to_bytes(), "farm", ("jobs",))
    assert config.listen == ("/ip4/127.0.0.1/tcp/1",)
    assert config.announce == ("/dns4/a.example/tcp/2",)
    assert config.bootstrap == ("/ip4/192.0.2.1/tcp/3",)
    assert config.eclipse_protection is False
    assert NODE.to_bytes().hex() not in repr(config)


@pytest.mark.parametrize(("kind", "other_is_in"), [("open", True), ("allowlist", False)])
def test_an_allowlist_is_enforced_by_the_transport(kind: str, other_is_in: bool) -> None:
    config = transport_config(
        settings_of(overlay_membership=kind, overlay_members=CERTIFIER.identity.hex()), NODE, ()
    )
    assert config.admits(CERTIFIER.identity)
    assert config.admits(OTHER.identity) is other_is_in


def test_the_offer_is_what_the_operator_wants_advertised() -> None:
    offer = make_offer(
        settings_of(
            overlay_roles="validate,certify",
            overlay_event_topics="a.b",
            overlay_public_url="https://node.example/",
            overlay_capacity="3",
            overlay_price="7",
            overlay_operator="Operator",
            overlay_region="north",
            overlay_advertisement_ttl_ms="5000",
        )
    )
    assert offer.roles == (Role.VALIDATE, Role.CERTIFY)
    assert (offer.topics, offer.url) == (("a.b",), "https://node.example")
    assert (offer.capacity, offer.price, offer.ttl_ms) == (3, 7, 5_000)
    assert (offer.operator, offer.region) == ("Operator", "north")
    assert offer.allow_local_urls is False
    names = {check_token(script, allow_local_urls=False).name for script in make_tokens(NODE, offer)}
    assert {"tm_a_b", "tm_gitdata_events_validate", "tm_gitdata_events_certify", "ls_uhrp"} <= names
    assert "tm_gitdata_events_normalize" not in names


@pytest.mark.parametrize(
    ("url", "is_local"), [("http://127.0.0.1:8080", True), ("http://localhost:1", True), ("https://a.example", False)]
)
def test_urls_of_one_machine_are_accepted_only_by_a_node_on_one_machine(url: str, is_local: bool) -> None:
    assert make_offer(settings_of(overlay_public_url=url)).allow_local_urls is is_local


def test_a_node_without_agents_or_distribution_offers_neither_roles_nor_topics() -> None:
    settings = settings_of(event_processing_agents_enabled="false", overlay_event_distribution_enabled="false")
    offer = make_offer(settings)
    assert (offer.roles, offer.topics) == ((), ())
    assert rules(settings, NODE.identity).roles == ()


def test_the_driver_gets_the_rules_that_are_set() -> None:
    found = rules(
        settings_of(
            overlay_network="farm",
            event_agent_selection_strategy="cost",
            overlay_bid_window_ms="50",
            overlay_lease_ms="2000",
            overlay_lease_batches="9",
            overlay_resend_ms="300",
            overlay_attempts_max="4",
            overlay_replicas="3",
            overlay_adopt_ms="700",
            event_processing_timeout_ms="8000",
        ),
        NODE.identity,
    )
    assert (found.network, found.self_key, found.strategy) == ("farm", NODE.identity, Strategy.COST)
    assert (found.bid_window_ms, found.lease_ms, found.lease_batches) == (50, 2_000, 9)
    assert (found.resend_ms, found.adopt_ms, found.attempt_ms) == (300, 700, 8_000)
    assert (found.attempts_max, found.replicas) == (4, 3)
    assert found.attempts_at(Level.BASIC) == 4
    assert found.roles == (Role.NORMALIZE, Role.VALIDATE, Role.CERTIFY)


@pytest.mark.parametrize(("required", "floor", "threshold"), [("true", Level.ENHANCED, 3), ("false", None, 1)])
def test_consensus_is_a_floor_only_where_it_is_required(required: str, floor: Level | None, threshold: int) -> None:
    policy = ingest_policy(settings_of(event_consensus_required=required, event_consensus_threshold="3"))
    assert (policy.level_floor, policy.threshold) == (floor, threshold)


def test_batches_and_bodies_are_bounded_as_set() -> None:
    settings = settings_of(
        event_batch_processing_enabled="false",
        event_ingestion_enabled="false",
        overlay_durability="replicated",
        overlay_unsettled_events_max="11",
        overlay_request_bytes_max="4096",
        overlay_event_bytes_max="512",
    )
    policy, limits = ingest_policy(settings), ingest_limits(settings)
    assert (policy.coalesce, policy.replicated) == (False, True)
    assert (limits.enabled, limits.unsettled_max) == (False, 11)
    assert (limits.body_bytes_max, limits.event_bytes_max) == (4_096, 512)
    assert api_settings(settings).body_bytes_max == 4_096


def test_the_interface_serves_what_is_switched_on() -> None:
    found = api_settings(
        settings_of(
            event_stream_sse_enabled="false",
            event_stream_websocket_enabled="false",
            event_stream_max_clients="2",
            event_stream_heartbeat_interval_ms="100",
            event_signature_ttl_seconds="7",
        )
    )
    assert (found.stream_enabled, found.websocket_enabled, found.stream_clients_max) == (False, False, 2)
    assert (found.heartbeat_ms, found.signature_ttl_ms) == (100, 7_000)


async def test_keys_and_certificates_give_the_roles_that_are_set() -> None:
    permissions = access(
        settings_of(
            overlay_owner_keys=OTHER.identity.hex(),
            overlay_certifiers=f"{CERTIFIER.identity.hex()}:{TYPE}:reader",
            overlay_revoked_certificates=SERIAL,
            overlay_public_reads="events",
            event_identity_verification_required="true",
        ),
        NODE.identity,
        never,
    )
    assert {role.value for role in permissions.roles_of(NODE.identity)} == {"operator"}
    assert {role.value for role in permissions.roles_of(OTHER.identity)} == {"owner"}
    assert permissions.identity_required
    assert permissions.public_reads == {"events"}
    assert await permissions.is_revoked(SERIAL, "any.0")
    assert not await permissions.is_revoked(TYPE, "any.0")


def certificate_file(directory: Path, subject: PrivateKey, certifier: PrivateKey = CERTIFIER) -> Path:
    path = directory / "member.json"
    path.write_bytes(membership.issue(certifier, subject.identity, type=TYPE, serial_number=SERIAL))
    return path


def certified(path: Path) -> Settings:
    return settings_of(
        overlay_membership="certified",
        overlay_member_certifiers=f"{CERTIFIER.identity.hex()}:{TYPE}",
        overlay_member_certificate=str(path),
    )


def test_the_membership_certificate_is_advertised_as_it_is_in_the_file(tmp_path: Path) -> None:
    path = certificate_file(tmp_path, NODE)
    assert own_certificate(certified(path), NODE.identity) == path.read_bytes()
    assert own_certificate(settings_of(), NODE.identity) == b""


def test_a_membership_certificate_that_would_not_count_stops_the_start(tmp_path: Path) -> None:
    for path in (
        tmp_path / "missing.json",
        certificate_file(tmp_path, OTHER),
        certificate_file(tmp_path, NODE, certifier=OTHER),
    ):
        with pytest.raises(ConfigError, match="OVERLAY_MEMBER_CERTIFICATE=") as refused:
            own_certificate(certified(path), NODE.identity)
        assert str(path) in str(refused.value)
        assert "have a certifier of the network issue one" in str(refused.value)


def test_networks_to_call_are_parsed_once() -> None:
    assert settings_of(overlay_outbound_allow="10.0.0.0/8").overlay_outbound_allow == (ip_network("10.0.0.0/8"),)


def test_the_server_gets_every_bound_of_the_settings() -> None:
    limits = server_limits(
        settings_of(
            overlay_trusted_proxies="10.0.0.0/8,127.0.0.1",
            overlay_http_connections_max="1",
            overlay_http_client_connections_max="2",
            overlay_http_client_idle_max="3",
            overlay_http_reserved_max="4",
            overlay_http_backlog="5",
            overlay_http_requests_max="6",
            overlay_http_header_bytes_max="2048",
            overlay_http_header_timeout_s="7.5",
            overlay_http_keep_alive_s="8.5",
            overlay_http_stall_s="9.5",
            overlay_http2_resets_per_s="1.5",
            overlay_http2_resets_burst="11",
            overlay_http2_control_frames_per_s="2.5",
            overlay_http2_control_frames_burst="12",
        ),
        graceful_s=3.0,
    )
    assert limits == ServerLimits(
        header_bytes_max=2_048,
        header_s=7.5,
        keep_alive_s=8.5,
        requests_per_connection_max=6,
        graceful_s=3.0,
        stall_s=9.5,
        backlog=5,
        connections_max=1,
        connections_per_client_max=2,
        idle_per_client_max=3,
        reserved_max=4,
        resets=Rate(per_s=1.5, burst=11),
        control_frames=Rate(per_s=2.5, burst=12),
        trusted_proxies=(ip_network("10.0.0.0/8"), ip_network("127.0.0.1/32")),
    )
    assert api_settings(settings_of(overlay_http_body_timeout_s="2.5")).body_timeout_s == 2.5


def test_the_bounds_of_the_server_are_what_they_are_unless_set() -> None:
    assert server_limits(settings_of(), ServerLimits().graceful_s) == ServerLimits()


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("OVERLAY_HTTP_CONNECTIONS_MAX", "0", "an integer from 1 to 1000000"),
        ("OVERLAY_HTTP_KEEP_ALIVE_S", "soon", "a number from 0.1 to 86400"),
        ("OVERLAY_TRUSTED_PROXIES", "10.0.0.1/8", "networks like 10.0.0.0/8"),
        ("OVERLAY_TRUSTED_PROXIES", "proxy.example", "networks like 10.0.0.0/8"),
    ],
)
def test_a_wrong_bound_is_named_with_what_is_allowed(name: str, value: str, wanted: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settings_of(**{name: value})
    (problem,) = str(refused.value).splitlines()
    assert problem.startswith(f"{name} = {value}: ")
    assert wanted in problem
