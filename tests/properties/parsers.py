"""Every parser that hostile bytes reach, with real inputs to spoil."""

import hashlib
import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from node.network.sync_messages import ManifestPage, read_manifests
from protocols import envelope
from protocols.advertisement import PROTOCOLS as SHIP_AND_SLAP
from protocols.advertisement import build_token, check_token
from protocols.beef import (
    ATOMIC,
    MAGIC_BYTES,
    V1,
    V2,
    Beef,
    BeefTransaction,
    ancestry,
    check_amounts,
    make_beef,
    merge_beefs,
    read_beef,
    write_beef,
)
from protocols.codec import decode_tagged, encode
from protocols.compact_size import read_compact_size, write_compact_size
from protocols.errors import BadSignatureError, InvalidTransactionError
from protocols.framing import COMPRESSED, FrameKind, FrameReader, encode_frame, open_body
from protocols.keys import PrivateKey
from protocols.merkle_path import read_merkle_path, write_merkle_path
from protocols.messages import (
    MESSAGES,
    Advertisement,
    Announcement,
    Award,
    BatchSealed,
    Bid,
    CertifiedBatch,
    CertifiedNotice,
    CertifyOrder,
    Level,
    Message,
    Role,
    SealConfirmed,
    WorkOrder,
    WorkRefused,
    WorkResult,
)
from protocols.overlay_bodies import read_submission, write_submission
from protocols.scripts import pushdrop, read_pushdrop
from protocols.tokens import build_linked_token
from protocols.transactions import TXID_BYTES, read_transaction
from protocols.uhrp import PROTOCOL as UHRP
from protocols.uhrp import build_uhrp_advert, check_uhrp_advert, read_uhrp_url, uhrp_url
from tests.made_transactions import block_path, chain, spend
from tests.network_of_keys import AGENTS, NETWORK, certified
from tests.properties.authentication_parsers import authentication_parsers
from tests.properties.fuzzing import Parser

VECTORS: Final = Path(__file__).resolve().parent.parent / "interop" / "vectors"
DIGEST: Final = hashlib.sha256(b"content").digest()
ADVERTISER: Final = PrivateKey(hashlib.sha256(b"advertiser").digest())
CBOR_TOKENS: Final = tuple(
    bytes.fromhex(token)
    for token in (
        *("9f", "ff", "5f", "7f", "bf", "f6", "f5", "f97e00", "fb7ff0000000000000", "c249010000000000000000"),
        *("9bffffffffffffffff", "5bffffffffffffffff", "7b7fffffffffffffff", "9a7fffffff", "1bffffffffffffffff"),
        *("3bffffffffffffffff", "d9d9f7", "d81c80", "d81d00", "c11a", "c48221", "81" * 20, "62c328", "1800", "a1"),
    )
)
SCRIPT_TOKENS: Final = tuple(
    bytes.fromhex(token) for token in ("00", "60", "51", "4f", "4c", "4d", "4e", "6d", "75", "ac", "4effffffff", "21")
)


@cache
def parsers() -> dict[str, Parser]:
    """All of them by name."""
    found = (*_of_transactions(), *_of_tokens(), *_of_messages(), *authentication_parsers())
    return {parser.name: parser for parser in found}


# --- transactions ---------------------------------------------------------------------------------------------


def _of_transactions() -> list[Parser]:
    vectors = json.loads((VECTORS / "beef.json").read_text())
    cases = vectors["cases"]
    raw = [bytes.fromhex(case["rawTxHex"]) for case in cases]
    paths = [bytes.fromhex(case["bumpHex"]) for case in cases if case["bumpHex"]]
    blocks = [block_path([spend([], salt=n) for n in range(proven)], size=7) for proven in (1, 2, 5)]
    beefs = [bytes.fromhex(case[form]) for case in cases for form in ("beefV1Hex", "beefV2Hex", "atomicBeefHex")]
    beefs += [write_beef(beef, version=2, atomic=atomic) for beef in _made_beefs() for atomic in (False, True)]
    body = bytes.fromhex(vectors["submit_body_with_offchain"]["bodyHex"])
    numbers = [write_compact_size(number) for number in (0, 252, 253, 2**16 - 1, 2**16, 2**32 - 1, 2**32, 2**64 - 1)]
    return [
        Parser(name="CompactSize", parse=_compact_size, seeds=numbers),
        Parser(name="transaction", parse=lambda data: read_transaction(data).raw, seeds=raw),
        Parser(
            name="merkle path",
            parse=lambda data: write_merkle_path(read_merkle_path(data)),
            seeds=paths + [write_merkle_path(block) for block in blocks],
        ),
        Parser(name="BEEF", parse=_beef, seeds=beefs, tokens=(V1, V2, ATOMIC, bytes(TXID_BYTES), *paths, *raw)),
        Parser(name="submission", parse=_submission, seeds=[body]),
    ]


