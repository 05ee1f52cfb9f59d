"""The process of a node: starts HTTP, database, workers, network and node in this order; a signal ends them."""

import errno
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio

from node.api.app import create_app
from node.api.server import serve
from node.api.services import Services
from node.api.standby import StandbyApp
from node.app import Node
from node.delivery.announcer import GOSSIP_CERTIFIED
from node.delivery.feed import SWITCH_S
from node.health.lifecycle import Lifecycle, Phase
from node.health.monitor import HealthMonitor
from node.health.storage import database_probe, disk_probe
from node.network.discovery import GOSSIP_WHO
from node.network.p2p import open_transport
from node.network.requests import RequestTable
from node.network.sender import GOSSIP_WORK
from node.runtime.build import build_id
from node.runtime.containment import Quarantine
from node.runtime.crashes import CrashRecord
from node.runtime.descriptors import raise_limit
from node.runtime.keyring import Keyring, load_key
from node.runtime.settings import Settings
from node.runtime.workers import Workers
from node.telemetry import configure_logging
from node.wiring.configured import server_limits, transport_config
from node.wiring.reloading import Reloader, reload
from node.worker.memory import collect_rarely
from protocols.errors import OverlayError
from protocols.keys import PrivateKey
from storage import meta
from storage.database import Database
from storage.disk import DiskReserve
from storage.embedded import EmbeddedPostgres
from storage.errors import DatabaseUnavailableError, StatementError
from storage.migrate import migrate

log = structlog.get_logger(__name__)

GOSSIP_TOPICS: Final = (GOSSIP_WORK, GOSSIP_WHO, GOSSIP_CERTIFIED)
LOG_SETTINGS: Final = frozenset({"log_level", "log_format", "overlay_node_name"})
RETRY_S: Final = 1.0
HTTP_GRACEFUL_S: Final = 2.0
CANNOT_BIND: Final = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES})


class BindError(OverlayError):
    """The address of the HTTP interface is in use, is not this machine's, or needs other rights."""

    code = "cannot-bind"


def run(load: Callable[[], Settings]) -> None:
    """Run a node until SIGTERM or SIGINT. To be called in the main thread: the embedded database is its child.

    Args:
        load: Reads the settings; called again at each SIGHUP.

    Raises:
        OverlayError: the key, the database, an address or a certificate cannot be used: one that ends the node alone
            is raised alone. An exception group with anything else is a fault of this program.
    """
    settings = load()
    configure_logging(settings.log_level, settings.log_format, node=settings.overlay_node_name)
    raise_limit()
    key = load_key(Path(settings.overlay_key_file))  # before a database is made for nothing
    log.info("node.starting", build=build_id(), embedded=settings.database_url is None)
    for warning in settings.warnings():
        log.warning("settings.unknown", warning=warning)
    sys.setswitchinterval(SWITCH_S)
    with ExitStack() as stack:
        crashes = stack.enter_context(closing(CrashRecord(Path(settings.overlay_data_dir) / "crash")))
        if crashes.previous:
            log.error("node.crashed_before", why=crashes.previous)
        process = NodeProcess(settings, load, key, stack, has_crashed=bool(crashes.previous))
        try:
            trio.run(process.run)
        except ExceptionGroup as failures:
            log.debug("node.failed", exc_info=failures)
            cause = _only_cause(failures)
            if cause is failures:
                crashes.note(failures)
            raise cause from failures
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


