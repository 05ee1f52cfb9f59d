"""Joining when those named to join through are down."""

import time
from pathlib import Path
from typing import Any

import pytest

from scripts.network import LocalNetwork, Node, get

pytestmark = pytest.mark.slow

SETTINGS = {"event_parallel_workers": 1}


def connected(node: Node) -> set[str]:
    peers: list[dict[str, Any]] = get(node, "/overlay/peers")["peers"]
    return {peer["agentId"] for peer in peers if peer["connected"]}


def wait_connected(node: Node, other: Node, timeout_s: float = 30.0) -> None:
    identity = get(other, "/overlay/node")["agentId"]
    deadline = time.monotonic() + timeout_s
    while identity not in connected(node):
        assert time.monotonic() < deadline, f"not connected after {timeout_s:.0f} s: {connected(node)}"
        time.sleep(0.2)


def test_a_node_rejoins_through_remembered_peers_when_its_bootstrap_is_down(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    dead = {"overlay_bootstrap": ["/ip4/127.0.0.1/tcp/9", "/ip4/127.0.0.1/tcp/1"]}  # nobody listens there, ever
    with LocalNetwork(tmp_path, 3, settings=SETTINGS) as network:
        first, second, third = network.nodes
        network.wait_agents()
        wait_connected(third, second)
        third.kill()
        text = third.config.read_text()
        named = next(line for line in text.splitlines() if line.startswith("overlay_bootstrap"))
        replaced = f"overlay_bootstrap = {dead['overlay_bootstrap']!r}".replace("'", '"')
        third.config.write_text(text.replace(named, replaced))
        first.kill()
        third.start()
        network.wait_ready(third)
        wait_connected(third, second)


def test_one_dead_bootstrap_of_several_holds_nobody_up(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    network = LocalNetwork(tmp_path, 2, settings=SETTINGS)
    first, second = network.nodes
    text = second.config.read_text()
    alive = f"/ip4/127.0.0.1/tcp/{first.p2p_port}"
    second.config.write_text(text.replace(f'["{alive}"]', f'["/ip4/127.0.0.1/tcp/9", "{alive}"]'))
    with network:
        network.wait_agents()
        wait_connected(second, first)
