"""Functions of installed packages: the worked example, agents without it, and code that ends its worker."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripts.network import ROOT, LocalNetwork, Node, get

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "configs" / "examples" / "heat-index"
SETTINGS = {"event_parallel_workers": 1, "overlay_attempts_max": 2, "event_consensus_required": False}
FRAGILE = """
import os
import time

def fragile(value):
    if value == 666:
        os._exit(1)
    if value == 667:
        time.sleep(3600)
    return True
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the example installed as its README line says, and a package that breaks; on the path."""
    site = tmp_path / "site"
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "overlay_heat_index.py"):
        (source / name).write_bytes((EXAMPLE / name).read_bytes())
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(site), str(source)], check=True, capture_output=True)
    (site / "acme_fragile.py").write_text(FRAGILE)
    info = site / "acme_fragile-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-fragile\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[overlay_node.functions]\nacme.fragile = acme_fragile:fragile\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    return site


def register(node: Node, source: str, policy: Any) -> None:
    made = httpx.post(f"{node.url}/overlay/policies", json=policy, auth=node.operator, timeout=30)
    assert made.status_code == 201, made.text
    body = {"sourceId": source, "name": source, "sourceType": "webhook", "policyHash": made.json()["policyHash"]}
    answer = httpx.post(f"{node.url}/overlay/sources", json=body, auth=node.operator, timeout=30)
    assert answer.status_code == 201, answer.text


def post(node: Node, source: str, data: list[dict[str, Any]], level: str) -> list[str]:
    events = [{"externalId": f"e{index}", "eventType": "t", "data": each} for index, each in enumerate(data)]
    body = {"sourceId": source, "events": events, "processingOptions": {"consensusLevel": level}}
    answer = httpx.post(f"{node.url}/overlay/events/ingest", json=body, timeout=30)
    assert answer.status_code == 202, answer.text
    return [event["eventId"] for event in answer.json()["processedEvents"]]


def wait(condition: Callable[[], bool], seconds: float, why: Callable[[], Any]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.3)


def states(node: Node, ids: list[str]) -> list[str]:
    return [get(node, f"/overlay/events/{event_id}")["status"] for event_id in ids]


def test_the_example_runs_where_it_is_installed_and_only_there(
    tmp_path: Path, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    checked = subprocess.run(
        [sys.executable, "-m", "node", "policy", "check", str(EXAMPLE / "policy.yaml"), "--canonical"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    policy = json.loads(checked.stdout)
    assert (
        policy["functions"][0]["hash"] == hashlib.sha256((EXAMPLE / "overlay_heat_index.py").read_bytes()).hexdigest()
    )
    network = LocalNetwork(tmp_path, 4, settings=SETTINGS)
    *able, unable = network.nodes
    network.nodes = able
    with network:
        monkeypatch.delenv("PYTHONPATH")
        unable.start()
        network.nodes = [*able, unable]
        network.wait_ready(unable)
        network.wait_agents()
        refused = httpx.post(f"{unable.url}/overlay/policies", json=policy, auth=unable.operator, timeout=30)
        assert (refused.status_code, refused.json()["path"]) == (422, "/functions")
        assert "weather.heat_index 1.0.0" in refused.json()["detail"]
        register(able[0], "heat", policy)
        data = [{"temperature": temperature, "humidity": 60} for temperature in (20, 30, 35, 40)]
        ids = post(able[0], "heat", data, "enhanced")
        wait(lambda: states(able[0], ids) == ["certified"] * 4, 60, lambda: able[0].tail())
        issues = [get(able[0], f"/overlay/events/{event_id}")["issues"] for event_id in ids]
        assert [[issue["severity"] for issue in each] for each in issues] == [[], [], ["warning"], ["warning"]]


def test_events_that_end_their_worker_are_found_and_the_others_certified(tmp_path: Path, packages: Path) -> None:
    tmp_path.chmod(0o755)
    digest = hashlib.sha256((packages / "acme_fragile.py").read_bytes()).hexdigest()
    policy = {
        "functions": [{"name": "acme.fragile", "version": "1.0", "hash": digest}],
        "rules": [{"name": "fragile", "check": "acme.fragile(data.value)"}],
    }
    settings = {**SETTINGS, "event_processing_timeout_ms": 10_000}
    with LocalNetwork(tmp_path, 3, settings=settings) as network:
        first = network.nodes[0]
        network.wait_agents()
        register(first, "fragile", policy)
        values = [*range(20), 666, *range(20, 35), 667, *range(35, 40)]
        ids = post(first, "fragile", [{"value": value} for value in values], "enhanced")
        bad = [index for index, value in enumerate(values) if value in (666, 667)]
        expected = ["dead" if index in bad else "certified" for index in range(len(values))]
        wait(lambda: states(first, ids) == expected, 400, lambda: (states(first, ids), first.tail(30)))
        stats = get(first, "/overlay/stats")
        assert (stats["certified"], stats["dead"]) == (40, 2)
        letters = httpx.get(f"{first.url}/overlay/dead-letters", auth=first.operator, timeout=30).json()[
            "deadLetters"
        ]
        (letter,) = letters
        assert letter["events"] == 2
        assert "of its events end every worker" in letter["reasons"][-1]
        # the workers are there for everybody else
        register(first, "calm", {"required": ["value"]})
        calm = post(first, "calm", [{"value": 1}], "enhanced")
        wait(lambda: states(first, calm) == ["certified"], 60, lambda: first.tail())
