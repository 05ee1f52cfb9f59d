"""AuthFetch of the official SDK, unmodified, against a running node: every call with a timeout, for it has none."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from protocols.keys import PrivateKey
from scripts.network import LocalNetwork, Node
from tests.interop.sdk import Sdk, SdkError, install, started

pytestmark = pytest.mark.slow

CERTIFIER, MEMBER, STRANGER, OTHER_CERTIFIER = ("c1" * 32, "a1" * 32, "b1" * 32, "d1" * 32)
TYPE = base64.b64encode(b"membership".ljust(32, b".")).decode()
JSON = {"Content-Type": "application/json"}


def identity(key: str) -> str:
    return PrivateKey.from_bytes(bytes.fromhex(key)).identity.hex()


@pytest.fixture(scope="module")
def sdk_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("sdk"))


@pytest.fixture
def sdk(sdk_directory: Path) -> Iterator[Sdk]:
    with started(sdk_directory) as running:
        yield running


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    directory = tmp_path_factory.mktemp("authenticated")
    directory.chmod(0o755)
    settings = {
        "event_consensus_required": False,
        "event_identity_verification_required": True,
        "overlay_public_reads": ["events", "sources"],
        "overlay_certifiers": [f"{identity(CERTIFIER)}:{TYPE}:reader:role"],
    }
    with LocalNetwork(directory, 1, name="authenticated", settings=settings) as running:
        source = {"sourceId": "s1", "name": "One", "sourceType": "webhook"}
        bound = {**source, "sourceId": "bound", "identityKey": identity(MEMBER)}
        for document in (source, bound):
            node = running.nodes[0]
            httpx.post(f"{node.url}/overlay/sources", json=document, auth=node.operator).raise_for_status()
        yield running


@pytest.fixture
def node(network: LocalNetwork) -> Node:
    return network.nodes[0]


def ingest(source: str, external_id: str) -> dict[str, Any]:
    event = {"externalId": external_id, "eventType": "reading", "data": {"value": 1}}
    body = json.dumps({"sourceId": source, "events": [event]}, separators=(",", ":"))
    return {"method": "POST", "headers": JSON, "body": body}


def fetch(sdk: Sdk, node: Node, path: str, key: str = MEMBER, **config: Any) -> Any:
    return sdk("fetch", client=key, key=key, url=node.url + path, config=config)


def test_a_get_proves_who_calls(sdk: Sdk, node: Node) -> None:
    for _ in range(2):  # with a new session, and in it
        answer = fetch(sdk, node, "/overlay/caller")
        assert answer["status"] == 200
        assert json.loads(answer["body"]) == {"identityKey": identity(MEMBER), "form": "session", "roles": []}
    assert answer["headers"]["x-bsv-auth-identity-key"] == httpx.get(f"{node.url}/overlay/node").json()["identityKey"]


def test_a_query_is_signed_as_it_stands_on_the_wire(sdk: Sdk, node: Node) -> None:
    answer = fetch(sdk, node, "/overlay/events?sourceId=s%31&limit=5&externalId=a%20b%C3%A4")
    assert answer["status"] == 200
    assert json.loads(answer["body"])["events"] == []


def test_a_post_with_a_body_is_taken(sdk: Sdk, node: Node) -> None:
    answer = fetch(sdk, node, "/overlay/events/ingest", **ingest("s1", "e1"))
    assert answer["status"] == 202
    assert json.loads(answer["body"])["counts"]["accepted"] == 1


def test_a_source_that_is_bound_takes_events_of_its_identity_alone(sdk: Sdk, node: Node) -> None:
    assert fetch(sdk, node, "/overlay/events/ingest", **ingest("bound", "e1"))["status"] == 202
    refused = fetch(sdk, node, "/overlay/events/ingest", STRANGER, **ingest("bound", "e2"))
    assert refused["status"] == 403
    assert json.loads(refused["body"])["type"] == "urn:overlay:problem:source-bound"


def test_errors_come_back_signed(sdk: Sdk, node: Node) -> None:
    missing = fetch(sdk, node, "/overlay/events/event_nobody")
    assert (missing["status"], json.loads(missing["body"])["type"]) == (404, "urn:overlay:problem:unknown-event")
    nowhere = fetch(sdk, node, "/nowhere")
    assert nowhere["status"] == 404
    wrong_method = fetch(sdk, node, "/overlay/caller", method="PUT", headers=JSON, body="{}")
    assert wrong_method["status"] == 405
    forbidden = fetch(sdk, node, "/overlay/sources", method="POST", headers=JSON, body='{"sourceId":"x"}')
    assert (forbidden["status"], json.loads(forbidden["body"])["type"]) == (403, "urn:overlay:problem:not-permitted")


@pytest.mark.parametrize("headers", [JSON, {}])
def test_a_post_without_a_body_is_understood(sdk: Sdk, node: Node, headers: dict[str, str]) -> None:
    """With a JSON type the SDK sends and signs ``{}``, without one nothing at all."""
    answer = fetch(sdk, node, "/overlay/events/ingest", method="POST", headers=headers)
    assert answer["status"] in (400, 415)
    assert json.loads(answer["body"])["type"].startswith("urn:overlay:problem:")


def test_custom_headers_are_signed_with_the_request(sdk: Sdk, node: Node) -> None:
    headers = {"X-BSV-Topic": "välue", "Authorization": "Bearer nothing", "x-bsv-a": "1"}
    assert fetch(sdk, node, "/overlay/caller", headers=headers)["status"] == 200


def test_many_requests_at_once_share_a_session(sdk: Sdk, node: Node) -> None:
    fetch(sdk, node, "/overlay/caller")
    for _ in range(20):
        assert fetch(sdk, node, "/overlay/caller")["status"] == 200


def test_a_session_lost_with_a_restart_is_renewed_without_a_person(
    sdk: Sdk, network: LocalNetwork, node: Node
) -> None:
    assert fetch(sdk, node, "/overlay/caller")["status"] == 200
    node.kill()
    node.start()
    network.wait_ready(node)
    answer = fetch(sdk, node, "/overlay/caller")
    assert json.loads(answer["body"])["identityKey"] == identity(MEMBER)
    assert fetch(sdk, node, "/overlay/events/ingest", **ingest("s1", "after"))["status"] == 202


def test_a_certificate_of_the_trusted_certifier_gives_its_role(sdk: Sdk, node: Node) -> None:
    """/metrics is not public here. The first request is held until the certificate has come."""
    refused = fetch(sdk, node, "/metrics", STRANGER)
    assert refused["status"] == 403
    sdk("certify", certifier=CERTIFIER, subject=MEMBER, type=TYPE, fields={"role": "auditor", "name": "M"})
    answer = fetch(sdk, node, "/metrics")
    assert answer["status"] == 200
    assert json.loads(fetch(sdk, node, "/overlay/caller")["body"])["roles"] == ["reader"]


def test_a_certificate_of_somebody_else_gives_nothing(sdk: Sdk, node: Node) -> None:
    sdk("certify", certifier=OTHER_CERTIFIER, subject=MEMBER, type=TYPE, fields={"role": "auditor"})
    assert fetch(sdk, node, "/metrics")["status"] == 403


def test_a_server_that_is_gone_is_an_error_and_not_a_hang(sdk: Sdk) -> None:
    with pytest.raises(SdkError):
        sdk("fetch", client="x", key=MEMBER, url="http://127.0.0.1:9/overlay/caller", config={})
