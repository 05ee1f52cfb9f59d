"""Golden vectors made by the official SDK, byte for byte."""

import json
from pathlib import Path
from typing import Any

import pytest

from node.runtime.keyring import generate_key
from protocols import keys
from protocols.advertisement import build_token, check_token, topic_manager_name, topic_of
from protocols.errors import BadSignatureError, ClientFault, InvalidKeyError, MalformedError
from protocols.keys import PrivateKey, invoice_number
from protocols.scripts import push, pushdrop, read_pushdrop

VECTORS = Path(__file__).parent / "vectors"
HIGH_S = "high-S variant of signatures[0]"


def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def party(name: str, root: str) -> Any:
    known = load("brc42")["keys"]
    if name in ("anyone", "self"):
        return name
    return unhex(known[name]["identityKey"] if name in known else name)


@pytest.mark.parametrize("case", load("brc42")["key_deriver"], ids=lambda c: f"{c['root']}-{c['counterparty']}")
def test_child_keys(case: dict[str, Any]) -> None:
    root = PrivateKey(unhex(case["rootPrivateKey"]))
    protocol, key_id = (case["protocolID"][0], case["protocolID"][1]), case["keyID"]
    counterparty = party(case["counterparty"], case["root"])
    assert invoice_number(protocol, key_id) == case["invoiceNumber"]
    assert root.derive_child(protocol, key_id, counterparty).to_bytes().hex() == case["derivedPrivateKey"]
    ours = root.derive_public(protocol, key_id, counterparty, for_self=True)
    assert ours.hex() == case["derivedPublicKey_forSelf_true"]
    theirs = root.derive_public(protocol, key_id, counterparty)
    assert theirs.hex() == case["derivedPublicKey_forSelf_false"]
    symmetric = root.symmetric_key(protocol, key_id, counterparty)
    assert symmetric.hex() == case["symmetricKeyHex"].lstrip("0").rjust(len(symmetric) * 2, "0")


@pytest.mark.parametrize("case", load("brc42")["normalisation"])
def test_names_are_trimmed_and_lowered_but_key_ids_are_not(case: dict[str, Any]) -> None:
    root = PrivateKey(unhex(load("brc42")["keys"]["node"]["privateKeyHex"]))
    protocol = (case["protocolID"][0], case["protocolID"][1])
    derived = root.derive_public(protocol, case["keyID"], case["counterparty"], for_self=True)
    assert derived.hex() == case["derivedPublicKey_forSelf_true"]


@pytest.mark.parametrize("case", load("brc42")["rejected"], ids=lambda c: c["error"][:40])
def test_what_the_sdk_rejects_is_rejected(case: dict[str, Any]) -> None:
    key_id: str = case["keyID"] if case.get("keyID") is not None else "x" * case["keyIDLength"]
    if len(key_id) != case["keyIDLength"]:
        key_id = "x" * case["keyIDLength"]
    with pytest.raises(InvalidKeyError):
        invoice_number((case["protocolID"][0], case["protocolID"][1]), key_id)


@pytest.mark.parametrize("secret", [b"", bytes(31), b"\x01" * 31, b"\x01" * 33, bytes(32), b"\xff" * 32])
def test_what_is_no_private_key_is_refused(secret: bytes) -> None:
    with pytest.raises(InvalidKeyError):
        PrivateKey.from_bytes(secret)


def test_no_secret_shows() -> None:
    key = generate_key()
    assert key.to_bytes().hex() not in repr(key)
    assert key.identity.hex() in repr(key)


def test_the_hmac_key_has_no_leading_zero() -> None:
    case = load("brc42")["hmac_leading_zero"]
    root = PrivateKey(unhex(load("brc42")["keys"][case["root"]]["privateKeyHex"]))
    protocol = (case["protocolID"][0], case["protocolID"][1])
    assert root.symmetric_key(protocol, case["keyID"], case["counterparty"]).hex() == case["symmetricKeyUnpaddedHex"]


@pytest.mark.parametrize("case", load("brc3_signatures")["signatures"], ids=lambda c: c["counterparty"][:8])
def test_signatures(case: dict[str, Any]) -> None:
    signer = PrivateKey(unhex(case["signerPrivateKey"]))
    protocol, key_id = (case["protocolID"][0], case["protocolID"][1]), case["keyID"]
    counterparty = party(case["counterparty"], case["signer"])
    signature = signer.sign_digest(protocol, key_id, unhex(case["digestHex"]), counterparty)
    assert signature.hex() == case["signatureHex"]
    assert keys.verify_digest(unhex(case["derivedPublicKey"]), unhex(case["digestHex"]), signature)
    if case["counterparty"] == "anyone" and "dataHex" in case:
        assert keys.verify(signer.identity, protocol, key_id, unhex(case["dataHex"]), signature)


