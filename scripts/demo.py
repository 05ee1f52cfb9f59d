"""The main job: a network of nodes on this machine certifies a year of real weather, and proves it.

Run through ``scripts/demo``, which sets up what it needs. ``--keep`` leaves the network up, ``--nodes N`` runs
more nodes; earlier runs are forgotten.
"""

import argparse
import csv
import fcntl
import gzip
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import httpx
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from scripts.network import ROOT, LocalNetwork, Node, chunks, get

DATA = ROOT / "configs" / "samples" / "nyc-weather-2013.csv.gz"
POLICY = ROOT / "configs" / "policies" / "weather.json"
STATIONS = {"EWR": "Newark", "JFK": "New York JFK", "LGA": "LaGuardia"}
BATCH = 500
PATIENCE_S = 120.0
NUMBERS = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")


def source_id(station: str) -> str:
    return f"nyc-weather-{station.lower()}"


def readings() -> Iterator[tuple[str, dict[str, Any]]]:
    """(station, event) for every row; the sample's gaps (NA) stay gaps, as null."""
    with gzip.open(DATA, "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            data: dict[str, Any] = {"origin": row["origin"], "time_hour": row["time_hour"]}
            data |= {name: None if row[name] == "NA" else float(row[name]) for name in NUMBERS}
            yield (
                row["origin"],
                {
                    "externalId": f"{row['origin']}-{row['time_hour']}",
                    "eventType": "weather.observation",
                    "timestamp": row["time_hour"],
                    "data": data,
                },
            )


def register(node: Node, policy: dict[str, Any]) -> None:
    """Make the stations known to a node; a second run finds them there."""
    for station, name in STATIONS.items():
        body = {
            "sourceId": source_id(station),
            "name": f"Hourly weather, {name}",
            "sourceType": "webhook",
            "mappingPolicy": {key: policy[key] for key in ("mapping", "coercion", "required")},
            "validationRules": {
                key: value for key, value in policy.items() if key not in ("mapping", "coercion", "required")
            },
            "overlayTopics": ["gitdata.events.weather"],
        }
        response = httpx.post(f"{node.url}/overlay/sources", json=body, auth=node.operator, timeout=30)
        if response.status_code != 409:
            response.raise_for_status()


def plan(nodes: Sequence[Node]) -> list[tuple[Node, bytes]]:
    """The requests: each station's year in batches, dealt to all nodes in turn."""
    by_station: dict[str, list[dict[str, Any]]] = {station: [] for station in STATIONS}
    for station, event in readings():
        by_station[station].append(event)
    queues = [
        [(station, events_of_batch) for events_of_batch in chunks(events, BATCH)]
        for station, events in by_station.items()
    ]
    requests: list[tuple[Node, bytes]] = []
    for turn in itertools.zip_longest(*queues):  # the stations report side by side, as they do in life
        for station, events_of_batch in filter(None, turn):
            body = {
                "sourceId": source_id(station),
                "events": list(events_of_batch),
                "processingOptions": {"requireCertification": True, "consensusLevel": "enhanced"},
            }
            node = nodes[(len(requests) + len(requests) // len(queues)) % len(nodes)]
            requests.append((node, json.dumps(body).encode()))
    return requests


class Poster:
    """Posts to one node, one request after another, as a client with patience would."""

    def __init__(
        self, node: Node, bodies: Sequence[bytes], done: "Queue[tuple[Node, dict[str, Any]]]", pause_s: float
    ) -> None:
        self.thread = threading.Thread(target=self._run, args=(node, bodies, done, pause_s), daemon=True)
        self.error: Exception | None = None

    def _run(
        self, node: Node, bodies: Sequence[bytes], done: "Queue[tuple[Node, dict[str, Any]]]", pause_s: float
    ) -> None:
        headers = {"Content-Type": "application/json", "Prefer": "return=minimal"}
        try:
            with httpx.Client(base_url=node.url, headers=headers, timeout=60) as client:
                due = time.monotonic()
                for body in bodies:
                    time.sleep(max(0.0, due - time.monotonic()))
                    due += pause_s
                    done.put((node, _post(client, body)))
        except (httpx.HTTPError, RuntimeError) as error:
            self.error = error


def _post(client: httpx.Client, body: bytes) -> dict[str, Any]:
    while True:
        response = client.post("/overlay/events/ingest", content=body)
        if response.status_code != 429:
            break
        time.sleep(float(response.headers.get("Retry-After", "1")))
    if response.status_code != 202:
        raise RuntimeError(f"{response.status_code} from {response.url}: {response.text[:500]}")
    return dict(response.json())


def watch(
    console: Console, nodes: Sequence[Node], posters: Sequence[Poster], answers: "Queue[tuple[Node, Any]]", total: int
) -> Counter[str]:
    """Show the live figures until every acknowledged event is certified or invalid."""
    progress = Progress(
        TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    tasks = {name: progress.add_task(name, total=total) for name in ("acknowledged", "ended")}
    counted: Counter[str] = Counter()
    moved = time.monotonic()
    with Live(progress, console=console, refresh_per_second=5) as live:
        while True:
            before = dict(counted)
            _collect(answers, counted)
            stats = [get(node, "/overlay/stats") for node in nodes]
            counted |= {key: sum(each[key] for each in stats) for key in ("certified", "invalid", "dead")}
            ended = counted["certified"] + counted["invalid"] + counted["dead"]
            progress.update(tasks["acknowledged"], completed=counted["accepted"] + counted["duplicates"])
            progress.update(tasks["ended"], completed=ended)
            live.update(_panel(progress, counted, stats))
            for poster in posters:
                if poster.error is not None:
                    raise RuntimeError(f"posting failed: {poster.error}")
            if counted["accepted"] + counted["duplicates"] + counted["rejected"] >= total and ended >= total:
                return counted
            if before != dict(counted):
                moved = time.monotonic()
            if time.monotonic() - moved > PATIENCE_S:
                raise RuntimeError(f"nothing moved for {PATIENCE_S:.0f} s: {dict(counted)}")
            time.sleep(0.2)


def _collect(answers: "Queue[tuple[Node, Any]]", counted: Counter[str]) -> None:
    while True:
        try:
            _, answer = answers.get_nowait()
        except Empty:
            return
        counted.update({key: answer["counts"][key] for key in ("accepted", "duplicates", "rejected")})


def _panel(progress: Progress, counted: Counter[str], stats: Sequence[dict[str, Any]]) -> Table:
    table = Table.grid()
    table.add_row(progress)
    latency = [each["latencyMs"] for each in stats if each["latencyMs"]["p50"] is not None]
    worst = {key: max((each[key] for each in latency), default=0) for key in ("p50", "p95")}
    table.add_row(
        f"{counted['accepted']:,} acknowledged, {counted['certified']:,} certified, {counted['invalid']:,} invalid; "
        f"to certificate P50 {worst['p50']:,.0f} ms, P95 {worst['p95']:,.0f} ms"
    )
    return table


def summarise(console: Console, nodes: Sequence[Node], counted: Counter[str], took_s: float) -> None:
    """Every number from the nodes' own databases, and the sums that must hold."""
    stats = [get(node, "/overlay/stats") for node in nodes]
    table = Table(title="Events by the node that took them in", title_justify="left")
    for column in ("node", "acknowledged", "certified", "invalid", "dead", "P50 ms", "P95 ms"):
        table.add_column(column, justify="left" if column == "node" else "right")
    for node, each in zip(nodes, stats, strict=True):
        events, latency = each, each["latencyMs"]
        if events["acknowledged"] != events["certified"] + events["invalid"]:
            raise RuntimeError(f"node-{node.index + 1}: the sums do not hold: {events}")
        row = [f"{events[key]:,}" for key in ("acknowledged", "certified", "invalid", "dead")]
        table.add_row(f"node-{node.index + 1}", *row, *(f"{latency[key] or 0:,.0f}" for key in ("p50", "p95")))
    console.print(table)
    total = sum(each["acknowledged"] for each in stats)
    levels: Counter[str] = Counter()
    for each in stats:
        levels.update(each["levels"])
    console.print(
        f"{total:,} acknowledged = {counted['certified']:,} certified + {counted['invalid']:,} invalid; "
        f"by level: {', '.join(f'{count:,} {level}' for level, count in sorted(levels.items()))}; "
        f"{counted['duplicates']:,} duplicates; {took_s:.1f} s"
    )
    _show_invalid(console, nodes)
    _show_agents(console, stats)


def _show_invalid(console: Console, nodes: Sequence[Node]) -> None:
    table = Table(title="Invalid events, and why", title_justify="left")
    for column in ("external id", "rule", "path", "found", "expected", "as sent"):
        table.add_column(column)
    sent_as = {field["to"]: field["from"] for field in json.loads(POLICY.read_text())["mapping"]["fields"]}
    for node in nodes:
        for event in get(node, "/overlay/events?status=invalid&limit=100")["events"]:
            for issue in event["issues"]:
                sent = sent_as.get(issue["path"].removeprefix("/"), "")
                shown = f"{sent} = {event['data'].get(sent)}" if sent else ""
                cells = (issue["rule"], issue["path"], json.dumps(issue["found"]), json.dumps(issue["expected"]))
                table.add_row(event["externalId"], *cells, shown)
    console.print(table)


def _show_agents(console: Console, stats: Sequence[dict[str, Any]]) -> None:
    work: Counter[tuple[str, str]] = Counter()
    dissent = 0
    for each in stats:
        dissent += each["dissent"]
        for entry in each["agents"]:
            work[entry["agentId"], entry["role"]] += entry["events"]
    table = Table(title="What the agents signed for (events)", title_justify="left")
    roles = ("normalize", "validate", "certify")
    for column in ("agent", *roles):
        table.add_column(column, justify="left" if column == "agent" else "right")
    for agent in sorted({agent for agent, _ in work}):
        table.add_row(f"{agent[:28]}…", *(f"{work[agent, role]:,}" for role in roles))
    console.print(table)
    console.print(f"dissent: {dissent or 'none'}")


def prove(console: Console, nodes: Sequence[Node], directory: Path) -> None:
    """Keep the certificate of the impossible wind and of one good reading; verify both with nothing but files."""
    wind = "EWR-2013-02-12T08:00:00Z"
    shown = 0
    for status in ("invalid", "certified"):
        for node in nodes:
            query = "&externalId=" + wind if status == "invalid" else ""
            found = get(node, f"/overlay/events?status={status}&limit=1{query}")["events"]
            if found:
                path = directory / f"{status}.certificate.json"
                path.write_bytes(httpx.get(f"{node.url}/overlay/events/{found[0]['eventId']}/certificate").content)
                _verify(console, path)
                shown += 1
                break
    if shown < 2:
        raise RuntimeError("no certificate to show of an invalid or a certified event")


def _verify(console: Console, path: Path) -> None:
    """A process of its own; where the system allows it, one without any network."""
    command = [sys.executable, "-m", "node", "verify", str(path)]
    without_network = ["unshare", "--net", "--map-root-user"]
    probe = shutil.which("unshare") and subprocess.run([*without_network, "true"], capture_output=True).returncode
    isolated = probe == 0
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DATABASE", "OVERLAY"))}
    result = subprocess.run(
        [*without_network, *command] if isolated else command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    where = "in a process without network" if isolated else "in a process of its own"
    console.print(f"\n[bold]overlay-node verify {path.name}[/bold], {where}:")
    console.print(result.stdout.rstrip() + result.stderr.rstrip(), highlight=False, markup=False, soft_wrap=True)
    if result.returncode != 0:
        raise RuntimeError(f"{path} does not verify")


def keep(console: Console, nodes: Sequence[Node]) -> None:
    """Leave the network up until Ctrl-C."""
    event = get(nodes[0], "/overlay/events?status=certified&limit=1")["events"][0]["eventId"]
    console.print("\nThe network stays up until Ctrl-C:")
    for node in nodes:
        console.print(f"  node-{node.index + 1}  {node.url}  (API page: {node.url}/docs)", highlight=False)
    console.print("Try:")
    for line in (
        f"curl -s {nodes[0].url}/overlay/stats",
        f"curl -s {nodes[0].url}/overlay/events/{event}/certification",
        f"curl -N '{nodes[-1].url}/overlay/events/stream?minCertificationLevel=enhanced'",
    ):
        console.print("  " + line, highlight=False, soft_wrap=True)
    signal.pause()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--nodes", type=int, default=3, help="how many nodes (default 3, at least 2)")
    parser.add_argument("--rate", type=int, default=5_000, help="events a second in all (default 5000; 0: flat out)")
    parser.add_argument("--keep", action="store_true", help="leave the network up until Ctrl-C")
    parser.add_argument(
        "--port", type=int, default=8080, help="HTTP port of the first node (default 8080; others where it is taken)"
    )
    parser.add_argument(
        "--dir", type=Path, default=ROOT / "var" / "demo", help="where keys, databases and logs go; emptied first"
    )
    chosen = parser.parse_args()
    if chosen.rate < 0:
        parser.error("--rate must be 0 or more")
    if not 2 <= chosen.nodes <= 16:
        parser.error("--nodes takes 2 to 16: level enhanced wants two agents")
    return chosen


def main() -> int:
    chosen = arguments()
    console = Console(width=None if sys.stdout.isatty() else 132)
    chosen.dir.parent.mkdir(parents=True, exist_ok=True)
    with (chosen.dir.parent / f"{chosen.dir.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(
                f"[red]A demo is running in {chosen.dir}: stop it, or choose another place with --dir[/red]"
            )
            return 1
        shutil.rmtree(chosen.dir, ignore_errors=True)
        chosen.dir.mkdir()
        return show(console, chosen)


def show(console: Console, chosen: argparse.Namespace) -> int:
    """Run the demo in its directory. The exit code."""
    # Also where the shell started this in the background with the interrupt ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = {"event_batch_size": BATCH, "event_parallel_workers": 1, "log_format": "json"}
    try:
        console.print(f"Starting {chosen.nodes} nodes, each with its own key, database and ports ...")
        started = time.monotonic()
        database = os.environ.pop("DATABASE_URL", None)
        with LocalNetwork(
            chosen.dir, chosen.nodes, settings=settings, database_url=database, http_port=chosen.port
        ) as network:
            network.wait_agents()
            console.print(f"Ready after {time.monotonic() - started:.1f} s. Logs: {chosen.dir}/node-*/node.log")
            run(console, network, chosen.dir, chosen.rate)
            if chosen.keep:
                keep(console, network.nodes)
    except KeyboardInterrupt:
        console.print("\nStopped; every process it started has ended.")
        return 130
    except (RuntimeError, httpx.HTTPError) as error:
        console.print(f"[red]{error}[/red]")
        return 1
    return 0


def run(console: Console, network: LocalNetwork, directory: Path, rate: int) -> None:
    policy = json.loads(POLICY.read_text())
    for node in network.nodes:
        register(node, policy)
    requests = plan(network.nodes)
    total = sum(1 for _ in readings())
    console.print(f"Posting {total:,} readings of {len(STATIONS)} stations to {len(network.nodes)} nodes ...")
    answers: Queue[tuple[Node, Any]] = Queue()
    started = time.monotonic()
    pause_s = BATCH * len(network.nodes) / rate if rate else 0.0
    posters = [
        Poster(node, [body for to, body in requests if to is node], answers, pause_s) for node in network.nodes
    ]
    for poster in posters:
        poster.thread.start()
    counted = watch(console, network.nodes, posters, answers, total)
    console.print()
    summarise(console, network.nodes, counted, time.monotonic() - started)
    prove(console, network.nodes, directory)


if __name__ == "__main__":
    sys.exit(main())
