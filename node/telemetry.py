"""Logs and metrics: structured lines on stderr, and the Prometheus text of all that the node counts."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TextIO

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from structlog.typing import EventDict, Processor

from node.delivery.feed import FeedStats
from node.delivery.webhook_manager import WebhookStats
from node.sources.documents import SourceState
from storage.disk import Room

QUIET: Final = ("libp2p", "multiaddr", "zeroconf", "trio-websocket", "httpx", "httpcore", "urllib3", "asyncio")
BURST: Final = 5
BURST_WINDOW_S: Final = 60.0
PLACES_MAX: Final = 1_024
SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)


class RateLimit(logging.Filter):
    """Passes at most ``burst`` records a window from one line of a library's code, so that a dead peer cannot flood
    the log. The first record of the next window has the number of those left out in ``left_out``.
    """

    def __init__(self, burst: int = BURST, window_s: float = BURST_WINDOW_S) -> None:
        super().__init__()
        self._burst, self._window_s = burst, window_s
        self._places: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(QUIET):
            return True
        place, now = (record.pathname, record.lineno), time.monotonic()
        since, count = self._places.get(place, (now, 0))
        if now - since >= self._window_s:
            if count > self._burst:
                record.left_out = count - self._burst
            since, count = now, 0
        if len(self._places) >= PLACES_MAX:
            self._places.clear()
        self._places[place] = (since, count + 1)
        return count < self._burst


def configure_logging(level: str, log_format: str, *, node: str, stream: TextIO | None = None) -> None:
    """Send structlog and standard logging to stderr. Call it after libp2p is imported, which sets up its own log.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``; libraries of the network log from ``warning`` on.
        log_format: ``json`` or ``console``.
        node: The node's name, in every line.
        stream: Where lines go; None: stderr.
    """

    def name_node(_: Any, __: str, event: EventDict) -> EventDict:
        event["node"] = node
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_node,
    ]
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(RateLimit())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(["left_out"]), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(log_format)],
        )
    )
    _route(handler, logging.getLevelNamesMapping()[level.upper()])
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _rendering(log_format: str) -> list[Processor]:
    if log_format == "console":
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _route(handler: logging.Handler, level: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in list(logging.Logger.manager.loggerDict):
        logger = logging.getLogger(name)
        if name.startswith(QUIET):  # a child with a level of its own follows its parent again
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(logging.NOTSET)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)


class SourceFigures(Collector):
    """Figures of the sources that this node reads, from their states."""

    def __init__(self, states: Callable[[], Mapping[str, SourceState]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        """A row for each source and figure."""
        up = GaugeMetricFamily("overlay_source_up", "Whether a source is being read", labels=["source"])
        lag = GaugeMetricFamily("overlay_source_lag", "Events known to be waiting at a source", labels=["source"])
        faults = CounterMetricFamily("overlay_source_errors", "Failures of a source", labels=["source"])
        events = CounterMetricFamily(
            "overlay_source_events", "Records read from sources, by outcome", labels=["source", "outcome"]
        )
        for source, state in self._states().items():
            up.add_metric([source], float(state.status in ("running", "listening")))
            if state.lag is not None:
                lag.add_metric([source], state.lag)
            faults.add_metric([source], state.errors)
            events.add_metric([source, "accepted"], state.accepted)
            events.add_metric([source, "duplicates"], state.duplicates)
            events.add_metric([source, "rejected"], state.rejected)
        yield from (up, lag, faults, events)


class DeliveryFigures(Collector):
    """Figures of delivery, from what the feed and the webhooks count themselves."""

    def __init__(self, feed: Callable[[], FeedStats], webhooks: Callable[[], WebhookStats]) -> None:
        self._feed, self._webhooks = feed, webhooks

    def collect(self) -> Iterator[Metric]:
        """One row a figure."""
        feed, webhooks = self._feed(), self._webhooks()
        events = CounterMetricFamily("overlay_feed_events", "Certified events handed to the feed")
        events.add_metric([], feed.events)
        cut_off = CounterMetricFamily("overlay_stream_cut_off", "Stream clients closed because they were too slow")
        cut_off.add_metric([], feed.cut_off)
        receivers = GaugeMetricFamily(
            "overlay_webhook_receivers", "Webhook subscriptions being delivered", labels=["state"]
        )
        receivers.add_metric(["delivering"], webhooks.active - webhooks.failing)
        receivers.add_metric(["failing"], webhooks.failing)
        deliveries = CounterMetricFamily(
            "overlay_webhook_deliveries", "Webhook deliveries by outcome, each try", labels=["outcome"]
        )
        deliveries.add_metric(["taken"], webhooks.deliveries)
        deliveries.add_metric(["failed"], webhooks.failures)
        yield from (events, cut_off, receivers, deliveries)


class ConditionFigures(Collector):
    """What is wrong with the node, and the room on its disk."""

    def __init__(self, held: Callable[[], Mapping[str, bool]], room: Callable[[], Room | None]) -> None:
        self._held, self._room = held, room

    def collect(self) -> Iterator[Metric]:
        """A row for each condition, whether it holds or not."""
        conditions = GaugeMetricFamily(
            "overlay_condition", "Whether a reason of /readyz holds: 1, or 0", labels=["reason"]
        )
        for code, holds in self._held().items():
            conditions.add_metric([code], float(holds))
        free = GaugeMetricFamily("overlay_disk_free_bytes", "Room on the disk of the node's own database")
        reserved = GaugeMetricFamily(
            "overlay_disk_reserved_bytes", "Room kept back there: with less, events are refused"
        )
        room = self._room()
        if room is not None:
            free.add_metric([], room.free_bytes)
            reserved.add_metric([], room.reserved_bytes)
        yield from (conditions, free, reserved)


class QuarantineFigures(Collector):
    """Items from outside that reached a bug and were contained, by kind."""

    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """A row for each kind."""
        quarantined = CounterMetricFamily(
            "overlay_quarantined", "Items from outside that reached a bug and were rejected", labels=["kind"]
        )
        for kind, count in self._counts().items():
            quarantined.add_metric([kind], count)
        yield quarantined


class Metrics:
    """All that the node counts. Times are in seconds."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"overlay_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"overlay_{name}", text, labels, registry=registry)

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(f"overlay_{name}_seconds", text, buckets=SECONDS, registry=registry)

        self._acknowledged = counter("events_acknowledged", "Events accepted and stored")
        self._certified = counter("events_certified", "Events certified as valid")
        self._invalid = counter("events_invalid", "Events certified as invalid")
        self._dead = counter("events_dead", "Events of batches that are dead")
        self._duplicates = counter("events_duplicates", "Events that were known already")
        self._rejected = counter("events_rejected", "Events rejected")
        self._outcomes = counter("agent_outcomes", "Answers of agents, by their agreement with the quorum", "outcome")
        self._faults = counter("peer_faults", "Faults of peers, by error code", "code")
        self._frames = counter("frames", "Signed messages sent and received", "direction", "carrier", "message")
        self._bytes = counter("frame_bytes", "Bytes of those messages, before compression", "direction", "carrier")
        self._processor = counter("processor_seconds", "Processor time of the node's processes", "component")
        self._runs = counter("role_runs", "Batches that roles were run over")
        self._cpu = counter("role_cpu_seconds", "Processor time of running roles, worker processes included")
        self._lookups = counter("processing_cache_lookups", "Lookups of cached results", "type", "outcome")
        self._acknowledgement = seconds("acknowledgement", "From the first byte of a request to its commit")
        self._certificate = seconds("certificate", "From the acknowledgement of a batch to its certificate")
        self._stages = gauge("batches", "Batches of this node that have not ended, by stage", "stage")
        self._leases = gauge("leases", "Leases in force that this node awarded")
        self._inbox = gauge("driver_inbox", "Stimuli waiting for the driver")
        self._unsettled = gauge("events_unsettled", "Events acknowledged that have not ended")
        self._bound = gauge("events_unsettled_bound", "As many may be, leaving out those that wait for agents")
        self._drain = gauge("drain_events_per_second", "The rate at which events end, assumed until it is known")
        self._refused = gauge("requests_refused", "Requests with events that were answered 429, since the start")
        self._oldest = gauge("events_oldest_unsettled_seconds", "Age of the oldest event that has not ended; 0: none")
        self._clients = gauge("stream_clients", "Event streams being served")
        self._cached = gauge("processing_cache_bytes", "Size of the cached results")
        self._connected = gauge("peers_connected", "Peers connected")

    def watch_sources(self, states: Callable[[], Mapping[str, SourceState]]) -> None:
        """Show the figures of sources, read whenever metrics are read. ``states``: by source id."""
        self._registry.register(SourceFigures(states))

    def watch_delivery(self, feed: Callable[[], FeedStats], webhooks: Callable[[], WebhookStats]) -> None:
        """Show the figures of delivery, read whenever metrics are read."""
        self._registry.register(DeliveryFigures(feed, webhooks))

    def watch_quarantine(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Show how many items were quarantined, read whenever metrics are read. ``counts``: by kind."""
        self._registry.register(QuarantineFigures(counts))

    def watch_conditions(self, held: Callable[[], Mapping[str, bool]], room: Callable[[], Room | None]) -> None:
        """Show what is wrong, read whenever metrics are read. ``held``: by code. ``room``: on the disk."""
        self._registry.register(ConditionFigures(held, room))

    def admitted(self, counts: Mapping[str, int], seconds: float) -> None:
        """A request was answered: its events ``accepted``, ``duplicates`` and ``rejected``."""
        self._acknowledged.inc(counts["accepted"])
        self._duplicates.inc(counts["duplicates"])
        self._rejected.inc(counts["rejected"])
        self._acknowledgement.observe(seconds)

    def sealed(self, *, valid: int, invalid: int, seconds: float) -> None:
        """A batch was certified."""
        self._certified.inc(valid)
        self._invalid.inc(invalid)
        self._certificate.observe(seconds)

    def marked_dead(self, events: int) -> None:
        """A batch was marked dead."""
        self._dead.inc(events)

    def role_ran(self, cpu_seconds: float) -> None:
        """The roles ran over a batch."""
        self._runs.inc()
        self._cpu.inc(cpu_seconds)

    def looked_up(self, kind: str, hit: bool) -> None:
        """A result was looked up in the cache, and found if ``hit``."""
        self._lookups.labels(type=kind, outcome="hit" if hit else "miss").inc()

    def judged(self, outcome: str) -> None:
        """An agent's answer ``agreed``, ``dissented``, was ``late`` or ``equivocated``."""
        self._outcomes.labels(outcome=outcome).inc()

    def sent(self, carrier: str, message: str, size: int) -> None:
        """A message was sent by ``gossip`` or ``stream``; gossip counts once, however many neighbours pass it on."""
        self._frames.labels(direction="out", carrier=carrier, message=message).inc()
        self._bytes.labels(direction="out", carrier=carrier).inc(size)

    def received(self, carrier: str, message: str, size: int) -> None:
        """A message with a valid signature was received."""
        self._frames.labels(direction="in", carrier=carrier, message=message).inc()
        self._bytes.labels(direction="in", carrier=carrier).inc(size)

    def worked(self, seconds: Mapping[str, float]) -> None:
        """Processor time of each component since the last call."""
        for component, spent in seconds.items():
            self._processor.labels(component=component).inc(spent)

    def peer_fault(self, code: str) -> None:
        """A peer was at fault. ``code`` is one of our error codes, so the label has few values."""
        self._faults.labels(code=code).inc()

    def observe(
        self,
        *,
        inbox: int,
        unsettled: int,
        bound: int,
        drain: float,
        refused: int,
        oldest_s: float,
        connected: int,
        subscribers: int,
        stages: Mapping[str, int],
        leases: int,
        cached: int,
    ) -> None:
        """Set the gauges. ``stages`` names every stage, the empty ones too."""
        self._inbox.set(inbox)
        self._unsettled.set(unsettled)
        self._bound.set(bound)
        self._drain.set(drain)
        self._refused.set(refused)
        self._oldest.set(oldest_s)
        self._connected.set(connected)
        self._clients.set(subscribers)
        self._leases.set(leases)
        self._cached.set(cached)
        for stage, batches in stages.items():
            self._stages.labels(stage=stage).set(batches)

    def text(self) -> str:
        """Prometheus text format 0.0.4."""
        return generate_latest(self._registry).decode()
