"""The settings that can change while a node runs, each with what it takes; all others wait for the next start."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import attrs
import structlog

from node.network.p2p import identity_in
from node.overlay.submit import outpoint_is_spent
from node.runtime.config import changes
from node.runtime.settings import AccessSettings, Settings
from node.wiring.clients import Ingestion
from node.wiring.configured import access, ingest_limits, own_certificate
from node.wiring.network import Base, Peers

log = structlog.get_logger(__name__)

PEERS: Final = frozenset({"overlay_bootstrap", "overlay_membership", "overlay_members", "overlay_member_certifiers"})
LIMITS: Final = frozenset(
    {
        "event_ingestion_enabled",
        "overlay_unsettled_events_max",
        "overlay_target_delay_ms",
        "overlay_event_bytes_max",
    }
)
READ_WHEN_NEEDED: Final = frozenset(
    {"overlay_ready_needs_quorum", "overlay_ready_event_age_s", "overlay_shutdown_grace_s"}
)


@attrs.frozen(kw_only=True)
class Reloader:
    """Puts some settings into force.

    Attributes:
        prepare: Reads what the settings name. What it returns puts them into force, and cannot fail. Raises
            OverlayError: they cannot be used.
    """

    names: frozenset[str]
    prepare: Callable[[Settings], Callable[[], None]]


def reload(before: Settings, after: Settings, reloaders: Sequence[Reloader]) -> Settings:
    """Put changed settings into force, all that can be or, where one cannot be used, none. Returns those in force.

    Raises:
        OverlayError: A setting cannot be used, nothing was changed.
    """
    known = frozenset[str]().union(*(each.names for each in reloaders))
    changed = changes(before, after)
    possible = {change.name: getattr(after, change.name) for change in changed if change.name in known}
    in_force = before.model_copy(update=possible)
    steps = [each.prepare(in_force) for each in reloaders]
    for step in steps:
        step()
    for change in changed:
        tell = log.info if change.name in known else log.warning
        event = "setting.changed" if change.name in known else "setting.needs_restart"
        tell(event, name=change.name.upper(), before=change.before, after=change.after)
    log.info("settings.reloaded", changed=len(possible), need_restart=len(changed) - len(possible))
    return in_force


def node_reloaders(base: Base, peers: Peers, ingestion: Ingestion) -> tuple[Reloader, ...]:
    """All but those of the process itself."""
    return (
        Reloader(names=frozenset(AccessSettings.model_fields), prepare=partial(_access, base, peers)),
        Reloader(names=PEERS, prepare=partial(_peers, base, peers)),
        Reloader(names=frozenset({"overlay_member_certificate"}), prepare=partial(_certificate, base, peers)),
        Reloader(names=LIMITS, prepare=partial(_limits, ingestion)),
        Reloader(names=frozenset({"overlay_disk_reserve_mb"}), prepare=partial(_disk, base)),
        Reloader(names=READ_WHEN_NEEDED, prepare=partial(_in_force, base)),
    )


def _access(base: Base, peers: Peers, settings: Settings) -> Callable[[], None]:
    is_spent = partial(outpoint_is_spent, base.database)
    return partial(peers.access.adopt, access(settings, base.keyring.identity, is_spent))


def _peers(base: Base, peers: Peers, settings: Settings) -> Callable[[], None]:
    for address in settings.overlay_bootstrap:
        identity_in(address)

    def follow() -> None:
        peers.membership.trust(settings.member_certifiers)
        base.transport.follow(settings.overlay_bootstrap, settings.members)

    return follow


def _certificate(base: Base, peers: Peers, settings: Settings) -> Callable[[], None]:
    """The file is read again whether its name changed or not: a certificate is renewed in place."""
    document = own_certificate(settings, base.keyring.identity)

    def show() -> None:
        peers.discovery.certificate = document

    return show


def _limits(ingestion: Ingestion, settings: Settings) -> Callable[[], None]:
    def limit() -> None:
        ingestion.ingest.admission.limits = ingest_limits(settings)

    return limit


def _disk(base: Base, settings: Settings) -> Callable[[], None]:
    def keep_back() -> None:
        base.database.reserve.reserved_bytes = settings.disk_reserve_bytes

    return keep_back


def _in_force(base: Base, settings: Settings) -> Callable[[], None]:
    def replace() -> None:
        base.live.now = settings

    return replace
