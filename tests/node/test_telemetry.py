"""Logs as lines that machines read, libraries included and held back; metrics as Prometheus text."""

import datetime
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from node.delivery.feed import FeedStats
from node.delivery.webhook_manager import WebhookStats
from node.sources.documents import SourceState
from node.sources.status import SourceStatus
from node.telemetry import Metrics, RateLimit, configure_logging
from protocols.errors import WorldFault
from storage.disk import Room

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What was logged, as JSON, with logging put back as it was afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    quiet = logging.getLogger("libp2p")
    before = (quiet.level, quiet.propagate)
    stream = io.StringIO()
    configure_logging("info", "json", node="node-7", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)
    quiet.level, quiet.propagate = before
    logging.captureWarnings(False)
    structlog.reset_defaults()


def test_a_line_says_when_who_where_and_what(lines: Lines) -> None:
    structlog.get_logger("node.network.sender").info("frame.sent", peer="02ab", size=5)
    (line,) = lines()
    moment = datetime.datetime.fromisoformat(line.pop("timestamp"))
    assert moment.utcoffset() == datetime.timedelta(0)
    assert abs(datetime.datetime.now(datetime.UTC) - moment) < datetime.timedelta(minutes=1)
    assert line == {
        "event": "frame.sent",
        "level": "info",
        "logger": "node.network.sender",
        "node": "node-7",
        "peer": "02ab",
        "size": 5,
    }


def test_what_is_bound_to_a_task_is_in_every_line_of_ours_and_of_libraries(lines: Lines) -> None:
    with structlog.contextvars.bound_contextvars(batch="batch_1"):
        structlog.get_logger("node.runtime.workers").warning("workers.crashed")
        logging.getLogger("hypercorn.error").warning("odd")
    structlog.get_logger("node.runtime.workers").warning("workers.crashed")
    assert [line.get("batch") for line in lines()] == ["batch_1", "batch_1", None]


def test_lines_below_the_level_are_left_out(lines: Lines) -> None:
    log = structlog.get_logger("node.network.sender")
    log.debug("quiet")
    log.warning("loud")
    assert [line["event"] for line in lines()] == ["loud"]


def test_an_error_group_is_in_the_line_whole(lines: Lines) -> None:
    group = ExceptionGroup("both", [WorldFault("no disk"), OSError("no net")])
    structlog.get_logger("node.runtime.supervisor").warning("component.restarting", exc_info=group)
    (line,) = lines()
    assert "no disk" in line["exception"]
    assert "no net" in line["exception"]


def test_libraries_are_routed_in_and_the_network_speaks_from_warning(lines: Lines) -> None:
    logging.getLogger("hypercorn.error").info("Running on %s", "here")
    logging.getLogger("libp2p.network.swarm").info("chatter")
    logging.getLogger("libp2p.network.swarm").warning("dial failed")
    found = [(line["logger"], line["event"], line["node"]) for line in lines()]
    assert found == [
        ("hypercorn.error", "Running on here", "node-7"),
        ("libp2p.network.swarm", "dial failed", "node-7"),
    ]


def test_a_library_that_set_up_its_own_logging_is_routed_in_too() -> None:
    own = logging.getLogger("libp2p.pubsub.own")
    own.addHandler(logging.NullHandler())
    own.setLevel(logging.DEBUG)
    own.propagate = False
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        configure_logging("info", "json", node="n", stream=stream)
        own.info("chatter")
        own.warning("trouble")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["trouble"]


def test_a_flood_from_one_place_is_held_back_and_others_are_not(lines: Lines) -> None:
    for attempt in range(1_000):
        logging.getLogger("libp2p.stream_muxer.yamux").error(f"peer {attempt} is dead")
    logging.getLogger("libp2p.stream_muxer.yamux").error("another place")
    for _ in range(20):
        structlog.get_logger("node.network.sender").warning("ours are never held back")
    events = [line["event"] for line in lines()]
    assert sum("is dead" in event for event in events) == 5
    assert events.count("another place") == 1
    assert events.count("ours are never held back") == 20


def test_the_next_window_says_how_many_were_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("node.telemetry.time.monotonic", lambda: now)
    limit = RateLimit(burst=2, window_s=60)

    def passes() -> logging.LogRecord | None:
        record = logging.LogRecord("libp2p.x", logging.ERROR, "x.py", 3, "m", None, None)
        return record if limit.filter(record) else None

    assert [passes() is not None for _ in range(5)] == [True, True, False, False, False]
    now = 61.0
    again = passes()
    assert again is not None
    assert again.__dict__["left_out"] == 3


