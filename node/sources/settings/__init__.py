"""The ``configuration`` of a source, by its type: one model each, checked whenever a source is written.

Secrets are written and never shown: a document that repeats ``HIDDEN`` in place of a secret leaves the secret
unchanged.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from node.runtime.document_models import FieldProblem, read_document
from node.sources.settings.base import HIDDEN, SECRET_NAMES, SourceSettings
from node.sources.settings.kafka import KafkaSourceSettings
from node.sources.settings.mqtt import MqttSourceSettings
from node.sources.settings.overlay import OverlaySourceSettings
from node.sources.settings.poll import PollSourceSettings
from node.sources.settings.webhook import WebhookSourceSettings
from protocols.errors import ClientFault

__all__ = [
    "HIDDEN",
    "SECRET_NAMES",
    "SETTINGS",
    "AnySourceSettings",
    "InvalidConfigurationError",
    "SourceSettings",
    "hidden",
    "read",
]

SETTINGS: Final[dict[str, type[SourceSettings]]] = {
    "mqtt": MqttSourceSettings,
    "kafka": KafkaSourceSettings,
    "overlay": OverlaySourceSettings,
    "webhook": WebhookSourceSettings,
    "poll": PollSourceSettings,
}
AnySourceSettings: TypeAlias = (
    WebhookSourceSettings | PollSourceSettings | MqttSourceSettings | KafkaSourceSettings | OverlaySourceSettings
)


class InvalidConfigurationError(ClientFault):
    """Field ``field``: a JSON pointer into the source."""

    code = "invalid-configuration"


def read(source_type: str, configuration: Mapping[str, Any]) -> SourceSettings:
    """The settings of a source.

    Raises:
        InvalidConfigurationError: Naming the first member that is wrong.
    """
    model = SETTINGS.get(source_type)
    if model is None:
        raise InvalidConfigurationError(
            f"/sourceType: must be one of {', '.join(SETTINGS)}, found {source_type[:40]!r}",
            field="/sourceType",
            remedy=f"send one of {', '.join(SETTINGS)}",
        )
    return read_document(model, configuration, _invalid, pointer="/configuration")


def _invalid(problem: FieldProblem) -> InvalidConfigurationError:
    return InvalidConfigurationError(str(problem), field=problem.pointer, remedy=problem.remedy)


def hidden(configuration: Any, *, is_secret: bool = False) -> Any:
    """A configuration as it is shown: without its secrets."""
    if isinstance(configuration, dict):
        return {
            name: hidden(value, is_secret=is_secret or name in SECRET_NAMES) for name, value in configuration.items()
        }
    if isinstance(configuration, list):
        return [hidden(value, is_secret=is_secret) for value in configuration]
    return HIDDEN if is_secret and configuration is not None else configuration


def merged(new: Any, old: Any) -> Any:
    """A new configuration, with the secrets of the old one wherever ``HIDDEN`` is in their place."""
    if isinstance(new, dict):
        before = old if isinstance(old, dict) else {}
        return {name: merged(value, before.get(name)) for name, value in new.items()}
    if isinstance(new, list):
        held = old if isinstance(old, list) and len(old) == len(new) else [None] * len(new)
        return [merged(value, one) for value, one in zip(new, held, strict=True)]
    return old if new == HIDDEN and old is not None else new
