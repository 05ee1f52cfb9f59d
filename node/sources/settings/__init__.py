"""What the ``configuration`` of a source says, by its type: one model each, checked when a source is written.

Field names are those of the API. Secrets are written and never shown: a document that repeats ``HIDDEN`` where a
secret stands leaves the secret as it is.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from node.sources.settings.base import HIDDEN, SECRET_NAMES, SourceSettings
from node.sources.settings.kafka import KafkaSourceSettings
from node.sources.settings.mqtt import MqttSourceSettings
from node.sources.settings.overlay import OverlaySourceSettings
from node.sources.settings.poll import PollSourceSettings
from node.sources.settings.webhook import WebhookSourceSettings
from protocols.errors import ClientFault

__all__ = ["HIDDEN", "SECRET_NAMES", "SETTINGS", "InvalidConfigurationError", "SourceSettings", "hidden", "read"]

SETTINGS: Final[dict[str, type[SourceSettings]]] = {
    "mqtt": MqttSourceSettings,
    "kafka": KafkaSourceSettings,
    "overlay": OverlaySourceSettings,
    "webhook": WebhookSourceSettings,
    "poll": PollSourceSettings,
}


class InvalidConfigurationError(ClientFault):
    """Field ``field``: a JSON pointer into the source."""

    code = "invalid-configuration"


def read(source_type: str, configuration: Mapping[str, Any]) -> SourceSettings:
    """The settings of a source.

    Raises:
        InvalidConfigurationError: naming the first field that is wrong.
    """
    model = SETTINGS.get(source_type)
    if model is None:
        raise InvalidConfigurationError(
            f"/sourceType: {source_type} is not read by this version",
            field="/sourceType",
            remedy=f"use one of {', '.join(SETTINGS)}",
        )
    try:
        return model.model_validate(configuration)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = "/configuration" + "".join(f"/{part}" for part in detail["loc"])
        reason = detail["msg"].removeprefix("Value error, ")
        raise InvalidConfigurationError(
            f"{field[:200]}: {reason[:400]}", field=field[:200], remedy=f"see the settings of {source_type} sources"
        ) from None


def hidden(configuration: Any, *, is_secret: bool = False) -> Any:
    """A configuration the way it is shown."""
    if isinstance(configuration, dict):
        return {
            name: hidden(value, is_secret=is_secret or name in SECRET_NAMES) for name, value in configuration.items()
        }
    if isinstance(configuration, list):
        return [hidden(value, is_secret=is_secret) for value in configuration]
    return HIDDEN if is_secret and configuration is not None else configuration


def merged(new: Any, old: Any) -> Any:
    """A configuration with the secrets of the one before wherever it only repeats that there is one."""
    if isinstance(new, dict):
        before = old if isinstance(old, dict) else {}
        return {name: merged(value, before.get(name)) for name, value in new.items()}
    if isinstance(new, list):
        held = old if isinstance(old, list) and len(old) == len(new) else [None] * len(new)
        return [merged(value, one) for value, one in zip(new, held, strict=True)]
    return old if new == HIDDEN and old is not None else new