def samples(metrics: Metrics) -> dict[str, float]:
    return {
        sample.name + "".join(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.text())
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_metrics_say_what_happened() -> None:
    metrics = Metrics()
    metrics.admitted({"accepted": 5, "duplicates": 2, "rejected": 1, "versions": 0}, 0.02)
    metrics.sealed(valid=4, invalid=1, seconds=1.5)
    metrics.marked_dead(3)
    metrics.role_ran(0.25)
    metrics.judged("dissented")
    metrics.sent("gossip", "Announcement", 300)
    metrics.received("stream", "WorkResult", 500)
    metrics.received("stream", "WorkResult", 600)
    metrics.worked({"node": 0.5, "roles": 1.5})
    metrics.worked({"node": 0.25})
    metrics.peer_fault("bad-signature")
    metrics.looked_up("normalization", True)
    metrics.looked_up("certification", False)
    stages = {"processing": 5, "dead": 0}
    metrics.observe(
        inbox=1,
        unsettled=2,
        bound=20,
        drain=10.5,
        refused=8,
        oldest_s=2.5,
        connected=3,
        subscribers=4,
        stages=stages,
        leases=6,
        cached=7,
    )
    found = samples(metrics)
    expected = {
        "overlay_events_acknowledged_total": 5,
        "overlay_events_duplicates_total": 2,
        "overlay_events_rejected_total": 1,
        "overlay_events_certified_total": 4,
        "overlay_events_invalid_total": 1,
        "overlay_events_dead_total": 3,
        "overlay_role_runs_total": 1,
        "overlay_role_cpu_seconds_total": 0.25,
        "overlay_agent_outcomes_totaldissented": 1,
        "overlay_frames_totalgossipoutAnnouncement": 1,
        "overlay_frames_totalstreaminWorkResult": 2,
        "overlay_frame_bytes_totalgossipout": 300,
        "overlay_frame_bytes_totalstreamin": 1_100,
        "overlay_processor_seconds_totalnode": 0.75,
        "overlay_processor_seconds_totalroles": 1.5,
        "overlay_peer_faults_totalbad-signature": 1,
        "overlay_driver_inbox": 1,
        "overlay_events_unsettled": 2,
        "overlay_events_unsettled_bound": 20,
        "overlay_drain_events_per_second": 10.5,
        "overlay_requests_refused": 8,
        "overlay_events_oldest_unsettled_seconds": 2.5,
        "overlay_peers_connected": 3,
        "overlay_stream_clients": 4,
        "overlay_batchesprocessing": 5,
        "overlay_batchesdead": 0,
        "overlay_leases": 6,
        "overlay_processing_cache_bytes": 7,
        "overlay_processing_cache_lookups_totalhitnormalization": 1,
        "overlay_processing_cache_lookups_totalmisscertification": 1,
        "overlay_acknowledgement_seconds_sum": 0.02,
        "overlay_certificate_seconds_count": 1,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["process_resident_memory_bytes"] > 10_000_000
    assert found["process_cpu_seconds_total"] > 0


def test_two_nodes_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.marked_dead(3)
    assert samples(other)["overlay_events_dead_total"] == 0


def test_sources_are_shown_as_they_are_when_they_are_asked_for() -> None:
    metrics, states = Metrics(), dict[str, SourceState]()
    metrics.watch_sources(lambda: states)
    assert not any(name.startswith("overlay_source") for name in samples(metrics))
    status = SourceStatus(state="running", lag=7, errors=2, accepted=10, duplicates=1, rejected=3)
    states["farm"] = status.document()
    states["gone"] = SourceStatus(state="failing", errors=2).document()
    found = samples(metrics)
    assert (found["overlay_source_upfarm"], found["overlay_source_upgone"]) == (1, 0)
    assert found["overlay_source_lagfarm"] == 7
    assert "overlay_source_laggone" not in found
    assert found["overlay_source_errors_totalfarm"] == 2
    assert found["overlay_source_events_totalacceptedfarm"] == 10


def test_delivery_is_shown_as_it_is_when_it_is_asked_for() -> None:
    metrics = Metrics()
    feed = FeedStats(subscriptions=4, events=70, cut_off=1, serialised=70, evaluated=0)
    webhooks = WebhookStats(active=5, failing=2, deliveries=40, failures=9)
    metrics.watch_delivery(lambda: feed, lambda: webhooks)
    found = samples(metrics)
    assert (found["overlay_feed_events_total"], found["overlay_stream_cut_off_total"]) == (70, 1)
    assert (found["overlay_webhook_receiversdelivering"], found["overlay_webhook_receiversfailing"]) == (3, 2)
    assert found["overlay_webhook_deliveries_totaltaken"] == 40
    assert found["overlay_webhook_deliveries_totalfailed"] == 9


def test_every_condition_is_shown_whether_it_holds_or_not() -> None:
    metrics, room = Metrics(), None
    held = {"disk-low": False, "no-peers": True}
    metrics.watch_conditions(lambda: held, lambda: room)
    found = samples(metrics)
    assert (found["overlay_conditiondisk-low"], found["overlay_conditionno-peers"]) == (0, 1)
    assert "overlay_disk_free_bytes" not in found, "the disk is another machine's"
    room = Room(free_bytes=5, reserved_bytes=7)
    found = samples(metrics)
    assert (found["overlay_disk_free_bytes"], found["overlay_disk_reserved_bytes"]) == (5, 7)


def test_the_names_of_metrics_are_an_interface() -> None:
    """Dashboards and alerts of operators are written with these names: none may go or change."""
    metrics = Metrics()
    metrics.watch_sources(dict)
    metrics.watch_quarantine(lambda: {"frame": 1})
    metrics.watch_conditions(lambda: {"disk-low": True}, lambda: Room(free_bytes=1, reserved_bytes=2))
    feed = FeedStats(subscriptions=0, events=0, cut_off=0, serialised=0, evaluated=0)
    metrics.watch_delivery(lambda: feed, lambda: WebhookStats(active=0, failing=0, deliveries=0, failures=0))
    kinds = {
        family.name: family.type
        for family in text_string_to_metric_families(metrics.text())
        if family.name.startswith("overlay_")
    }
    counters = """agent_outcomes events_acknowledged events_certified events_dead events_duplicates events_invalid
        events_rejected feed_events frame_bytes frames peer_faults processing_cache_lookups processor_seconds
        quarantined role_cpu_seconds role_runs source_errors source_events stream_cut_off webhook_deliveries"""
    gauges = """batches condition disk_free_bytes disk_reserved_bytes drain_events_per_second driver_inbox
        events_oldest_unsettled_seconds events_unsettled events_unsettled_bound leases peers_connected
        processing_cache_bytes requests_refused source_lag
        source_up stream_clients webhook_receivers"""
    expected = {
        **{f"overlay_{name}": "counter" for name in counters.split()},
        **{f"overlay_{name}": "gauge" for name in gauges.split()},
        "overlay_acknowledgement_seconds": "histogram",
        "overlay_certificate_seconds": "histogram",
    }
    assert {name: kind for name, kind in kinds.items() if name in expected} == expected
    created = {f"{name}_created" for name in expected}
    assert kinds.keys() - expected.keys() <= created


def test_every_metric_says_what_it_counts() -> None:
    for family in text_string_to_metric_families(Metrics().text()):
        assert family.documentation, family.name


def test_the_console_format_is_text_for_people() -> None:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    try:
        configure_logging("info", "console", node="node-7", stream=stream)
        structlog.get_logger("node.app").info("node.ready", url="http://here")
        try:
            raise ValueError("broken")
        except ValueError:
            structlog.get_logger("node.app").warning("node.failed", exc_info=True)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    text = stream.getvalue()
    assert "node.ready" in text.splitlines()[0]
    assert "url=http://here" in text
    assert "ValueError: broken" in text
    assert not text.startswith("{")


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_that_is_set_decides_what_is_logged(level: str, shown: list[str]) -> None:
    root = logging.getLogger()
    handlers, before = list(root.handlers), root.level
    stream = io.StringIO()
    try:
        configure_logging(level, "json", node="n", stream=stream)
        log = structlog.get_logger("node.levels")
        for each in ("debug", "info", "warning", "error"):
            getattr(log, each)(each)
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)
        structlog.reset_defaults()
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == shown
