"""From types to JSON Schemas as OpenAPI 3.1 uses them: components by name, without what only Python needs."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

Schema = dict[str, Any]

PLACE: Final = "#/components/schemas/"
SUFFIX: Final = "Document"
"""Ends the names of models that would else be called like a type of another package; components go without it."""


class _Generator(GenerateJsonSchema):
    """Without titles, which repeat names, and without defaults of null, which mean members left out."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        described = super().default_schema(schema)
        if described.get("default", ...) is None:
            del described["default"]
        return described

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        if isinstance(inner.get("type"), str) and "enum" not in inner:
            return {**inner, "type": [inner["type"], "null"]}
        return self.get_union_of_schemas([inner, {"type": "null"}])


class Schemas:
    """The schemas of all types that a description uses, made together so that each component is listed once."""

    def __init__(self, types: Sequence[Any]) -> None:
        adapters = [(number, "validation", TypeAdapter(each)) for number, each in enumerate(types)]
        found, defined = TypeAdapter.json_schemas(
            adapters,  # type: ignore[arg-type]  # "validation" is one of the modes
            ref_template=PLACE + "{model}",
            schema_generator=_Generator,
        )
        self._types = list(types)
        self._schemas = [_finished(found[number, "validation"]) for number in range(len(types))]
        self.components: dict[str, Schema] = {}
        for name, schema in defined.get("$defs", {}).items():
            own = _component(name)
            assert own not in self.components, f"two models are called {own}"
            self.components[own] = _finished(schema)

    def of(self, described: Any) -> Schema:
        """The schema of one of the types; a reference where it is a component."""
        return next(schema for each, schema in zip(self._types, self._schemas, strict=True) if each is described)


def inline_schema(model: type[BaseModel]) -> Schema:
    """The schema of a model that refers to no other."""
    schema: Schema = _finished(model.model_json_schema(schema_generator=_Generator))
    assert "$defs" not in schema, f"{model.__name__} refers to other models"
    return schema


def type_schema(described: Any) -> Schema:
    """The schema of a type that refers to no model."""
    schema: Schema = _finished(TypeAdapter(described).json_schema(schema_generator=_Generator))
    return schema


def properties(model: type[BaseModel]) -> Mapping[str, tuple[Schema, bool]]:
    """The members of a model that is described by its members, and whether each is required."""
    schema = inline_schema(model)
    required = schema.get("required", ())
    return {name: (each, name in required) for name, each in schema["properties"].items()}


def _component(name: str) -> str:
    return name.removesuffix(SUFFIX) or name


def _finished(value: Any, *, is_named: bool = False) -> Any:
    """A schema with components' own names and plain descriptions; ``is_named``: of an object's properties."""
    if isinstance(value, list):
        return [_finished(each) for each in value]
    if isinstance(value, str) and value.startswith(PLACE):  # $ref, and the mapping of a discriminator
        return PLACE + _component(value.removeprefix(PLACE))
    if not isinstance(value, dict):
        return value
    finished = {}
    for key, each in value.items():
        if is_named:
            finished[key] = _finished(each)
        elif key == "description":
            finished[key] = _summary(each)
        elif key in ("default", "enum", "examples"):
            finished[key] = each
        elif key != "title":
            finished[key] = _finished(each, is_named=key == "properties")
    return finished


def _summary(text: str) -> str:
    """The first paragraph of a docstring, without the marks of reStructuredText."""
    return " ".join(text.partition("\n\n")[0].split()).replace("``", "`")
