"""The certificate as a page: for browsers alone, escaped whatever stands in the event, and nothing but the truth."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from node.api.certificate_page import render
from node.coordination.serialization import read_certificate
from node.runtime.access import Access
from protocols.certificate import event_document
from protocols.uhrp import content_url
from tests.network_of_keys import certified
from tests.node.running import Running, running

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
HOSTILE = "<script>alert(1)</script>\u202egnp.exe\x1b[2J\"'><img src=x onerror=alert(1)>&amp;{{ 7 * 7 }}"
OBJECTS = {kind: content_url(kind.encode()) for kind in ("payload", "certificate", "policy")}


class Page(HTMLParser):
    """What a browser makes of it: elements with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.script = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id") or ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._inside == "script":
            self.script += data


async def event(node: Running, **fields: Any) -> str:
    """The path of a certified event's certificate."""
    await node.source(**fields.pop("source", {}))
    answer = await node.post({"externalId": "e1", "eventType": "reading", "data": {"value": 1}, **fields})
    await node.seal(node.recorder.told[-1].manifest)
    return f"/overlay/events/{answer.json()['processedEvents'][0]['eventId']}/certificate"


async def test_browsers_get_the_page_and_everybody_else_the_document(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        path = await event(node)
        for accept in ("*/*", "application/json", "application/*", "application/json, text/html;q=0.9", "image/png"):
            answer = await node.client.get(path, headers={"Accept": accept})
            assert (answer.headers["Content-Type"], answer.headers["Vary"]) == ("application/json", "Accept"), accept
        document = await node.client.get(path)
        for headers, query in ((BROWSER, ""), ({}, "?format=html"), ({"Accept": "text/html"}, "")):
            answer = await node.client.get(path + query, headers=headers)
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert (await node.client.get(f"{path}?format=json", headers=BROWSER)).content == document.content
        assert (await node.client.get(f"{path}?format=pdf")).status_code == 400
        waiting = await node.post({"externalId": "e2", "eventType": "reading", "data": 1})
        path = f"/overlay/events/{waiting.json()['processedEvents'][0]['eventId']}/certificate"
        assert (await node.client.get(path, headers=BROWSER)).status_code == 409


async def test_the_page_says_what_the_document_says_and_links_what_it_names(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        path = await event(node)
        document = (await node.client.get(path)).json()
        page = Page((await node.client.get(path, headers=BROWSER)).text)
        for said in (document["batchId"], document["policyHash"], document["event"]["contentHash"], "enhanced"):
            assert said in page.text
        for entry in document["signatures"]:
            assert page.text.count(entry["identityKey"]) == 2  # among the signers, and in the command
        assert "Operator Two" in page.text
        assert page.text.count("operator not known here") == 1
        assert "2 signed, 2 needed" in page.text
        assert "1 of 1; 1 certified, 0 rejected" in page.text
        assert f"overlay-node verify certificate.json --network {document['network']}" in page.text
        assert [name for name, _ in page.elements].count("dt") == 15
        assert "&lt;" not in page.text
        links = [attributes["href"] for name, attributes in page.elements if name in ("a", "link")]
        for link in links:
            if link and not link.startswith("#"):
                assert (await node.client.get(link)).status_code == 200, link
        batch = (await node.client.get(f"/overlay/batches/{document['batchId']}")).json()
        assert {f"/uhrp/{url}" for url in batch["objects"].values()} <= set(links)
        served = await node.client.get(f"/uhrp/{batch['objects']['certificate']}")
        assert read_certificate(served.content).statement.batch_id == document["batchId"]


async def test_the_page_runs_nothing_and_loads_nothing_from_elsewhere(postgres_url: str) -> None:
    async with running(postgres_url) as node:
        answer = await node.client.get(await event(node), headers=BROWSER)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert "unsafe" not in policy
        elements = Page(answer.text).elements
        assert not {"script", "style", "iframe", "form", "img"} & {name for name, _ in elements}
        for _, attributes in elements:
            assert not {name for name in attributes if name.startswith("on") or name == "style"}
            assert not re.match(r"[a-z]+:|//", attributes.get("href") or "")


def hostile_document() -> dict[str, Any]:
    batch = certified()
    document = event_document(batch.certificate, leaves=batch.leaves, index=4, data=batch.data[4])
    leaf = document["event"]
    for name in ("externalId", "eventType", "timestamp"):
        leaf[name] = HOSTILE
    leaf["issues"] = [{"rule": HOSTILE, "path": HOSTILE, "found": HOSTILE, "expected": {HOSTILE: HOSTILE}}]
    document["data"] = document["record"] = {HOSTILE: [HOSTILE]}
    document["statement"]["sourceId"] = document["network"] = HOSTILE
    for entry in document["signatures"]:
        entry["build"] = HOSTILE
    return document


def test_whatever_an_event_says_stays_text() -> None:
    document = hostile_document()
    operators = {entry["identityKey"]: HOSTILE for entry in document["signatures"]}
    html = render(document, objects=OBJECTS, operators=operators).decode()
    plain = certified()
    calm = event_document(
        plain.certificate, leaves=plain.leaves, index=4, data=plain.data[4], record=plain.records[4]
    )
    expected = render(calm, objects=OBJECTS, operators={}).decode()
    assert [name for name, _ in Page(html).elements] == [name for name, _ in Page(expected).elements]
    assert "\u202e" not in html
    assert "\x1b" not in html
    assert "{{ 7 * 7 }}" in html
    assert "<script>alert(1)</script>\\u202egnp.exe\\x1b[2J" in Page(html).text


def test_data_of_any_size_leaves_the_page_readable() -> None:
    batch = certified()
    document = event_document(batch.certificate, leaves=batch.leaves, index=0, data=batch.data[0])
    document["data"] = {"text": "x" * 250_000}
    html = render(document, objects=OBJECTS, operators={})
    assert len(html) < 60_000
    assert b"the certificate has all of it" in html


@pytest.mark.parametrize("index", [0, 4])
def test_the_verdict_is_the_document_s(index: int) -> None:
    batch = certified()
    document = event_document(batch.certificate, leaves=batch.leaves, index=index, data=batch.data[index])
    text = Page(render(document, objects=OBJECTS, operators={}).decode()).text
    assert ("Certified" in text, "Rejected" in text) == (index == 0, index == 4)
    assert ("468.659113683" in text) == (index == 4)
    assert ("What is wrong" in text) == (index == 4)


async def test_the_page_is_for_whom_the_document_is(postgres_url: str) -> None:
    async with running(postgres_url, access=Access()) as node:
        answer = await node.client.get("/overlay/events/event_0/certificate", headers=BROWSER)
        assert answer.status_code == 401