def _made_beefs() -> list[Beef]:
    long = chain(6)
    bare = make_beef([entry.transaction for entry in long.transactions[1:] if entry.transaction])
    bare = Beef(
        paths=(),
        transactions=(BeefTransaction(txid=long.transactions[0].txid), *bare.transactions),
        subject=bare.subject,
    )
    wide = [spend([], salt=number, satoshis=5) for number in range(3)]
    children = [*wide, spend(wide, satoshis=9)]
    return [long, bare, make_beef(children, [block_path(wide, size=4)]), merge_beefs([long, chain(2)])]


def _compact_size(data: bytes) -> bytes:
    return write_compact_size(read_compact_size(data))


def _beef(data: bytes) -> bytes:
    beef = read_beef(data)
    atomic = data.startswith(ATOMIC)
    magic = data[MAGIC_BYTES + TXID_BYTES :][:MAGIC_BYTES] if atomic else data[:MAGIC_BYTES]
    merged = merge_beefs([beef, beef])
    assert len(merged.transactions) == len(beef.transactions), "a merged BEEF loses nothing"
    if beef.transaction(beef.subject) is not None:
        assert ancestry(beef, beef.subject).subject == beef.subject, "an ancestry keeps its subject"
    with suppress(InvalidTransactionError):
        check_amounts(beef)
    return write_beef(beef, version=1 if magic == V1 else 2, atomic=atomic)


def _submission(data: bytes) -> bytes:
    return write_submission(read_submission(data, has_off_chain_values=True))


# --- scripts and tokens ---------------------------------------------------------------------------------------


def _of_tokens() -> list[Parser]:
    key = ADVERTISER
    tokens = [
        build_token(key, "SHIP", "https://node.example", "tm_events"),
        build_token(key, "SLAP", "https+bsvauth://node.example:8443/", "ls_ship"),
    ]
    adverts = [
        build_uhrp_advert(key, digest=DIGEST, url=url, expires_s=4_102_444_800, size=size)
        for url, size in (("https://node.example/uhrp/x", 5), ("http://127.0.0.1:8080/x", 2**33))
    ]
    pushes = [pushdrop(key.identity, [b"x" * size for size in sizes]) for sizes in ((1,), (2, 76), (300,), (1,) * 40)]
    words = (
        b"https://",
        b"http://",
        b"[",
        b"]:",
        b"@",
        b"localhost",
        b"/",
        b"?",
        b"#",
        b":99999",
        b"\n",
        b"tm_",
        b"ls_",
    )
    return [
        Parser(name="PushDrop", parse=_pushdrop, seeds=[*pushes, *tokens, *adverts], tokens=SCRIPT_TOKENS),
        Parser(name="SHIP, SLAP", parse=_token, seeds=tokens, tokens=(*SCRIPT_TOKENS, *words)),
        Parser(name="UHRP advert", parse=_advert, seeds=adverts, tokens=(*SCRIPT_TOKENS, *words)),
        Parser(name="UHRP URL", parse=_url, seeds=_urls(), tokens=(b"uhrp:", b"UHRP:", b"//", b"web+", b"0OIl")),
    ]


def _urls() -> list[bytes]:
    return [(prefix + uhrp_url(DIGEST)).encode() for prefix in ("", "uhrp:", "uhrp://", "//")]


def _pushdrop(data: bytes) -> bytes:
    token = read_pushdrop(data)
    return pushdrop(token.locking_key, token.fields)


def _token(data: bytes) -> None:
    try:
        check_token(data, allow_local_urls=True)
    except BadSignatureError:
        word, _, *rest, _ = read_pushdrop(data).fields
        protocol = SHIP_AND_SLAP["SHIP" if word == b"SHIP" else "SLAP"]
        again = build_linked_token(ADVERTISER, protocol, (word, ADVERTISER.identity, *rest))
        check_token(again, allow_local_urls=True)


def _advert(data: bytes) -> None:
    try:
        check_uhrp_advert(data, allow_local_urls=True)
    except BadSignatureError:
        _, *rest, _ = read_pushdrop(data).fields
        again = build_linked_token(ADVERTISER, UHRP, (ADVERTISER.identity, *rest))
        check_uhrp_advert(again, allow_local_urls=True)


def _url(data: bytes) -> bytes:
    text = data.decode("utf-8", "surrogateescape")
    url = uhrp_url(read_uhrp_url(text))
    assert text.endswith(url), "a digest has one URL"
    return data


