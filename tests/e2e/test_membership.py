"""A network of certified nodes, and one that somebody else certified."""

import base64
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from node.runtime.keyring import load_key
from scripts.network import ROOT, LocalNetwork, Node, get
from tests.e2e.test_joining import connected
from tests.e2e.weather import Client, batches_of, register_all

pytestmark = pytest.mark.slow

TYPE = base64.b64encode(b"a member of the weather network!").decode()


def overlay_node(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "node", *arguments], cwd=ROOT, check=True, capture_output=True)
    return done.stdout.decode().strip()


def identity_of(node: Node) -> bytes:
    return load_key(node.directory / "identity.key").identity


def certify(node: Node, certifier: Path) -> None:
    """The certifier's word on a node's key, made with the node's own command."""
    identity = identity_of(node).hex()
    certificate = overlay_node("certify-member", identity, "--key", str(certifier), "--type", TYPE)
    file = node.directory / "member.json"
    file.write_text(certificate)
    with node.config.open("a") as config:
        config.write(f"overlay_member_certificate = {json.dumps(str(file))}\n")


def test_those_whom_the_certifier_certified_work_together_and_nobody_hears_the_rest(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    certifier, somebody = tmp_path / "certifier.key", tmp_path / "somebody.key"
    identity, other = (overlay_node("keygen", "--out", str(file)) for file in (certifier, somebody))
    settings = {
        "event_parallel_workers": 1,
        "overlay_membership": "certified",
        "overlay_member_certifiers": [f"{identity}:{TYPE}"],
    }
    trusting = {"overlay_member_certifiers": [f"{identity}:{TYPE}", f"{other}:{TYPE}"]}  # it takes its own for good
    network = LocalNetwork(tmp_path, 4, settings=settings, per_node=[{}, {}, {}, trusting])
    *members, stranger = network.nodes
    for node in members:
        certify(node, certifier)
    certify(stranger, somebody)
    network.nodes = members
    with network:
        network.wait_agents()
        stranger.start()
        try:
            deadline = time.monotonic() + 30
            while len(get_or_none(stranger)) < len(members):
                assert time.monotonic() < deadline, f"{stranger.tail()}"
                time.sleep(0.2)
            register_all(network)
            client = Client(members[0], batches_of(("EWR", "JFK"), 400), 0.05)
            client.start()
            client.join(120)
            assert client.error is None
            deadline = time.monotonic() + 60
            while get(members[0], "/overlay/stats")["certified"] < 300:
                assert time.monotonic() < deadline, members[0].tail()
                time.sleep(0.2)
            name = f"agent_{identity_of(stranger).hex()}"
            for node in members:
                agents = {agent["agentId"] for agent in get(node, "/overlay/agents")["agents"]}
                assert agents == {f"agent_{identity_of(each).hex()}" for each in members}
                assert "peer.not_a_member" in node.log.read_text()
            assert name not in json.dumps(get(members[0], "/overlay/stats"))
            assert "not-a-member" in stranger.log.read_text(), "it can read why nobody answers"
        finally:
            stranger.kill()


def get_or_none(node: Node) -> set[str]:
    try:
        return connected(node)
    except OSError:
        return set()
    except Exception as error:  # noqa: BLE001  # httpx's own, while it starts
        assert "httpx" in type(error).__module__, error  # noqa: PT017
        return set()
