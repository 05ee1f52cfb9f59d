"""What must hold once the load is over and everything has settled; read from the nodes' own interface."""

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

import attrs
import httpx

from protocols.verification import verify_document
from scripts.network import ROOT, Node, get
from tests.faults.feed import Feed
from tests.faults.load import Client

PAGE: Final = 1_000
SAMPLE: Final = 8  # certificates verified for each source, about
SHOWN_MAX: Final = 5


@attrs.define(kw_only=True)
class Findings:
    """What was read of a node: every problem in words, and when its batches were certified.

    Attributes:
        certified_s: Unix times of certificates, one for each batch.
        latencies_ms: From the commit to the certificate, one for each batch.
        verified: Certificates that were verified offline.
    """

    problems: list[str] = attrs.field(factory=list)
    events: Counter[str] = attrs.field(factory=Counter)
    certified_s: list[float] = attrs.field(factory=list)
    latencies_ms: list[float] = attrs.field(factory=list)
    verified: int = 0


def check_nodes(nodes: Sequence[Node], clients: Sequence[Client], network: str) -> list[Findings]:
    """Every event of every node against what its clients were told and what its reading must become."""
    found = [Findings() for _ in nodes]
    readers = [
        threading.Thread(target=_check_node, args=(node, [c for c in clients if c.share.node is node], network, into))
        for node, into in zip(nodes, found, strict=True)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return found


def _check_node(node: Node, clients: Sequence[Client], network: str, found: Findings) -> None:
    name = f"node-{node.index + 1}"
    batches: dict[str, tuple[float, float]] = {}
    dead: set[str] = set()
    try:
        for client in clients:
            problems, ids = _check_source(node, client, batches, dead, found.events)
            found.problems += [f"{name}: {problem}" for problem in problems]
            found.problems += [f"{name}: {problem}" for problem in _check_certificates(node, ids, network)]
            found.verified += len(ids)
        for batch_id in sorted(dead)[:SHOWN_MAX]:
            reasons = get(node, f"/overlay/batches/{batch_id}")["reasons"]
            found.problems.append(f"{name}: {batch_id} is dead: {'; '.join(reasons)}")
    except httpx.HTTPError as error:
        found.problems.append(f"{name} cannot be read: {error!r}")
    found.certified_s = [certified_s for _, certified_s in batches.values()]
    found.latencies_ms = [1_000 * (certified_s - received_s) for received_s, certified_s in batches.values()]


def _check_source(
    node: Node, client: Client, batches: dict[str, tuple[float, float]], dead: set[str], statuses: Counter[str]
) -> tuple[list[str], list[str]]:
    """Problems with a source's events, and the ids of some that are certified."""
    feed, wrong = client.share.feed, Counter[str]()
    examples: dict[str, str] = {}
    seen: Counter[str] = Counter()
    ids: list[str] = []
    for event in _events(node, feed.source_id):
        external_id = event["externalId"]
        seen[external_id] += 1
        statuses[event["status"]] += 1
        problem = _problem(feed, event)
        if problem:
            wrong[problem] += 1
            examples.setdefault(problem, external_id)
        if event["status"] == "dead":
            dead.add(event["batchId"])
        if event["certifiedAt"]:
            batches[event["batchId"]] = (_seconds(event["ingestedAt"]), _seconds(event["certifiedAt"]))
            ids.append(event["eventId"])
    problems = [f"{count} events of {feed.source_id}: {what}, as {examples[what]}" for what, count in wrong.items()]
    acknowledged = set(client.acknowledged)
    twice = [each for each, count in seen.items() if count > 1]
    for what, these in (
        ("acknowledged and not there", acknowledged - set(seen)),
        ("there and never acknowledged", set(seen) - acknowledged),
        ("there twice", set(twice)),
    ):
        if these:
            problems.append(f"{len(these)} events of {feed.source_id} {what}: {sorted(these)[:SHOWN_MAX]}")
    return problems, ids[:: max(1, len(ids) // SAMPLE)]


def _problem(feed: Feed, event: dict[str, Any]) -> str:
    try:
        expected = feed.expected(event["externalId"])
    except KeyError:
        return "never sent"
    if event["status"] != expected.status:
        return f"{event['status']} in place of {expected.status}"
    if event["version"] != 1:
        return f"in version {event['version']}"
    if event["data"] != expected.data:
        return "not the data that was sent"
    if event["normalizedData"] != expected.normalized:
        return "not normalized as it must be"
    return ""


def _events(node: Node, source_id: str) -> Iterator[dict[str, Any]]:
    after = ""
    with httpx.Client(base_url=node.url, timeout=60) as http:
        while True:
            answer = http.get(
                "/overlay/events", params={"sourceId": source_id, "limit": PAGE, "after": after}
            ).raise_for_status()
            page = answer.json()
            yield from page["events"]
            if page["nextAfter"] is None:
                return
            after = page["nextAfter"]


def _check_certificates(node: Node, event_ids: Sequence[str], network: str) -> Iterator[str]:
    for event_id in event_ids:
        document = httpx.get(f"{node.url}/overlay/events/{event_id}/certificate", timeout=30)
        report = verify_document(document.content, network=network)
        if not report.ok:
            yield f"the certificate of {event_id} does not verify: {report.failed}"


def check_with_command(nodes: Sequence[Node], clients: Sequence[Client], network: str) -> Iterator[str]:
    """One certificate of each node given to ``overlay-node verify``, as anybody would check it."""
    for node in nodes:
        source_ids = [client.share.feed.source_id for client in clients if client.share.node is node]
        with httpx.Client(base_url=node.url, timeout=30) as http:
            page = http.get("/overlay/events", params={"sourceId": source_ids[0], "limit": 1}).json()["events"]
            if not page:
                yield f"node-{node.index + 1} has no event of {source_ids[0]}"
                continue
            file = node.directory / "certificate.json"
            file.write_bytes(http.get(f"/overlay/events/{page[0]['eventId']}/certificate").content)
        command = [sys.executable, "-m", "node", "verify", str(file), "--network", network]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if result.returncode:
            yield f"node-{node.index + 1}: overlay-node verify: {result.stdout}{result.stderr}"


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def longest_gap(
    certified_s: Sequence[float], began_s: float, ended_s: float, excused: Sequence[tuple[float, float]] = ()
) -> tuple[float, float]:
    """(length, when it began after the start), in seconds: the longest time of the load without a certificate.

    Args:
        excused: Times that do not count, as (from, to) after the start, apart from each other.
    """
    times = sorted(moment - began_s for moment in certified_s if began_s < moment < ended_s)

    def counted(earlier: float, later: float) -> float:
        return later - earlier - sum(max(0.0, min(later, to) - max(earlier, since)) for since, to in excused)

    return max((counted(*gap), gap[0]) for gap in pairwise([0.0, *times, ended_s - began_s]))


def first_after(certified_s: Sequence[float], moment_s: float) -> float | None:
    """Seconds from a moment to the first certificate after it; None where there is none."""
    return min((each - moment_s for each in certified_s if each > moment_s), default=None)


def at_once(spans: Sequence[tuple[int, float, float]], least: int) -> list[tuple[float, float]]:
    """When so many different nodes were under a fault, as (from, to). ``spans``: (node, from, to)."""
    moments = sorted({moment for _, since, to in spans for moment in (since, to)})
    return [
        (earlier, later)
        for earlier, later in pairwise(moments)
        if len({node for node, since, to in spans if since <= earlier and later <= to}) >= least
    ]


@attrs.frozen(kw_only=True)
class Standing:
    """What an honest node thinks of a faulty agent."""

    observer: Node
    validate: int
    overall: int
    dissented: int
    proofs: int


def standing(observer: Node, identity: str) -> Standing:
    agent = get(observer, f"/overlay/agents/{identity}")
    validate = agent["byRole"].get("validate", {})
    return Standing(
        observer=observer,
        validate=validate.get("reputation", agent["reputation"]),
        overall=agent["reputation"],
        dissented=sum(each["dissented"] for each in agent["byRole"].values()),
        proofs=len(agent["proofs"]),
    )


def minimum_reputation(node: Node) -> int:
    """What the template in use asks of validators at level enhanced."""
    for template in get(node, "/overlay/job-templates")["templates"]:
        if template["jobType"] == "validate" and template["outputRequirements"]["certificationLevel"] == "enhanced":
            return int(template["agentRequirements"]["minimumReputation"])
    raise RuntimeError("no template for validate at level enhanced")


def wait_until(condition: Callable[[], bool], seconds: float, pause_s: float = 0.3) -> bool:
    deadline_s = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(pause_s)
    return True
