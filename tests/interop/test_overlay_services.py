"""LookupResolver, TopicBroadcaster and StorageDownloader of the official SDK against a running node."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from protocols.advertisement import build_token
from protocols.keys import PrivateKey
from protocols.uhrp import uhrp_url
from scripts.network import LocalNetwork, Node, get
from tests.e2e.test_network import wait_for
from tests.interop.sdk import Sdk, SdkError, install, started

pytestmark = pytest.mark.slow

WALLET = "a1" * 32
HOST = PrivateKey.from_bytes(b"\7" * 32)


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdk]:
    with started(install(tmp_path_factory.mktemp("sdk"))) as running:
        yield running


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    directory = tmp_path_factory.mktemp("services")
    directory.chmod(0o755)
    settings = {"event_consensus_required": False}
    with LocalNetwork(directory, 1, name="services", settings=settings) as running:
        node = running.nodes[0]
        source = {"sourceId": "s1", "name": "One", "sourceType": "webhook"}
        httpx.post(f"{node.url}/overlay/sources", json=source, auth=node.operator).raise_for_status()
        events = [{"externalId": f"e{n}", "eventType": "reading", "data": {"value": n}} for n in range(20)]
        body = {"sourceId": "s1", "events": events, "processingOptions": {"consensusLevel": "basic"}}
        httpx.post(f"{node.url}/overlay/events/ingest", json=body).raise_for_status()
        wait_for(lambda: get(node, "/overlay/stats")["certified"] == 20, 30, "certification")
        yield node


def lookup(sdk: Sdk, node: Node, service: str, query: Any) -> Any:
    return sdk("lookup", question={"service": service, "query": query}, trackers=[node.url])


def texts(output: dict[str, Any]) -> list[str]:
    """Word, URL and name of a SHIP or SLAP token."""
    word, _, url, name, _ = (bytes.fromhex(field) for field in output["fields"])
    return [word.decode(), url.decode(), name.decode()]


def test_services_are_found_by_slap(sdk: Sdk, node: Node) -> None:
    for service in ("ls_ship", "ls_slap", "ls_uhrp", "ls_event_certificates"):
        answer = lookup(sdk, node, "ls_slap", {"service": service})
        assert ["SLAP", node.url, service] in [texts(output) for output in answer["outputs"]]


def test_topics_are_found_by_ship_through_slap(sdk: Sdk, node: Node) -> None:
    topics = ["tm_ship", "tm_event_certificates", "tm_gitdata_events_certified"]
    answer = lookup(sdk, node, "ls_ship", {"topics": topics})
    assert answer["type"] == "output-list"
    assert {texts(output)[2] for output in answer["outputs"]} == set(topics)


def test_a_broadcast_is_acknowledged_once_and_again(sdk: Sdk, node: Node) -> None:
    token = build_token(HOST, "SHIP", "https://host.example", "tm_birds")
    made = sdk("fund", key=WALLET, scripts=[token.hex()], satoshis=1)
    for _ in range(2):
        answer = sdk("broadcast", beef=made["beef"], topics=["tm_ship"], trackers=[node.url])
        assert (answer["status"], answer.get("txid")) == ("success", made["txid"])
    found = lookup(sdk, node, "ls_ship", {"topics": ["tm_birds"]})
    assert [(output["txid"], output["outputIndex"]) for output in found["outputs"]] == [(made["txid"], 0)]


def test_what_is_inadmissible_is_no_success(sdk: Sdk, node: Node) -> None:
    token = build_token(HOST, "SHIP", "https://host.example", "tm_fish")
    broken = token[:-20] + bytes([token[-20] ^ 1]) + token[-19:]
    made = sdk("fund", key=WALLET, scripts=[broken.hex()], satoshis=1)
    assert sdk("broadcast", beef=made["beef"], topics=["tm_ship"], trackers=[node.url])["status"] == "error"


def test_a_certificate_is_looked_up_by_event(sdk: Sdk, node: Node) -> None:
    event = get(node, "/overlay/events?externalId=e7&sourceId=s1")["events"][0]
    answer = lookup(sdk, node, "ls_event_certificates", {"eventId": event["eventId"]})
    document = json.loads(bytes.fromhex(answer["outputs"][0]["context"]))
    assert document == get(node, f"/overlay/events/{event['eventId']}/certificate")


def test_a_batch_is_downloaded_and_its_hash_holds(sdk: Sdk, node: Node) -> None:
    event = get(node, "/overlay/events?externalId=e7&sourceId=s1")["events"][0]
    batch = get(node, f"/overlay/batches/{event['batchId']}")
    url = batch["objects"]["payload"]
    found = sdk("download", url=url, trackers=[node.url])
    data = bytes.fromhex(found["hex"])
    assert uhrp_url(hashlib.sha256(data).digest()) == url
    assert [json.loads(line)["externalId"] for line in data.split(b"\n")].count("e7") == 1


def test_what_nobody_holds_is_not_found(sdk: Sdk, node: Node) -> None:
    with pytest.raises(SdkError):
        sdk("download", url=uhrp_url(hashlib.sha256(b"nowhere").digest()), trackers=[node.url])
