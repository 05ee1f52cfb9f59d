"""The node's identity, its caller, its peers, and its state."""

from typing import Annotated, Final, Literal, get_args

from pydantic import ConfigDict, Field, StringConstraints

from node.api.models.base import AnswerModel, Hex, IdentityKeyText, JsonObject, OneOf, RoleName, Time
from node.runtime.access import CallerRole, Form
from node.runtime.document_models import optional_member
from protocols.authentication import CERTIFICATES_MAX, SIGNATURE_BYTES_MAX

QUADS: Final = "(?:[A-Za-z0-9+/]{4})"
REST: Final = "(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)"
Nonce = Annotated[
    str,
    Field(description="16 to 64 bytes in standard base64, with padding."),
    StringConstraints(
        pattern=f"^(?:{QUADS}{{5}}{REST}|{QUADS}{{6,20}}{REST}?|{QUADS}{{21}}(?:[A-Za-z0-9+/][AQgw]==)?)$"
    ),
]


class NodeIdentity(AnswerModel):
    """Whose node this is: what a client must know to prove its identity here."""

    agent_id: str
    identity_key: Hex
    network: str
    build: str
    identity_required: bool = Field(description="Whether events are taken of proven identities only.")


class CallerDocument(AnswerModel):
    """Who the caller proved to be, and its roles here."""

    identity_key: Hex | None
    form: Annotated[str, OneOf(get_args(Form))]
    roles: list[Annotated[str, OneOf(role.value for role in CallerRole)]]


class PeerDocument(AnswerModel):
    """Another node that this one knows an address of."""

    agent_id: str
    identity_key: Hex
    addresses: list[str]
    connected: bool
    connected_since: Time | None
    queued_frames: int
    refusal: str | None = Field(description="Why no connection is kept; null: a connection is kept or wanted.")


class PeerList(AnswerModel):
    peers: list[PeerDocument]


class HealthDocument(AnswerModel):
    status: str


class Reason(AnswerModel):
    """Something that is wrong with the node."""

    code: str = Field(description="For machines; the metric overlay_condition has it as its label 'reason'.")
    detail: str
    since: Time = Field(description="When it was first found.")
    remedy: str = Field(description="What its operator can do about it.")


class ReadinessCheck(AnswerModel):
    """What was looked at. ``ok``: nothing of it keeps the node from its work."""

    ok: bool
    detail: str


class Readiness(AnswerModel):
    """Whether the node can do its work, and what is wrong with it."""

    status: Annotated[str, OneOf(("ready", "not-ready"))]
    reasons: list[Reason] = Field(description="What keeps the node from taking or serving something.")
    warnings: list[Reason] = Field(description="What is wrong while the rest works.")
    checks: dict[str, ReadinessCheck]


class AgentTotals(AnswerModel):
    agent_id: str
    role: RoleName
    events: int
    batches: int


class Stats(AnswerModel):
    """What became of the events taken in here."""

    acknowledged: int = Field(description="Event versions taken in on this node: the sum of the next four.")
    certified: int
    invalid: int
    pending: int
    dead: int
    batches: int
    levels: dict[str, int] = Field(description="Certified events by level.")
    latency_ms: dict[str, float | None] = Field(description="From commit to certificate, of the batches sealed last.")
    agents: list[AgentTotals] = Field(description="Whose evidence agreed with what was certified.")
    dissent: int = Field(description="Statements that differ from what was certified.")
    equivocations: int = Field(description="Agents' contradictions, by batch and role.")


class InitialRequest(AnswerModel):
    """The first message of a handshake (BRC-103, in the form of BRC-104). Other members are ignored."""

    model_config = ConfigDict(extra="allow")

    version: Literal["0.1"]
    message_type: Literal["initialRequest"]
    identity_key: IdentityKeyText
    initial_nonce: Nonce


class CertificateResponse(AnswerModel):
    """Certificates that a client shows in its session, signed (BRC-103). Other members are ignored."""

    model_config = ConfigDict(extra="allow")

    version: Literal["0.1"]
    message_type: Literal["certificateResponse"]
    identity_key: IdentityKeyText
    nonce: Nonce
    your_nonce: str
    certificates: list[JsonObject] = Field(max_length=CERTIFICATES_MAX)
    signature: list[Annotated[int, Field(ge=0, le=255)]] = Field(
        max_length=SIGNATURE_BYTES_MAX, description="A DER signature, bytes as numbers."
    )


HandshakeRequest = Annotated[InitialRequest | CertificateResponse, Field(discriminator="message_type")]


class AuthriteRequest(AnswerModel):
    """The first message of a handshake of the legacy BRC-31 (Authrite 0.1). Other members are ignored."""

    model_config = ConfigDict(extra="allow")

    authrite: Literal["0.1"]
    message_type: Literal["initialRequest"]
    identity_key: IdentityKeyText
    nonce: Nonce


class HandshakeMessage(AnswerModel):
    """A message of BRC-103, in the form of BRC-104; the standard describes its members."""

    model_config = ConfigDict(extra="allow")

    version: str
    message_type: str
    identity_key: Hex = optional_member()
    initial_nonce: str = optional_member()
    your_nonce: str = optional_member()
    nonce: str = optional_member()


class AuthriteMessage(AnswerModel):
    """A message of the legacy BRC-31 (Authrite 0.1)."""

    model_config = ConfigDict(extra="allow")

    authrite: str
    message_type: str
