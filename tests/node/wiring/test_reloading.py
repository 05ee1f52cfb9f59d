"""Settings that are read again are put into force together, or not at all."""

from collections.abc import Callable
from pathlib import Path

import pytest
import structlog.testing
import trio

from node.runtime.config import ConfigError, load
from node.runtime.settings import Settings
from node.wiring.reloading import Reloader, reload
from protocols.errors import OverlayError
from tests.node.test_app import ENVIRONMENT, lone_node, running

KEY = "02" + "cd" * 32


def settings(**chosen: str) -> Settings:
    return load(None, ENVIRONMENT | {name.upper(): text for name, text in chosen.items()})


def test_what_cannot_change_is_named_and_stays_and_the_rest_changes() -> None:
    applied: list[Settings] = []

    def prepare(found: Settings) -> Callable[[], None]:
        return lambda: applied.append(found)

    before = settings()
    after = settings(log_level="debug", overlay_network="elsewhere", overlay_price="5")
    with structlog.testing.capture_logs() as logs:
        in_force = reload(before, after, [Reloader(names=frozenset({"log_level"}), prepare=prepare)])
    assert (in_force.log_level, in_force.overlay_network, in_force.overlay_price) == ("debug", "alone", 0)
    assert applied == [in_force]
    told = {(line["event"], line.get("name"), line.get("before"), line.get("after")) for line in logs}
    assert told == {
        ("setting.changed", "LOG_LEVEL", "info", "debug"),
        ("setting.needs_restart", "OVERLAY_NETWORK", "alone", "elsewhere"),
        ("setting.needs_restart", "OVERLAY_PRICE", "0", "5"),
        ("settings.reloaded", None, None, None),
    }


def test_where_one_setting_cannot_be_used_none_is_put_into_force() -> None:
    applied: list[Settings] = []

    def refuse(found: Settings) -> Callable[[], None]:
        raise ConfigError("OVERLAY_MEMBER_CERTIFICATE: not readable")

    reloaders = [
        Reloader(names=frozenset({"log_level"}), prepare=lambda found: lambda: applied.append(found)),
        Reloader(names=frozenset({"overlay_member_certificate"}), prepare=refuse),
    ]
    with pytest.raises(ConfigError):
        reload(settings(), settings(log_level="debug"), reloaders)
    assert applied == []


async def test_a_node_follows_what_it_can(postgres_url: str, tmp_path: Path) -> None:
    async with lone_node(postgres_url) as lone:
        followed: list[tuple[object, object]] = []
        lone.transport.follow = lambda bootstrap, members: followed.append((bootstrap, members))  # type: ignore[method-assign]
        names = frozenset[str]().union(*(each.names for each in lone.node.reloaders))
        assert names <= set(Settings.model_fields)
        assert sum(len(each.names) for each in lone.node.reloaders) == len(names), "each by one"

        async def use() -> None:
            before = settings()
            assert (await lone.call("GET", "/overlay/events"))[0] == 200
            after = settings(
                overlay_public_reads="metrics",
                overlay_open_admin="false",
                event_ingestion_enabled="false",
                overlay_ready_needs_quorum="true",
                event_consensus_required="true",
                overlay_bootstrap="/ip4/127.0.0.1/tcp/1",
                overlay_membership="allowlist",
                overlay_members=KEY,
                overlay_shutdown_grace_s="0.1",
            )
            in_force = reload(before, after, lone.node.reloaders)
            assert followed == [(("/ip4/127.0.0.1/tcp/1",), frozenset({bytes.fromhex(KEY)}))]
            assert (await lone.call("GET", "/overlay/events"))[0] == 401
            assert (await lone.call("GET", "/metrics"))[0] == 200
            event = {"externalId": "e", "eventType": "t", "data": {}}
            refused = await lone.call("POST", "/overlay/events/ingest", {"sourceId": "farm", "events": [event]})
            assert refused[0] == 503
            assert in_force.event_consensus_required is False, "it waits for the next start"
            unusable = settings(overlay_bootstrap="/ip4/127.0.0.1/tcp/1/p2p/nobody")
            with pytest.raises(OverlayError, match="nobody"):
                reload(in_force, unusable, lone.node.reloaders)
            certificate = settings(overlay_member_certificate=str(tmp_path / "none.json"))
            with pytest.raises(ConfigError, match=r"^OVERLAY_MEMBER_CERTIFICATE="):
                reload(in_force, certificate, lone.node.reloaders)
            assert len(followed) == 1

        with trio.fail_after(120):
            await running(lone, use)
