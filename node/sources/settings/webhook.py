"""Settings of sources whose events are sent here: to the ingest API, or as webhooks."""

from typing import Annotated, Final, Literal, Self

import attrs
from pydantic import Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from node.sources.settings.base import EventSettings, HeaderName, Pointer
from node.sources.webhook_signatures import PRESETS, Encoding, SenderPreset, SignatureScheme, secret_key
from node.worker.parsing.shaping import Shape

SECRETS_MAX: Final = 8
SIGNED_BY: Final = ("header", "prefix", "encoding", "template", "signed_time_header", "signed_id_header")
OPEN_TO: Final[dict[str, tuple[str, ...]]] = {"hmac": SIGNED_BY, "bearer": ("header", "prefix")}

Secret = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class WebhookSourceSettings(EventSettings):
    """How deliveries to the source's webhook are authenticated and read.

    Without a `scheme` the source takes events through the ingest API only.
    """

    # schemes are those of node.sources.webhook_signatures.PRESETS
    scheme: Literal["", "github", "stripe", "slack", "standard", "hmac", "bearer", "none"] = Field(
        "", description="Who signs deliveries, and how. Deliveries without proof are taken with `none` only."
    )
    secret: Secret | None = Field(None, description="Secret that deliveries are signed with. Never shown.")
    secrets: tuple[Secret, ...] = Field(
        (), max_length=SECRETS_MAX, description="Further secrets, while one is replaced by another. Never shown."
    )
    header: HeaderName = Field("", description="With hmac and bearer: header that holds the signature or the token.")
    prefix: str = Field("", max_length=64, description="With hmac and bearer: text before the signature or token.")
    encoding: Encoding = Field("hex", description="With hmac: encoding of the signature.")
    template: str = Field(
        "{body}",
        max_length=256,
        description="With hmac: what is signed, made of `{body}`, `{timestamp}`, `{id}` and text between them.",
    )
    signed_time_header: HeaderName = Field(
        "", description="With hmac: header that holds the signed time, in seconds or milliseconds since 1970."
    )
    signed_id_header: HeaderName = Field(
        "", description="With hmac: header that holds the signed id of the delivery."
    )
    tolerance_seconds: int = Field(
        300, ge=1, le=86_400, description="With schemes that sign a time: how far it may be from the node's clock."
    )
    events_path: Pointer | None = Field(
        None,
        description="JSON pointer to the array of events in a delivery. Left out: a delivery is one event.",
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        given = self.model_fields_set
        if not self.scheme:
            if given:
                raise ValueError("must have a scheme with any other member; 'none' takes deliveries without proof")
            return self
        if bool(self.every_secret) == (self.scheme == "none"):
            raise ValueError(f"must have {'no' if self.every_secret else 'a'} secret with the scheme {self.scheme}")
        for name in SIGNED_BY:
            if name in given and name not in OPEN_TO.get(self.scheme, ()):
                raise ValueError(f"must not have {to_camel(name)}, which the scheme {self.scheme} defines itself")
        if self.scheme == "hmac":
            self._check_hmac()
        if self.events_path is not None and self.format != "json":
            raise ValueError("must have format json with eventsPath")
        for secret in self.every_secret:
            secret_key(self.signing, secret)
        return self

    def _check_hmac(self) -> None:
        if not self.header:
            raise ValueError("must have header, which holds the signature, with the scheme hmac")
        if "{body}" not in self.template:
            raise ValueError("must have {body} in template")
        for part, name, header in (
            ("{timestamp}", "signedTimeHeader", self.signed_time_header),
            ("{id}", "signedIdHeader", self.signed_id_header),
        ):
            if (part in self.template) != bool(header):
                raise ValueError(f"must have {name} exactly when template has {part}")

    @property
    def every_secret(self) -> tuple[str, ...]:
        return (*((self.secret,) if self.secret else ()), *self.secrets)

    @property
    def preset(self) -> SenderPreset:
        return PRESETS[self.scheme]

    @property
    def signing(self) -> SignatureScheme:
        """The scheme with the settings of this source."""
        row = self.preset.scheme
        if self.scheme == "hmac":
            return attrs.evolve(
                row,
                header=self.header,
                prefix=self.prefix,
                encoding=self.encoding,
                template=self.template,
                timestamp_header=self.signed_time_header,
                id_header=self.signed_id_header,
                tolerance_s=self.tolerance_seconds,
            )
        if self.scheme == "bearer" and self.header:
            return attrs.evolve(row, header=self.header, prefix=self.prefix)
        return attrs.evolve(row, tolerance_s=self.tolerance_seconds)

    @property
    def reading(self) -> Shape:
        """How events are read from deliveries: by the settings, and where they are silent by the scheme's preset."""
        shape, preset = self.shape, self.preset
        if not (shape.event_type or shape.event_type_path or shape.event_type_header):
            shape = attrs.evolve(shape, event_type_header=preset.type_header, event_type_path=preset.type_path)
        if not (shape.external_id_path or shape.external_id_header):
            shape = attrs.evolve(shape, external_id_header=preset.id_header, external_id_path=preset.id_path)
        if not (shape.timestamp_path or shape.timestamp_header):
            shape = attrs.evolve(shape, timestamp_path=preset.time_path)
        return shape
