"""The process of a node: starts database, workers, network and node in this order, and ends them on a signal."""

import signal
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio

from node.api.app import create_app
from node.api.server import ServerLimits, serve
from node.api.services import Services
from node.app import Node
from node.delivery.announcer import GOSSIP_CERTIFIED
from node.delivery.feed import SWITCH_S
from node.network.discovery import GOSSIP_WHO
from node.network.p2p import open_transport
from node.network.requests import RequestTable
from node.network.sender import GOSSIP_WORK
from node.runtime.build import build_id
from node.runtime.keyring import Keyring, load_key
from node.runtime.settings import Settings
from node.runtime.workers import Workers
from node.telemetry import configure_logging
from node.wiring.configured import transport_config
from protocols.keys import PrivateKey
from storage import meta
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate

log = structlog.get_logger(__name__)

GOSSIP_TOPICS: Final = (GOSSIP_WORK, GOSSIP_WHO, GOSSIP_CERTIFIED)
HTTP_GRACEFUL_S: Final = 2.0


def run(settings: Settings) -> None:
    """Run a node until SIGTERM or SIGINT. To be called in the main thread: the embedded database is its child.

    Raises:
        OverlayError: the key or the database cannot be used.
    """
    configure_logging(settings.log_level, settings.log_format, node=settings.overlay_node_name)
    with ExitStack() as stack:
        postgres = None
        if settings.database_url is not None:
            url = settings.database_url.get_secret_value()
        else:
            postgres = stack.enter_context(EmbeddedPostgres(Path(settings.overlay_data_dir)))
            url = postgres.url
        database = stack.enter_context(Database(url))
        database.claim()
        applied = migrate(url)
        log.info("node.starting", build=build_id(), migrations=applied, embedded=settings.database_url is None)
        for warning in settings.warnings():
            log.warning("settings.unknown", warning=warning)
        sys.setswitchinterval(SWITCH_S)
        trio.run(_run, settings, database, postgres)
    log.info("node.stopped")


async def _run(settings: Settings, database: Database, postgres: EmbeddedPostgres | None) -> None:
    """Run the node beside what keeps its database: the claim on it, and the restart of an embedded one."""
    key = load_key(Path(settings.overlay_key_file))
    owner = partial(meta.bind, network=settings.overlay_network, identity=key.identity)
    await database.run(owner)
    async with trio.open_nursery() as background:
        background.start_soon(database.hold)
        if postgres is not None:
            background.start_soon(postgres.supervise)
        await _run_node(settings, database, key)
        background.cancel_scope.cancel()


async def _run_node(settings: Settings, database: Database, key: PrivateKey) -> None:
    requests = RequestTable()
    timeout_s = settings.event_processing_timeout_ms / 1000
    async with (
        Workers(roles=settings.workers, timeout_s=timeout_s) as workers,
        open_transport(transport_config(settings, key, GOSSIP_TOPICS), requests.answer) as transport,
    ):
        node = Node(settings, database, Keyring(key), workers, transport, requests)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, node)
            await node.run(partial(_serve_http, settings))
            nursery.cancel_scope.cancel()


async def _stop_on_signal(node: Node) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("node.stopping", signal=signal.Signals(number).name)
            node.stop()
            return


async def _serve_http(
    settings: Settings,
    services: Services,
    stop: trio.Event,
    task_status: "trio.TaskStatus[str]",  # type: ignore[name-defined]
) -> None:
    await serve(
        create_app(services),
        settings.overlay_http_bind,
        limits=ServerLimits(graceful_s=HTTP_GRACEFUL_S),
        shutdown_trigger=stop.wait,
        task_status=task_status,
    )
