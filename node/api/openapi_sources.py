"""What the configurations of sources look like, from the models that check them."""

from typing import Any, Final

from node.sources.settings import SETTINGS

PLACE: Final = "#/components/schemas/{model}"


def configuration_schemas() -> dict[str, Any]:
    """The schemas of all types of source, with those that they refer to, by the names of the models."""
    found: dict[str, Any] = {}
    for model in SETTINGS.values():
        schema = model.model_json_schema(by_alias=True, ref_template=PLACE)
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    return found


def configuration_by_type() -> dict[str, Any]:
    """The schema of ``configuration``: one of those, by the source's type."""
    types = "; ".join(f"{source_type}: {model.__name__}" for source_type, model in SETTINGS.items())
    return {
        "description": f"By the source's type: {types}.",
        "anyOf": [{"$ref": PLACE.format(model=model.__name__)} for model in SETTINGS.values()],
    }