@pytest.mark.parametrize(
    "case", [c for c in load("brc3_signatures")["invalid"] if "signatureHex" in c], ids=lambda c: c["name"]
)
def test_malformed_and_high_s_signatures_are_refused(case: dict[str, Any]) -> None:
    """The SDK takes a high S; we do not."""
    good = load("brc3_signatures")["signatures"][0]
    protocol = (good["protocolID"][0], good["protocolID"][1])
    identity, data = unhex(good["identityKey"]), unhex(good["dataHex"])
    assert keys.verify(identity, protocol, good["keyID"], data, unhex(good["signatureHex"]))
    assert not keys.verify(identity, protocol, good["keyID"], data, unhex(case["signatureHex"]))


def test_other_data_key_or_identity_fails() -> None:
    good = load("brc3_signatures")["signatures"][0]
    protocol = (good["protocolID"][0], good["protocolID"][1])
    identity, data, signature = (unhex(good[k]) for k in ("identityKey", "dataHex", "signatureHex"))
    other = unhex(load("brc42")["keys"]["peer"]["identityKey"])
    assert not keys.verify(identity, protocol, good["keyID"], data + b"!", signature)
    assert not keys.verify(identity, protocol, good["keyID"] + "x", data, signature)
    assert not keys.verify(other, protocol, good["keyID"], data, signature)
    assert not keys.verify(b"\x02" + bytes(32), protocol, good["keyID"], data, signature)
    assert not keys.verify(identity, (2, "x"), good["keyID"], data, signature)


@pytest.mark.parametrize("case", load("brc77")["messages"], ids=lambda c: c["verifier"])
def test_signed_messages(case: dict[str, Any]) -> None:
    verifier = PrivateKey(unhex(case["verifierPrivateKey"])) if case["verifierPrivateKey"] else None
    message, signed = unhex(case["messageHex"]), unhex(case["signedMessageHex"])
    assert keys.verify_message(message, signed, verifier) is case["valid"]
    assert not keys.verify_message(message + b"!", signed, verifier)


def test_signed_messages_round_trip() -> None:
    signer, verifier = generate_key(), generate_key()
    for to in (None, verifier):
        signed = keys.sign_message(signer, b"hello", bytes(range(32)), to.identity if to else None)
        assert keys.verify_message(b"hello", signed, to)
        assert to is None or not keys.verify_message(b"hello", signed, signer)


@pytest.mark.parametrize("case", load("ship_slap_tokens")["tokens"], ids=lambda c: f"{c['kind']} {c['domain']}")
def test_tokens_are_admitted_as_the_official_topic_managers_admit_them(case: dict[str, Any]) -> None:
    script = unhex(case["lockingScriptHex"])
    if not case["officialTopicManagerRule"]["accepted"]:
        with pytest.raises((MalformedError, BadSignatureError)):
            check_token(script, allow_local_urls=False)
        return
    token = check_token(script, allow_local_urls=False)
    assert (token.kind, token.url, token.name) == (case["kind"], case["domain"], case["topicOrService"])
    assert token.identity.hex() == case["identityKey"]


def test_our_tokens_are_the_official_ones_byte_for_byte() -> None:
    case = load("ship_slap_tokens")["tokens"][0]
    key = PrivateKey(unhex(load("brc42")["keys"]["node"]["privateKeyHex"]))
    assert build_token(key, "SHIP", case["domain"], case["topicOrService"]).hex() == case["lockingScriptHex"]


def test_any_flipped_bit_of_a_token_is_refused() -> None:
    script = unhex(load("ship_slap_tokens")["tokens"][0]["lockingScriptHex"])
    for at in range(len(script)):
        broken = script[:at] + bytes([script[at] ^ 1]) + script[at + 1 :]
        with pytest.raises((MalformedError, BadSignatureError)):
            check_token(broken, allow_local_urls=True)


@pytest.mark.parametrize("case", load("pushdrop_edges")["edges"], ids=lambda c: c["fieldHex"][:8] or "empty")
def test_minimal_pushes(case: dict[str, Any]) -> None:
    field = unhex(case["fieldHex"])
    pushed = push(field) + unhex("02aabb")
    assert pushed.startswith(unhex(case["pushHexPrefix"])[: len(pushed)])


def test_pushdrop_reads_what_it_writes() -> None:
    key = b"\x02" + bytes(32)
    for fields in ([b"a"], [b"a", b"b" * 76], [b"\x10", b"\x81", b"c" * 300, b"d" * 70_000]):
        assert read_pushdrop(pushdrop(key, fields)).fields == tuple(fields)


def test_topics_map_to_names_and_back() -> None:
    assert topic_manager_name("gitdata.events.iot") == "tm_gitdata_events_iot"
    assert topic_of("tm_gitdata_events_iot") == "gitdata.events.iot"
    for bad in ("gitdata.events.v2", "Gitdata", "a_b", "a..b", "", "a" * 60, "a.b\n"):
        with pytest.raises(ClientFault):
            topic_manager_name(bad)