# --- messages between nodes -----------------------------------------------------------------------------------


def _of_messages() -> list[Parser]:
    messages = _messages()
    frames = [envelope.to_frame(envelope.sign(AGENTS[0], message), b"attached") for message in messages]
    wire = [encode_frame(kind, bytes(kind), 7) for kind in FrameKind]
    wire += [
        encode_frame(FrameKind.REQUEST, b"the same again, " * 80, 2**32 - 1),
        encode_frame(FrameKind.ONEWAY, bytes(2_000)),
    ]
    heads = [bytes([kind | COMPRESSED]) for kind in FrameKind]
    return [
        Parser(name="CBOR message", parse=_message, seeds=[encode(said) for said in messages], tokens=CBOR_TOKENS),
        Parser(name="manifests", parse=_manifests, seeds=[_manifest_page()], tokens=CBOR_TOKENS),
        Parser(name="signed frame", parse=_signed_frame, seeds=frames, tokens=CBOR_TOKENS),
        Parser(
            name="stream frames", parse=_stream, seeds=[*wire, b"".join(wire)], tokens=(*heads, b"\x28\xb5\x2f\xfd")
        ),
    ]


def _manifest_page() -> bytes:
    return encode(ManifestPage(entries=(envelope.to_frame(certified().manifest),)))


def _manifests(data: bytes) -> bytes:
    found = read_manifests(data, NETWORK, {certified().manifest.message.batch_id})
    assert all(said.batch_id == batch_id for batch_id, (_, said) in found.items())
    return encode(ManifestPage(entries=tuple(frame for frame, _ in found.values())))


def _messages() -> list[Message]:
    batch = certified()
    statement, evidence = batch.certificate.statement, batch.certificate.evidence
    award = Award(
        network=NETWORK,
        lease_id="lease",
        announcement_id="job",
        agent=AGENTS[1].identity,
        roles=(Role.NORMALIZE, Role.CERTIFY),
        batches=1,
        expires_ms=1_700_000_000_000,
    )
    return [
        batch.manifest.message,
        batch.certificate.certifications[0].message,
        evidence[0].message,
        award,
        WorkOrder(network=NETWORK, award=award, manifest=batch.manifest, context=b"{}", attempt=0),
        WorkResult(network=NETWORK, batch_id="b", evidence=evidence[:1], context_out=b"{}"),
        WorkRefused(network=NETWORK, batch_id="b", reason="full"),
        CertifyOrder(network=NETWORK, statement=statement, evidence=evidence[:2]),
        BatchSealed(network=NETWORK, certificate=batch.certificate),
        SealConfirmed(network=NETWORK, batch_id="b", statement_digest=statement.digest),
        *_market_messages(),
        CertifiedNotice(
            network=NETWORK,
            issued_ms=1,
            batches=tuple(
                CertifiedBatch(batch=DIGEST, topics=topics, certificate=DIGEST, records=DIGEST, outputs=DIGEST)
                for topics in (("weather.jfk",), ("a", "b" * 128))
            ),
        ),
        Advertisement(
            network=NETWORK,
            sequence=1,
            issued_ms=1,
            expires_ms=2,
            tokens=(build_token(AGENTS[0].key, "SHIP", "https://node.example", "tm_events"),),
            addresses=("/ip4/127.0.0.1/tcp/1",),
            url="https://node.example",
            capacity=1,
            price=0,
            operator="o",
            region="eu",
            build="b",
        ),
    ]


def _market_messages() -> list[Message]:
    return [
        Announcement(
            network=NETWORK,
            announcement_id="job",
            roles=(Role.VALIDATE,),
            level=Level.CRITICAL,
            quorum=3,
            lease_ms=60_000,
            batches=100,
            price_max=0,
            closes_ms=1,
        ),
        Bid(
            network=NETWORK,
            announcement_id="job",
            roles=(Role.NORMALIZE,),
            capacity=5,
            price=0,
            operator="o",
            region="eu",
            reason="",
        ),
    ]


def _message(data: bytes) -> bytes:
    return encode(decode_tagged(MESSAGES, data))


def _signed_frame(data: bytes) -> bytes:
    signed, attachment = envelope.open_frame(data, NETWORK)
    return envelope.to_frame(signed, attachment)


def _stream(data: bytes) -> None:
    reader = FrameReader()
    middle = len(data) // 2
    for chunk in (data[:middle], data[middle:]):
        for frame in reader.feed(chunk):
            open_body(frame)
    assert reader.buffered <= len(data), "a reader keeps no more than it was given"
