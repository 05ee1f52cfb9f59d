"""What the client guide shows works as it is written."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.api.problems import PROBLEMS, RETRY_AFTER_S
from node.api.socket_messages import REQUESTS, read_request
from tests.node.described_answers import described_operation, description
from tests.node.running import running

GUIDE = (Path(__file__).parents[3] / "node" / "api" / "README.md").read_text()
OPERATIONS = re.findall(r"`(GET|POST|PATCH|PUT|DELETE) (/[^`?\s]+)", GUIDE)
MESSAGES = re.findall(r'^\| `({"type".*})` \|', GUIDE, re.MULTILINE)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_operations_that_are_named_exist(method: str, path: str) -> None:
    assert described_operation(method, re.sub(r"{[^}]+}", "x", path)) is not None


def test_the_guide_names_operations() -> None:
    assert len(OPERATIONS) > 8


def test_parameters_that_are_used_exist() -> None:
    for path in re.findall(r"'http://127\.0\.0\.1:8080(/[^']*\?[^']*)'", GUIDE):
        url = httpx.URL(f"http://node{path}")
        methods = description()["paths"][url.path]
        known = {each["name"] for method in methods.values() for each in method["parameters"]}
        assert set(url.params) <= known, path


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_are_understood(message: str) -> None:
    assert read_request(message.replace("{…}", "{}"))


def test_every_message_is_shown() -> None:
    assert {json.loads(message.replace("{…}", "{}"))["type"] for message in MESSAGES} == set(REQUESTS)


async def test_the_first_event_is_taken_and_the_error_is_as_shown(postgres_url: str) -> None:
    (command,) = (block for block in blocks("sh") if "events/ingest -H 'Content-Type: application/json'" in block)
    body = re.search(r"-d '(.*)'", command, re.DOTALL)
    assert body is not None
    shown: dict[str, Any] = json.loads(blocks("json")[0])
    async with running(postgres_url) as node:
        await node.source("farm-1")
        answer = await node.client.post("/overlay/events/ingest", json=json.loads(body[1]))
        assert answer.json()["counts"]["accepted"] == 1
        refused = await node.source("farm-2", trustScore=101)
    assert refused.status_code == shown["status"]
    assert refused.json() == shown
    assert refused.headers["X-Request-Id"]


def test_answers_that_may_be_repeated_are_described_with_retry_after() -> None:
    answers = [
        operation["responses"][str(PROBLEMS[code][0])]
        for path in description()["paths"].values()
        for operation in path.values()
        for code in RETRY_AFTER_S
        if str(PROBLEMS[code][0]) in ("429", "503") and str(PROBLEMS[code][0]) in operation["responses"]
    ]
    described = [each for each in answers if "application/problem+json" in each["content"]]
    assert len(described) > 50
    assert all("Retry-After" in each["headers"] for each in described)
