"""Whatever text stands in a source's configuration, it is read or refused by a fault that names the member."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from node.sources.settings import InvalidConfigurationError, read
from tests.node.node_process import ROOT

TEXTS: Final = (
    "\0",
    "ä",
    "-----BEGIN CERTIFICATE-----\nTWFu\n-----END CERTIFICATE-----\n",
    "-----BEGIN CERTIFICATE-----\n\u00e9\n-----END CERTIFICATE-----\n",
    "\ufeff" * 9,
    "\U0001f600",
    "\r\n\r\n",
    "http://[::1",
    "http://a:99999999999999999999/",
    "https://\u2100.example/",
    "(" * 200,
    "{body}{timestamp}{id}{",
    "%s{0.__class__}",
    "whsec_ä",
    "/~2/~",
)
WHOLE: Final[dict[str, dict[str, Any]]] = {
    "poll": {
        "url": "https://a.example/",
        "headers": {"A": "b"},
        "caPem": "",
        "body": "",
        "delimiter": ",",
        "cursorPath": "",
        "cursorField": "",
        "cursorParameter": "",
        "eventsPath": "",
        "eventType": "t",
    },
    "mqtt": {
        "host": "a",
        "topics": ["a"],
        "clientId": "",
        "username": "",
        "password": "",
        "topicField": "",
        "tls": {"caPem": "", "certificatePem": "a", "keyPem": "a", "serverName": "a"},
    },
    "kafka": {
        "brokers": ["a:1"],
        "topicPattern": "a",
        "group": "",
        "tls": {"caPem": "", "certificatePem": "a", "keyPem": "a"},
        "sasl": {"mechanism": "PLAIN", "username": "a", "password": "a"},
        "properties": {"client.id": "a"},
    },
    "webhook": {"scheme": "hmac", "secret": "a", "secrets": ["b"], "header": "A", "prefix": "", "template": "{body}"},
    "overlay": {"topics": ["a"], "sourceIds": ["a"], "coordinators": ["02" + "a" * 64]},
}


def changes(value: Any, text: str) -> Iterator[Any]:
    """The value with the text in the place of one of its texts, at any depth."""
    if isinstance(value, str):
        yield text
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from ({**value, name: changed} for changed in changes(part, text))
            yield {**value, text: part}
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from ([*value[:index], changed, *value[index + 1 :]] for changed in changes(part, text))


@pytest.mark.parametrize("source_type", WHOLE)
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_any_text_in_a_configuration_is_read_or_refused(source_type: str, text: str) -> None:
    for document in changes(WHOLE[source_type], text):
        try:
            read(source_type, document)
        except InvalidConfigurationError as error:
            refusal = error
        else:
            continue
        assert str(refusal.fields["field"]).startswith("/configuration")
        json.dumps(refusal.fields)


def test_the_ready_sources_are_read() -> None:
    for path in sorted((ROOT / "configs" / "sources").glob("*.json")):
        document = json.loads(path.read_bytes())
        read(document["sourceType"], document["configuration"])
