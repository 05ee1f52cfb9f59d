"""The steady path: with live leases a batch takes no auction. Messages and bytes per batch and node, by kind.

Real nodes on this machine are warmed up until they hold leases; then batches are posted for a while, and what every
node counts as sent is taken before and after. Kinds that occur less than once a batch are renewals of leases,
advertisements and looks at logs: they go by time, not by batch.

    scripts/bench/run steady --nodes 4 --seconds 20
"""

import argparse
import json
import re
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx

from scripts.event_load import POLICY, Feed, register
from scripts.network import LocalNetwork, Node, get

BATCH = 500
PAUSE_S = 0.1
SAMPLE = re.compile(r"^overlay_(?:frames|frame_bytes)_total\{(?P<labels>[^}]*)\} (?P<value>\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
AUCTION = ("Announcement", "Bid", "Award")


def counted(node: Node) -> Counter[tuple[str, str]]:
    """(message or carrier, what) sent so far: frames by message, bytes by carrier."""
    found: Counter[tuple[str, str]] = Counter()
    for sample in SAMPLE.finditer(httpx.get(f"{node.url}/metrics", timeout=20).text):
        labels = dict(LABEL.findall(sample["labels"]))
        if labels["direction"] == "out":
            kind = (labels["message"], "frames") if "message" in labels else (labels["carrier"], "bytes")
            found[kind] += float(sample["value"])  # type: ignore[assignment]
    return found


def post(node: Node, feed: Feed, seconds: float) -> int:
    """Batches posted in that time."""
    posted, until = 0, time.monotonic() + seconds
    with httpx.Client(base_url=node.url, timeout=30) as http:
        while time.monotonic() < until:
            answer = http.post(
                "/overlay/events/ingest",
                content=feed.body(BATCH),
                headers={"Content-Type": "application/json", "Prefer": "return=minimal"},
            )
            answer.raise_for_status()
            posted += 1
            time.sleep(PAUSE_S)
    return posted


def settle(node: Node) -> None:
    while get(node, "/overlay/stats")["pending"]:
        time.sleep(0.1)
    time.sleep(3.0)  # confirmations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0)
    chosen = parser.parse_args()
    settings = {"event_batch_size": BATCH, "event_parallel_workers": 1}
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with LocalNetwork(Path(name), chosen.nodes, name="overlay-steady", settings=settings) as network:
            network.wait_agents()
            first, feed = network.nodes[0], Feed("STEADY")
            register(first, feed, json.loads(POLICY.read_text()))
            post(first, feed, 4.0)
            settle(first)
            before = [counted(node) for node in network.nodes]
            batches = post(first, feed, chosen.seconds)
            settle(first)
            spent = Counter[tuple[str, str]]()
            for node, earlier in zip(network.nodes, before, strict=True):
                spent += counted(node) - earlier
    print(f"{batches} batches of {BATCH} events, {chosen.nodes} nodes; per batch, the network and one node:")
    for (kind, what), number in sorted(spent.items(), key=lambda item: (item[0][1], -item[1])):
        print(f"  {kind:16} {what:7} {number / batches:12.2f} {number / batches / chosen.nodes:12.2f}")
    auctions = sum(spent[kind, "frames"] for kind in AUCTION)
    print(f"auction messages in all: {auctions:.0f} for {batches} batches (renewals of leases by time)")


if __name__ == "__main__":
    main()
