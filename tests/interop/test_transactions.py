"""Golden vectors of transactions, BEEF, merkle paths and UHRP, made by the official SDK: byte for byte, both ways."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest

from protocols.beef import (
    BeefTransaction,
    check_amounts,
    make_beef,
    merge_beefs,
    read_beef,
    write_beef,
)
from protocols.errors import InvalidTransactionError, InvalidUhrpUrlError, MalformedError
from protocols.keys import PrivateKey
from protocols.merkle_path import read_merkle_path, write_merkle_path
from protocols.overlay_bodies import read_submission, write_lookup_answer, write_submission
from protocols.scripts import read_pushdrop
from protocols.tokens import MISREAD
from protocols.transactions import make_transaction, read_transaction, txid_hex
from protocols.uhrp import build_uhrp_advert, check_uhrp_advert, content_url, read_uhrp_url, uhrp_url

VECTORS = Path(__file__).parent / "vectors"
BEEF = json.loads((VECTORS / "beef.json").read_text())
UHRP = json.loads((VECTORS / "uhrp.json").read_text())
EDGES = json.loads((VECTORS / "pushdrop_edges.json").read_text())["edges"]
PROVEN_PARENT, PROVEN = BEEF["cases"][3], BEEF["cases"][4]
FORMS: tuple[tuple[str, Literal[1, 2], bool], ...] = (
    ("beefV1Hex", 1, False),
    ("beefV2Hex", 2, False),
    ("atomicBeefHex", 1, True),
)
# What the SDK lets pass and we do not: the letter is that of the case.
REFUSED = {"A": "no-inputs", "B": "no-inputs", "C": "missing-parent"}


@attrs.frozen(kw_only=True)
class Found:
    beef: bytes
    output_index: int
    context: bytes | None


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def by_name(case: dict[str, Any]) -> str:
    return str(case["name"])[0]


@pytest.mark.parametrize("case", BEEF["cases"], ids=by_name)
def test_raw_transactions(case: dict[str, Any]) -> None:
    transaction = read_transaction(unhex(case["rawTxHex"]))
    assert transaction.raw == unhex(case["rawTxHex"])
    assert transaction.txid_hex == case["txid"] == txid_hex(transaction.txid)
    made = [(output.satoshis, output.locking_script.hex()) for output in transaction.outputs]
    assert made == [(output["satoshis"], output["lockingScriptHex"]) for output in case["outputs"]]
    again = make_transaction(transaction.inputs, transaction.outputs)
    assert again == transaction
    assert again.raw == transaction.raw


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form[0])
@pytest.mark.parametrize("case", BEEF["cases"], ids=by_name)
def test_beef_in_all_its_forms(case: dict[str, Any], form: tuple[str, Literal[1, 2], bool]) -> None:
    name, version, atomic = form
    assert case["parses"][name]
    beef = read_beef(unhex(case[name]))
    assert write_beef(beef, version=version, atomic=atomic).hex() == case[name]
    assert beef.subject_transaction.txid_hex == case["txid"]
    heights = [case["blockHeight"]] if case["bumpHex"] else []
    assert [path.block_height for path in beef.paths] == heights
    if case["parentTxid"] is not None:
        parent = beef.transaction(unhex(case["parentTxid"])[::-1])
        assert parent is not None
        assert parent.raw.hex() == case["parentRawTxHex"]
        assert make_beef([parent, beef.subject_transaction], beef.paths) == beef


@pytest.mark.parametrize("case", [case for case in BEEF["cases"] if case["bumpHex"]], ids=by_name)
def test_merkle_paths(case: dict[str, Any]) -> None:
    path = read_merkle_path(unhex(case["bumpHex"]))
    assert write_merkle_path(path).hex() == case["bumpHex"]
    assert path.root[::-1].hex() == case["merkleRootHex"]
    assert path.block_height == case["blockHeight"]
    assert unhex(case["parentTxid"] or case["txid"])[::-1] in path.txids


@pytest.mark.parametrize("case", BEEF["cases"], ids=by_name)
def test_money_from_nowhere_is_refused_though_the_sdk_takes_it(case: dict[str, Any]) -> None:
    beef = read_beef(unhex(case["beefV1Hex"]))
    why = REFUSED.get(by_name(case))
    if why is None:
        check_amounts(beef)
        return
    with pytest.raises(InvalidTransactionError) as refusal:
        check_amounts(beef)
    assert refusal.value.fields == {"txid": case["txid"], "why": why}


def test_the_octet_stream_answer_of_a_lookup() -> None:
    vector = BEEF["lookup_octet_stream"]
    cases = {case["txid"]: case for case in BEEF["cases"]}
    found = [
        Found(
            beef=unhex(cases[outpoint["txid"]]["beefV1Hex"]),
            output_index=outpoint["outputIndex"],
            context=unhex(outpoint["contextHex"]) or None,
        )
        for outpoint in vector["outpoints"]
    ]
    body = write_lookup_answer(found)
    assert body.hex() == vector["bodyHex"]
    assert write_lookup_answer([]) == b"\0" + unhex("0200beef0000")


def test_a_merged_beef_with_bare_txids_is_read_and_completed() -> None:
    beefs = [read_beef(unhex(case["beefV2Hex"])) for case in (PROVEN_PARENT, PROVEN)]
    merged = merge_beefs(beefs)
    bare = attrs.evolve(merged, transactions=(BeefTransaction(txid=b"\7" * 32), *merged.transactions))
    again = read_beef(write_beef(bare, version=2))
    assert again == bare
    assert again.transaction(b"\7" * 32) is None
    with pytest.raises(ValueError, match="V1"):
        write_beef(bare, version=1)


def test_a_submission_with_off_chain_values() -> None:
    vector = BEEF["submit_body_with_offchain"]
    assert vector["headers"]["x-includes-off-chain-values"] == "true"
    body = unhex(vector["bodyHex"])
    submission = read_submission(body, has_off_chain_values=True)
    assert submission.off_chain_values == unhex(vector["offChainHex"])
    assert submission.beef.hex() == PROVEN_PARENT["beefV1Hex"]
    assert write_submission(submission) == body
    plain = read_submission(submission.beef, has_off_chain_values=False)
    assert plain == attrs.evolve(submission, off_chain_values=None)
    assert write_submission(plain) == submission.beef


@pytest.mark.parametrize("case", UHRP["urls"], ids=lambda case: case["sha256Hex"][:8])
def test_uhrp_urls(case: dict[str, Any]) -> None:
    content = unhex(case["contentHex"]) if "contentHex" in case else bytes(i & 255 for i in range(300_000))
    digest = hashlib.sha256(content).digest()
    assert digest.hex() == case["sha256Hex"]
    assert content_url(content) == uhrp_url(digest) == case["url"]
    assert read_uhrp_url(case["url"]) == digest


@pytest.mark.parametrize("case", UHRP["accepted_forms"], ids=lambda case: case["url"][:9])
def test_uhrp_url_forms_that_the_sdk_takes(case: dict[str, Any]) -> None:
    assert case["valid"]
    assert read_uhrp_url(case["url"]) == hashlib.sha256(b"hello").digest()


@pytest.mark.parametrize("case", UHRP["rejected_forms"], ids=lambda case: case["url"][:9])
def test_uhrp_url_forms_that_the_sdk_rejects(case: dict[str, Any]) -> None:
    assert not case["valid"]
    with pytest.raises(InvalidUhrpUrlError):
        read_uhrp_url(case["url"])


@pytest.mark.parametrize("case", UHRP["advertisements"], ids=lambda case: case["url"])
def test_uhrp_advertisements(case: dict[str, Any]) -> None:
    key = PrivateKey(unhex(UHRP["keys"]["node"]["privateKeyHex"]))
    script = unhex(case["lockingScriptHex"])
    token = read_pushdrop(script)
    assert [field.hex() for field in token.fields] == case["fieldsHex"]
    assert token.locking_key.hex() == case["lockingPublicKey"]
    digest = token.fields[1]
    built = build_uhrp_advert(
        key, digest=digest, url=case["url"], expires_s=case["expiryTime"], size=case["fileSize"]
    )
    assert built == script
    if not case["officialTopicManagerAdmits"]:
        with pytest.raises(MalformedError):
            check_uhrp_advert(script, allow_local_urls=False)
    advert = check_uhrp_advert(script, allow_local_urls=not case["officialTopicManagerAdmits"])
    assert case["signatureLinked"]
    assert (advert.identity, advert.digest) == (key.identity, digest)
    assert (advert.url, advert.expires_s, advert.size) == (case["url"], case["expiryTime"], case["fileSize"])


@pytest.mark.parametrize("case", EDGES, ids=lambda case: case["fieldHex"][:8] or "empty")
def test_tokens_carry_no_field_that_the_sdk_misreads(case: dict[str, Any]) -> None:
    assert (unhex(case["fieldHex"]) in MISREAD) is not case["roundtrips"]