class NodeProcess:
    """The life of the process: it answers over HTTP from the first moment, starts the database, runs the node, and
    answers until the last event in progress has its end.
    """

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Settings],
        key: PrivateKey,
        stack: ExitStack,
        *,
        has_crashed: bool = False,
    ) -> None:
        """Args:
        load: Reads the settings again.
        stack: Closes, after the event loop has ended, what must outlast it.
        has_crashed: The process before this one ended by a fault of its own.
        """
        self._settings = settings
        self._load = load
        self._reload_wanted = trio.Event()
        self._key = key
        self._has_crashed = has_crashed
        self._stack = stack
        self._quarantine = Quarantine()
        self._lifecycle = Lifecycle()
        self._monitor = HealthMonitor(self._quarantine, [self._lifecycle.probe()])
        self._standby = StandbyApp(self._monitor.report, self._lifecycle.describe)
        self._start = trio.CancelScope()
        self._database: Database | None = None
        self._node: Node | None = None
        self._url = ""
        self._over, self._closed = trio.Event(), trio.Event()

    async def run(self) -> None:
        """Run until a signal has ended the node."""
        async with trio.open_nursery() as background:
            await background.start(self._handle_signals)
            background.start_soon(self._monitor.run)
            self._url = await background.start(self._listen)
            log.info("node.listening", url=self._url)
            with self._start:
                database = await self._start_database(background)
                await self._run_node(database)
            self._over.set()
            with trio.move_on_after(2 * HTTP_GRACEFUL_S):
                await self._closed.wait()
            background.cancel_scope.cancel()

    async def _handle_signals(self, task_status: "trio.TaskStatus[None]") -> None:  # type: ignore[name-defined]
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            is_stopping = False
            async for number in signals:
                if number == signal.SIGHUP:
                    self._reload_wanted.set()
                    continue
                log.info("node.stopping", signal=signal.Signals(number).name, again=is_stopping)
                is_stopping = True
                if self._node is None or self._lifecycle.phase is Phase.STARTING:
                    self._start.cancel()  # nothing was taken in
                    if self._database is not None:
                        self._database.end()
                else:
                    self._node.stop()

    async def _reload_settings(self, node: Node) -> None:
        """Follow the settings whenever SIGHUP asks for it, once for all that came during the start."""
        reloaders = (*node.reloaders, Reloader(names=LOG_SETTINGS, prepare=_log_anew))
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted = trio.Event()
            try:
                found = await trio.to_thread.run_sync(self._load)
                self._settings = reload(self._settings, found, reloaders)
            except OverlayError as error:
                for problem in str(error).splitlines():
                    log.warning("settings.refused", problem=problem, in_force="those read before")
            else:
                for warning in found.warnings():
                    log.warning("settings.unknown", warning=warning)

    async def _listen(self, task_status: "trio.TaskStatus[str]") -> None:  # type: ignore[name-defined]
        """Serve HTTP for the whole life of the process."""
        bind = self._settings.overlay_http_bind
        try:
            await serve(
                self._standby,
                bind,
                quarantine=self._quarantine,
                limits=server_limits(self._settings, HTTP_GRACEFUL_S),
                answer_early=self._standby.answer_early,
                shutdown_trigger=self._over.wait,
                task_status=task_status,
            )
            self._closed.set()
        except* OSError as failures:
            for error in _errors_in(failures):
                if isinstance(error, OSError) and error.errno in CANNOT_BIND:
                    raise BindError(f"OVERLAY_HTTP_BIND={bind}: cannot listen there: {error.strerror}") from error
            raise

    async def _start_database(self, background: trio.Nursery) -> Database:
        """Start the database where it is the node's own, make it this process's, and bring it up to date."""
        settings, postgres = self._settings, None
        self._lifecycle.waits_for = "its database"
        if settings.database_url is not None:
            url = settings.database_url.get_secret_value()
        else:
            postgres = await trio.to_thread.run_sync(EmbeddedPostgres, Path(settings.overlay_data_dir))
            self._stack.callback(postgres.stop)
            await postgres.launch()
            background.start_soon(postgres.supervise)
            url = postgres.url
        reserve = DiskReserve(postgres.data_directory if postgres else None, settings.disk_reserve_bytes)
        database = self._database = self._stack.enter_context(Database(url, reserve=reserve))
        background.start_soon(reserve.watch)
        background.start_soon(database.watch)
        self._monitor.add(database_probe(database, self._commit_trouble), disk_probe(reserve))
        await _until_done(partial(_abandonable, database.claim.take))
        background.start_soon(database.claim.hold)
        self._lifecycle.waits_for = "its database to be brought up to date"
        await _until_done(partial(_abandonable, partial(migrate, url)))
        owner = partial(meta.bind, network=settings.overlay_network, identity=self._key.identity)
        await _until_done(partial(database.run, owner))
        return database

    def _commit_trouble(self) -> DatabaseUnavailableError | StatementError | None:
        return None if self._node is None else self._node.commit_trouble

    async def _run_node(self, database: Database) -> None:
        settings, requests = self._settings, RequestTable()
        self._lifecycle.waits_for = "its state to be loaded"
        timeout_s = settings.event_processing_timeout_ms / 1000
        config = transport_config(settings, self._key, GOSSIP_TOPICS)
        async with (
            Workers(roles=settings.workers, timeout_s=timeout_s) as workers,
            open_transport(config, requests.answer, self._quarantine) as transport,
        ):
            node = Node(
                settings,
                database,
                Keyring(self._key),
                workers,
                transport,
                requests,
                lifecycle=self._lifecycle,
                monitor=self._monitor,
                quarantine=self._quarantine,
                has_crashed=self._has_crashed,
            )
            self._node = node
            async with trio.open_nursery() as beside:
                beside.start_soon(self._reload_settings, node)
                await node.run(self._serve_clients)
                beside.cancel_scope.cancel()

    async def _serve_clients(
        self,
        services: Services,
        stop: trio.Event,
        task_status: "trio.TaskStatus[str]",  # type: ignore[name-defined]
    ) -> None:
        async with self._standby.serving(create_app(services), HTTP_GRACEFUL_S):
            collect_rarely()
            task_status.started(self._url)
            await stop.wait()


def _log_anew(settings: Settings) -> Callable[[], None]:
    return partial(configure_logging, settings.log_level, settings.log_format, node=settings.overlay_node_name)


async def _abandonable(call: Callable[[], object]) -> None:
    """A call in a thread that a node that is to end does not wait for."""
    await trio.to_thread.run_sync(call, abandon_on_cancel=True)  # type: ignore[call-arg]  # older stubs are installed


async def _until_done(step: Callable[[], Awaitable[object]]) -> None:
    """Take a step of the start as often as it takes: a database that is away comes back."""
    reported = ""
    while True:
        try:
            await step()
            return
        except DatabaseUnavailableError as fault:
            if str(fault) != reported:
                reported = str(fault)
                log.warning("database.awaited", why=reported)
        await trio.sleep(RETRY_S)
