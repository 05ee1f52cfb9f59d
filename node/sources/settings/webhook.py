"""Sources whose events others send here: to the ingest API, or as signed webhooks."""

from typing import Annotated, Final, Literal

import attrs
from pydantic import Field, StringConstraints, model_validator

from node.sources.settings.base import EventSettings, HeaderName, Pointer
from node.sources.webhook_signatures import PRESETS, Encoding, Preset, Scheme, secret_key
from node.worker.parsing.shaping import Shape

SECRETS_MAX: Final = 8
SIGNED_BY: Final = ("header", "prefix", "encoding", "template", "signed_time_header", "signed_id_header")
OPEN_TO: Final[dict[str, tuple[str, ...]]] = {"hmac": SIGNED_BY, "bearer": ("header", "prefix")}

Secret = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class WebhookSourceSettings(EventSettings):
    """Without a ``scheme`` the source takes events by the ingest API alone.

    Attributes:
        scheme: Who signs, and how: a name of ``PRESETS``. ``none`` must be said.
        secret, secrets: What deliveries may be signed with; several while a secret is changed for another.
        header, prefix, encoding, template, signed_time_header, signed_id_header: The scheme, where it is ``hmac``;
            see ``node.sources.webhook_signatures.Scheme``. ``bearer`` takes the first two.
        tolerance_seconds: The replay window of schemes that sign a time.
        events_path: JSON pointer to the array of events in a delivery; without it a delivery is one event.
    """

    scheme: Literal["", "github", "stripe", "slack", "standard", "hmac", "bearer", "none"] = ""
    secret: Secret | None = None
    secrets: tuple[Secret, ...] = Field((), max_length=SECRETS_MAX)
    header: HeaderName = ""
    prefix: str = Field("", max_length=64)
    encoding: Encoding = "hex"
    template: str = Field("{body}", max_length=256)
    signed_time_header: HeaderName = ""
    signed_id_header: HeaderName = ""
    tolerance_seconds: int = Field(300, ge=1, le=86_400)
    events_path: Pointer | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> "WebhookSourceSettings":
        said = self.model_fields_set
        if not self.scheme:
            if said:
                raise ValueError("say by which scheme deliveries prove themselves, 'none' if by none")
            return self
        if bool(self.every_secret) == (self.scheme == "none"):
            raise ValueError(f"the scheme {self.scheme} needs {'no' if self.every_secret else 'a'} secret")
        for name in SIGNED_BY:
            if name in said and name not in OPEN_TO.get(self.scheme, ()):
                raise ValueError(f"the scheme {self.scheme} says itself what its {name} is")
        if self.scheme == "hmac":
            self._check_hmac()
        if self.events_path is not None and self.format != "json":
            raise ValueError("only JSON holds an array of events")
        for secret in self.every_secret:
            secret_key(self.signing, secret)
        return self

    def _check_hmac(self) -> None:
        if not self.header:
            raise ValueError("say the header that the signature stands in")
        if "{body}" not in self.template:
            raise ValueError("the template does not hold {body}")
        for part, name, header in (
            ("{timestamp}", "signedTimeHeader", self.signed_time_header),
            ("{id}", "signedIdHeader", self.signed_id_header),
        ):
            if (part in self.template) != bool(header):
                raise ValueError(f"{part} in the template and {name} go together")

    @property
    def every_secret(self) -> tuple[str, ...]:
        return (*((self.secret,) if self.secret else ()), *self.secrets)

    @property
    def preset(self) -> Preset:
        return PRESETS[self.scheme]

    @property
    def signing(self) -> Scheme:
        """The scheme as this source has it."""
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
        """How events are read from deliveries: as the settings say, else as the sender is known to say it."""
        shape, preset = self.shape, self.preset
        if not (shape.event_type or shape.event_type_path or shape.event_type_header):
            shape = attrs.evolve(shape, event_type_header=preset.type_header, event_type_path=preset.type_path)
        if not (shape.external_id_path or shape.external_id_header):
            shape = attrs.evolve(shape, external_id_header=preset.id_header, external_id_path=preset.id_path)
        if not (shape.timestamp_path or shape.timestamp_header):
            shape = attrs.evolve(shape, timestamp_path=preset.time_path)
        return shape
