"""What each topic admits: by the verdicts of the official managers, and of certificates by what they are."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from protocols import codec
from protocols.keys import PrivateKey
from protocols.topics import (
    OUTPUTS_CHECKED_MAX,
    AdvertisementManager,
    CertificateManager,
    ObjectManager,
    TopicManager,
    build_certificate_token,
)
from protocols.transactions import Input, Output, Transaction, make_transaction
from tests.network_of_keys import NETWORK, certified

VECTORS = Path(__file__).parents[1] / "interop" / "vectors"
TOKENS = json.loads((VECTORS / "ship_slap_tokens.json").read_text())["tokens"]
ADVERTS = json.loads((VECTORS / "uhrp.json").read_text())["advertisements"]
HOST = PrivateKey.from_bytes(b"\7" * 32)
BATCH = certified()
CERTIFICATE = codec.encode(BATCH.certificate)
BATCH_ID = BATCH.certificate.statement.batch_id
TOKEN = build_certificate_token(HOST, batch_id=BATCH_ID, digest=hashlib.sha256(CERTIFICATE).digest())


def carrying(*scripts: bytes) -> Transaction:
    spent = Input(txid=b"\1" * 32, output_index=0, unlocking_script=b"")
    return make_transaction([spent], [Output(satoshis=1, locking_script=script) for script in scripts])


def admitted(manager: TopicManager, *scripts: bytes, values: bytes | None = None) -> list[int]:
    return [facts.output_index for facts in manager.admit(carrying(*scripts), values)]


def certificates(network: str = NETWORK, known: bool = True) -> CertificateManager:
    return CertificateManager(name="tm_event_certificates", network=network, is_known=lambda identity: known)


@pytest.mark.parametrize("case", TOKENS, ids=lambda case: f"{case['kind']} {case['domain']} {case['topicOrService']}")
def test_advertisements_are_admitted_as_the_official_managers_admit_them(case: dict[str, Any]) -> None:
    script = bytes.fromhex(case["lockingScriptHex"])
    for kind in ("SHIP", "SLAP"):
        manager = AdvertisementManager(kind=kind, allow_local_urls=False)
        expected = case["officialTopicManagerRule"]["accepted"] and case["kind"] == kind
        assert admitted(manager, b"", script) == ([1] if expected else [])


@pytest.mark.parametrize("case", ADVERTS, ids=lambda case: case["url"])
def test_objects_are_admitted_as_the_official_manager_admits_them(case: dict[str, Any]) -> None:
    manager = ObjectManager(allow_local_urls=False)
    expected = [0] if case["officialTopicManagerAdmits"] else []
    assert admitted(manager, bytes.fromhex(case["lockingScriptHex"])) == expected


def test_a_certificate_that_verifies_is_admitted() -> None:
    (facts,) = certificates().admit(carrying(b"\x51", TOKEN), CERTIFICATE)
    assert (facts.output_index, facts.identity, facts.batch_id) == (1, HOST.identity, BATCH_ID)
    assert facts.name == BATCH.certificate.statement.source_id


def test_a_certificate_counts_only_whole_in_its_network_and_of_known_signers() -> None:
    changed = CERTIFICATE[:-1] + bytes([CERTIFICATE[-1] ^ 1])
    assert admitted(certificates(), TOKEN, values=None) == []
    assert admitted(certificates(), TOKEN, values=b"") == []
    assert admitted(certificates(), TOKEN, values=changed) == []
    assert admitted(certificates(network="another"), TOKEN, values=CERTIFICATE) == []
    assert admitted(certificates(known=False), TOKEN, values=CERTIFICATE) == []
    other = build_certificate_token(HOST, batch_id=BATCH_ID, digest=bytes(31) + b"\1")
    assert admitted(certificates(), other, values=CERTIFICATE) == []


def test_every_flipped_bit_of_a_certificate_token_is_refused() -> None:
    for at in range(len(TOKEN)):
        flipped = TOKEN[:at] + bytes([TOKEN[at] ^ 1]) + TOKEN[at + 1 :]
        assert admitted(certificates(), flipped, values=CERTIFICATE) == []


def test_no_manager_looks_past_its_bound() -> None:
    scripts = [b""] * OUTPUTS_CHECKED_MAX + [TOKEN]
    assert admitted(certificates(), *scripts, values=CERTIFICATE) == []
    assert admitted(certificates(), *scripts[1:], values=CERTIFICATE) == [OUTPUTS_CHECKED_MAX - 1]


def test_every_manager_says_what_it_admits() -> None:
    managers: list[TopicManager] = [
        AdvertisementManager(kind="SHIP", allow_local_urls=False),
        AdvertisementManager(kind="SLAP", allow_local_urls=False),
        ObjectManager(allow_local_urls=False),
        certificates(),
    ]
    for manager in managers:
        assert manager.documentation.startswith(f"# {manager.name}\n\nAdmits ")
