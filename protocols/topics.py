"""Topic managers (BRC-22): which outputs of a transaction a topic admits, and the token of certificates.

Managers judge tokens alone. That the coins are real, scripts run and paths lead into the chain is for others to
check, before or not at all; the answer to a submission says which.
"""

import hashlib
from collections.abc import Callable
from typing import Final, Protocol

import attrs

from protocols import codec
from protocols.advertisement import Kind, check_token
from protocols.certificate import verify_quorum
from protocols.errors import MalformedError, OverlayError
from protocols.identifiers import BATCH_ID
from protocols.keys import PrivateKey
from protocols.keys import Protocol as KeyProtocol
from protocols.messages import IdentityKey, QuorumCertificate
from protocols.scripts import read_pushdrop
from protocols.tokens import build_linked_token, check_link
from protocols.transactions import Transaction
from protocols.uhrp import check_uhrp_advert

OUTPUTS_CHECKED_MAX: Final = 256  # outputs of one transaction that a manager looks at, the first
CERTIFICATE_WORD: Final = b"EVENT CERTIFICATE"
CERTIFICATE_PROTOCOL: Final[KeyProtocol] = (2, "event certificate token")


@attrs.frozen(kw_only=True)
class Facts:
    """The facts by which an admitted output is looked up. ``expires_s`` is 0 for what does not expire."""

    output_index: int
    identity: IdentityKey
    url: str = ""
    name: str = ""
    digest: bytes = b""
    batch_id: str = ""
    expires_s: int = 0


class TopicManager(Protocol):
    """Judges the outputs of transactions for one topic."""

    @property
    def name(self) -> str:
        """``tm_`` and a name (BRC-87)."""

    @property
    def documentation(self) -> str:
        """Markdown for people: what is admitted."""

    def admit(self, transaction: Transaction, off_chain_values: bytes | None) -> tuple[Facts, ...]:
        """The outputs that belong to the topic. Pure: outputs that are not tokens of the topic are left out."""


@attrs.frozen(kw_only=True)
class AdvertisementManager:
    """``tm_ship`` and ``tm_slap``: who hosts which topic or lookup service (BRC-88), by the official rules."""

    kind: Kind
    allow_local_urls: bool

    @property
    def name(self) -> str:
        return f"tm_{self.kind.lower()}"

    @property
    def documentation(self) -> str:
        what = "topic (`tm_`)" if self.kind == "SHIP" else "lookup service (`ls_`)"
        return (
            f"# {self.name}\n\nAdmits {self.kind} tokens: PushDrop outputs of five fields, `{self.kind}`, identity "
            f"key, https URL without a path, {what}, signature. Signature and locking key are linked to the identity "
            "key by BRC-42, counterparty `anyone`.\n"
        )

    def admit(self, transaction: Transaction, off_chain_values: bytes | None) -> tuple[Facts, ...]:
        return _judged(transaction, self._read)

    def _read(self, index: int, script: bytes) -> Facts:
        token = check_token(script, allow_local_urls=self.allow_local_urls)
        if token.kind != self.kind:
            raise MalformedError(f"not a {self.kind} token")
        return Facts(output_index=index, identity=token.identity, url=token.url, name=token.name)


@attrs.frozen(kw_only=True)
class ObjectManager:
    """``tm_uhrp``: who serves which content until when (BRC-26), by the official rules."""

    allow_local_urls: bool
    name: str = "tm_uhrp"
    documentation: str = (
        "# tm_uhrp\n\nAdmits UHRP advertisements: PushDrop outputs of six fields, identity key, SHA-256, https URL, "
        "expiry (Unix seconds), size, signature, linked to the identity key by BRC-42, counterparty `anyone`.\n"
    )

    def admit(self, transaction: Transaction, off_chain_values: bytes | None) -> tuple[Facts, ...]:
        return _judged(transaction, self._read)

    def _read(self, index: int, script: bytes) -> Facts:
        advert = check_uhrp_advert(script, allow_local_urls=self.allow_local_urls)
        return Facts(
            output_index=index,
            identity=advert.identity,
            url=advert.url,
            digest=advert.digest,
            expires_s=advert.expires_s,
        )


@attrs.frozen(kw_only=True)
class CertificateManager:
    """Topics of certificates: tokens whose off-chain value is the quorum certificate that they name.

    Attributes:
        is_known: Whether an identity is a node of this network as far as this node knows: anybody can make
            keys and a quorum of them.
    """

    name: str
    network: str
    is_known: Callable[[IdentityKey], bool]

    @property
    def documentation(self) -> str:
        return (
            f"# {self.name}\n\nAdmits quorum certificates of the network `{self.network}`: PushDrop outputs of five "
            "fields, `EVENT CERTIFICATE`, identity key of the host, batch id, SHA-256 of the certificate, signature "
            "(protocol `2-event certificate token`, key ID `1`, counterparty `anyone`), in a submission whose "
            "off-chain values are the certificate's bytes. The certificate must verify, and its signers be nodes "
            "that this one has heard of.\n"
        )

    def admit(self, transaction: Transaction, off_chain_values: bytes | None) -> tuple[Facts, ...]:
        if off_chain_values is None:
            return ()
        try:
            certificate = codec.decode(QuorumCertificate, off_chain_values)
            verify_quorum(certificate, network=self.network)
        except (OverlayError, ValueError):
            return ()
        if not all(self.is_known(signed.signer) for signed in certificate.certifications):
            return ()
        statement, digest = certificate.statement, hashlib.sha256(off_chain_values).digest()

        def read(index: int, script: bytes) -> Facts:
            token = check_certificate_token(script)
            if (token.batch_id, token.digest) != (statement.batch_id, digest):
                raise MalformedError("the token is of another certificate")
            return attrs.evolve(token, output_index=index, name=statement.source_id)

        return _judged(transaction, read)


def build_certificate_token(key: PrivateKey, *, batch_id: str, digest: bytes) -> bytes:
    """The locking script that advertises: this host has the quorum certificate with that digest of that batch."""
    fields = (CERTIFICATE_WORD, key.identity, batch_id.encode("ascii"), digest)
    return build_linked_token(key, CERTIFICATE_PROTOCOL, fields)


def check_certificate_token(script: bytes) -> Facts:
    """What a certificate token says; ``output_index`` and ``name`` are not in it.

    Raises:
        MalformedError: it is none. BadSignatureError: not linked to its identity key.
    """
    token = read_pushdrop(script)
    if len(token.fields) != 5 or token.fields[0] != CERTIFICATE_WORD:
        raise MalformedError("not a certificate token")
    _, identity, batch_id, digest, _ = token.fields
    if len(digest) != 32 or not BATCH_ID.fullmatch(batch_id.decode("ascii", "replace")):
        raise MalformedError("a certificate token must name a batch and a SHA-256")
    check_link(token, identity, CERTIFICATE_PROTOCOL)
    return Facts(output_index=0, identity=IdentityKey(identity), digest=digest, batch_id=batch_id.decode("ascii"))


def _judged(transaction: Transaction, read: Callable[[int, bytes], Facts]) -> tuple[Facts, ...]:
    found = []
    for index, output in enumerate(transaction.outputs[:OUTPUTS_CHECKED_MAX]):
        try:
            found.append(read(index, output.locking_script))
        except OverlayError:
            continue
    return tuple(found)
