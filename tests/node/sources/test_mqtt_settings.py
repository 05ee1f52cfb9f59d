"""Settings of MQTT sources: what is refused when they are written, and when they are used."""

from typing import Any

import pytest

from node.sources import SourceFault
from node.sources.mqtt.connection import tls_context
from node.sources.mqtt.connector import default_client_id
from node.sources.settings import InvalidConfigurationError, read
from node.sources.settings.mqtt import MqttTls


@pytest.mark.parametrize(
    ("tls", "wanted"),
    [
        ({"caPem": "nonsense"}, "caPem must hold certificates"),
        ({"certificatePem": "no", "keyPem": "certificate"}, "certificatePem and keyPem must belong together"),
    ],
)
def test_certificates_that_cannot_be_used(tls: dict[str, str], wanted: str) -> None:
    with pytest.raises(SourceFault, match=wanted):
        tls_context(MqttTls.model_validate(tls))


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"topics": []}, "/configuration/topics"),
        ({"topics": ["a/#/b"]}, "/configuration/topics/0"),
        ({"topics": ["a/b+"]}, "/configuration/topics/0"),
        ({"topics": ["ok", "$share/a#/b"]}, "/configuration/topics/1"),
        ({"topics": ["$share/group"]}, "/configuration/topics/0"),
        ({"topics": ["a\x00b"]}, "/configuration/topics/0"),
        ({"topics": ["a", "a"]}, "/configuration"),
        ({"topicField": "payload"}, "/configuration"),
        ({"qos": 3}, "/configuration/qos"),
        ({"clientId": "a b"}, "/configuration/clientId"),
        ({"host": "a/b"}, "/configuration/host"),
        ({"protocolVersion": "3.1.1", "password": "x"}, "/configuration"),
        ({"tls": {"certificatePem": "x"}}, "/configuration/tls"),
        ({"tls": {"caFile": "/etc/ssl/cert.pem"}}, "/configuration/tls/caFile"),
    ],
)
def test_settings_that_no_broker_takes_are_refused(wrong: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidConfigurationError) as refused:
        read("mqtt", {"host": "broker.example", "topics": ["a/+/b/#", "$share/group/#"], **wrong})
    assert refused.value.fields["field"] == place


def test_a_session_has_a_name_of_its_own_for_each_network_source_and_node() -> None:
    names = {
        default_client_id(network, source, identity)
        for network in ("a", "ab")
        for source in ("bc", "c")
        for identity in (bytes(33), bytes(32) + b"\x01")
    }
    assert len(names) == 8
    assert all(len(name) == 23 and name.isalnum() for name in names)
