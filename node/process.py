"""The process of a node: starts database, workers, network and node in this order, and ends them on a signal."""

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio

from node.api.app import create_app
from node.api.server import serve
from node.api.server_limits import ServerLimits
from node.api.services import Services
from node.app import Node
from node.delivery.announcer import GOSSIP_CERTIFIED
from node.delivery.feed import SWITCH_S
from node.network.discovery import GOSSIP_WHO
from node.network.p2p import open_transport
from node.network.requests import RequestTable
from node.network.sender import GOSSIP_WORK
from node.runtime.build import build_id
from node.runtime.containment import Quarantine
from node.runtime.descriptors import raise_limit
from node.runtime.keyring import Keyring, load_key
from node.runtime.settings import Settings
from node.runtime.workers import Workers
from node.telemetry import configure_logging
from node.wiring.configured import transport_config
from protocols.errors import OverlayError
from protocols.keys import PrivateKey
from storage import meta
from storage.database import Database
from storage.disk import DiskReserve
from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate

log = structlog.get_logger(__name__)

GOSSIP_TOPICS: Final = (GOSSIP_WORK, GOSSIP_WHO, GOSSIP_CERTIFIED)
PATIENCE_S: Final = 10.0  # for a database that is away when the node starts
HTTP_GRACEFUL_S: Final = 2.0
CANNOT_BIND: Final = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES})


class BindError(OverlayError):
    """The address of the HTTP interface is in use, is not this machine's, or needs other rights."""

    code = "cannot-bind"


def run(settings: Settings) -> None:
    """Run a node until SIGTERM or SIGINT. To be called in the main thread: the embedded database is its child.

    Raises:
        OverlayError: the key, the database, an address or a certificate cannot be used: one that ends the node alone
            is raised alone. An exception group with anything else is a fault of this program.
    """
    configure_logging(settings.log_level, settings.log_format, node=settings.overlay_node_name)
    raise_limit()
    key = load_key(Path(settings.overlay_key_file))  # before a database is made for nothing
    with ExitStack() as stack:
        postgres = None
        if settings.database_url is not None:
            url = settings.database_url.get_secret_value()
        else:
            postgres = stack.enter_context(EmbeddedPostgres(Path(settings.overlay_data_dir)))
            url = postgres.url
        reserve = DiskReserve(postgres.data_directory if postgres else None, settings.disk_reserve_bytes)
        database = stack.enter_context(Database(url, reserve=reserve))
        database.claim(PATIENCE_S)
        applied = migrate(url)
        log.info("node.starting", build=build_id(), migrations=applied, embedded=settings.database_url is None)
        for warning in settings.warnings():
            log.warning("settings.unknown", warning=warning)
        sys.setswitchinterval(SWITCH_S)
        try:
            trio.run(_run, settings, database, key, postgres)
        except ExceptionGroup as failures:
            log.debug("node.failed", exc_info=failures)
            raise _only_cause(failures) from failures
    log.info("node.stopped")


def _only_cause(failures: ExceptionGroup[Exception]) -> Exception:
    """The one error in a group, where it is one that states what an operator can do; else the group itself."""
    causes = list(_errors_in(failures))
    return causes[0] if len(causes) == 1 and isinstance(causes[0], OverlayError) else failures


def _errors_in(failures: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for failure in failures.exceptions:
        if isinstance(failure, ExceptionGroup):
            yield from _errors_in(failure)
        else:
            yield failure


async def _run(settings: Settings, database: Database, key: PrivateKey, postgres: EmbeddedPostgres | None) -> None:
    """Run the node beside what keeps its database: the claim on it, its disk, the restart of an embedded one."""
    owner = partial(meta.bind, network=settings.overlay_network, identity=key.identity)
    await database.run(owner)
    async with trio.open_nursery() as background:
        background.start_soon(database.hold)
        background.start_soon(database.reserve.watch)
        if postgres is not None:
            background.start_soon(postgres.supervise)
        await _run_node(settings, database, key)
        background.cancel_scope.cancel()


async def _run_node(settings: Settings, database: Database, key: PrivateKey) -> None:
    requests, quarantine = RequestTable(), Quarantine()
    timeout_s = settings.event_processing_timeout_ms / 1000
    async with (
        Workers(roles=settings.workers, timeout_s=timeout_s) as workers,
        open_transport(transport_config(settings, key, GOSSIP_TOPICS), requests.answer, quarantine) as transport,
    ):
        node = Node(settings, database, Keyring(key), workers, transport, requests, quarantine)
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
    bind = settings.overlay_http_bind
    try:
        await serve(
            create_app(services),
            bind,
            quarantine=services.quarantine,
            limits=ServerLimits(graceful_s=HTTP_GRACEFUL_S),
            shutdown_trigger=stop.wait,
            task_status=task_status,
        )
    except* OSError as failures:
        for error in _errors_in(failures):
            if isinstance(error, OSError) and error.errno in CANNOT_BIND:
                raise BindError(f"OVERLAY_HTTP_BIND={bind}: cannot listen there: {error.strerror}") from error
        raise
