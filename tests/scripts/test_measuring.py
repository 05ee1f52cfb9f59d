"""The figures that benchmarks print are computed as they say."""

import math

from scripts.event_load import Offer, outcome, station
from scripts.measuring import Ends, Fate, total, weighted_quantile

STARTED_MS = 1_000_000.0
METRICS = {
    'overlay_frames_total{carrier="stream",direction="out",message="Bid"}': 3.0,
    'overlay_frames_total{carrier="gossip",direction="out",message="Bid"}': 4.0,
    'overlay_frames_total{carrier="stream",direction="in",message="Bid"}': 5.0,
    "overlay_frames_total_of_another": 7.0,
}


def fate(state: str, events: int, received: int, certified: int | None = None) -> Fate:
    start = int(STARTED_MS)
    return Fate(state, events, start + received, None if certified is None else start + certified)


def test_a_quantile_counts_every_event_of_a_batch() -> None:
    values = [(10.0, 1), (20.0, 98), (500.0, 1)]
    assert [weighted_quantile(values, share) for share in (0.01, 0.5, 0.99, 1.0)] == [10.0, 20.0, 20.0, 500.0]


def test_there_is_no_quantile_of_nothing() -> None:
    assert math.isnan(weighted_quantile([], 0.95))


def test_only_what_was_certified_while_events_were_offered_counts_for_the_rate() -> None:
    offer = Offer(posts=5, offered=500, accepted=400, seconds=2.0, started_ms=STARTED_MS, ended_ms=STARTED_MS + 2_000)
    fates = [
        fate("certified", 100, 0, 100),
        fate("certified", 100, 1_000, 1_900),
        fate("certified", 100, 1_990, 2_500),
        fate("dead", 60, 500),
        fate("pending", 40, 500),
    ]
    found = outcome(offer, Ends(fates=fates, batches=2, invalid=5))
    assert (found["offered_per_s"], found["accepted_per_s"], found["certified_per_s"]) == (250, 200, 100)
    assert (found["certified"], found["dead"], found["without_end"], found["not_accepted"]) == (300, 60, 40, 100)
    assert found["events_per_batch"] == 150
    assert found["certificate_ms"] == {"p50": 510, "p95": 900, "p99": 900}


def test_an_acknowledged_event_that_no_database_has_is_without_an_end() -> None:
    offer = Offer(posts=1, offered=100, accepted=100, seconds=1.0, ended_ms=STARTED_MS)
    found = outcome(offer, Ends(fates=[fate("certified", 60, 0, 10)], batches=1, invalid=0))
    assert found["without_end"] == 40


def test_a_metric_is_summed_over_the_rows_with_the_labels_asked_for() -> None:
    assert total(METRICS, "overlay_frames_total", direction="out") == 7.0
    assert total(METRICS, "overlay_frames_total", direction="out", carrier="gossip") == 4.0


def test_stations_differ_and_are_three_capital_letters() -> None:
    found = {station(number) for number in range(26**3)}
    assert len(found) == 26**3
    assert all(len(each) == 3 and each.isupper() for each in found)
