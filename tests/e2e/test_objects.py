"""Objects of real nodes: what only one has, all serve; and a certificate is checked as its page says."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.coordination.serialization import read_certificate
from protocols.certificate import verify_quorum
from protocols.uhrp import content_url
from scripts.network import LocalNetwork, Node, get
from tests.e2e.test_crashes import SETTINGS, settled
from tests.e2e.test_network import post
from tests.e2e.weather import register_all
from tests.interop.sdk import install
from tests.node.api.test_certificate_page import BROWSER, Page

pytestmark = pytest.mark.slow

NAME = "objects"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    """Three nodes; the first has certified a batch, of whose records the others keep nothing."""
    directory = tmp_path_factory.mktemp("objects")
    directory.chmod(0o755)
    with LocalNetwork(directory, 3, name=NAME, settings=SETTINGS) as running:
        running.wait_agents()
        register_all(running)
        post(running, 0, "EWR", 100)
        settled(running)
        yield running


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def has(node: Node, url: str) -> bool:
    """Whether an object is there, before others are asked."""
    return httpx.get(f"{node.url}/uhrp/{url}?local=true").status_code == 200


def first_event(node: Node) -> dict[str, Any]:
    return dict(get(node, "/overlay/events?limit=1")["events"][0])


def test_a_node_serves_what_only_another_has(network: LocalNetwork) -> None:
    coordinator, other, third = network.nodes
    batch = get(coordinator, f"/overlay/batches/{first_event(coordinator)['batchId']}")
    certificate, payload = batch["objects"]["certificate"], batch["objects"]["payload"]
    until(lambda: has(other, certificate))  # it is sent to all who follow a topic of the batch
    assert not has(other, payload)
    for kind in ("certificate", "payload"):
        url = batch["objects"][kind]
        until(lambda: httpx.get(f"{other.url}/uhrp/{url}", timeout=30).status_code == 200)  # noqa: B023  # run at once
        answer = httpx.get(f"{other.url}/uhrp/{url}", timeout=30)
        assert content_url(answer.content) == url
        assert httpx.get(f"{coordinator.url}/uhrp/{url}").content == answer.content
        assert httpx.get(f"{other.url}/uhrp/{url}?local=true").content == answer.content
        if kind == "certificate":
            verify_quorum(read_certificate(answer.content), network=NAME)
    coordinator.kill()
    until(lambda: httpx.get(f"{third.url}/uhrp/{payload}", timeout=30).status_code == 200)  # of who fetched it
    network.nodes[0].start()
    network.wait_ready(coordinator)


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js and npm")
def test_the_script_on_the_page_checks_the_certificate(network: LocalNetwork, tmp_path: Path) -> None:
    """Taken out of the page as it is served, run as the page says, on the document that the page offers."""
    node = network.nodes[0]
    path = f"{node.url}/overlay/events/{first_event(node)['eventId']}/certificate"
    page = Page(httpx.get(path, headers=BROWSER).text)
    directory = install(tmp_path)
    (directory / "verify_certificate.mjs").write_text(page.script)
    document = httpx.get(f"{path}?format=json")
    for content, code in (
        (document.content, 0),
        (document.content.replace(b'"signature":"30', b'"signature":"31', 1), 1),
    ):
        (directory / "certificate.json").write_bytes(content)
        command = ["node", "verify_certificate.mjs", "certificate.json"]
        result = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60)
        assert result.returncode == code, result.stdout + result.stderr
        if code == 0:
            signed = [*document.json()["signatures"], *document.json()["evidence"]]
            steps = [[entry.get("step", "certification"), entry["identityKey"]] for entry in signed]
            assert [line.split() for line in result.stdout.splitlines()] == [["true", *each] for each in steps]
