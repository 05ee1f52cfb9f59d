"""One value, one encoding: attrs classes to deterministic CBOR arrays and back.

A class is an array of its fields in order, led by its tag where several classes can stand in one place.
No maps and no floats occur, so deterministic encoding (RFC 8949, 4.2.1) is: shortest integers and definite
lengths, which ``cbor2`` writes. ``cbor2.loads`` accepts more than that (overlong integers, indefinite
lengths, trailing bytes), so ``decode`` encodes again and compares: other bytes are refused.

Fields that a class got later stand at its end and are declared by ``added``. Those at the end that have their
defaults are left out, so that what an earlier version wrote keeps its bytes, and is read.
"""

import enum
import types
import typing
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import attrs
import cbor2

from protocols.errors import MalformedError, NonCanonicalError
from protocols.limits import CBOR_DEPTH_MAX

ADDED: typing.Final = "added to the encoding"

T = TypeVar("T")
Encoder = Callable[[Any], Any]
Decoder = Callable[[Any], Any]


def added(default: T, validator: Any = None) -> T:
    """A field that its class got after instances of it were stored or sent; it stands after all earlier ones."""
    field: T = attrs.field(default=default, validator=validator, metadata={ADDED: True})
    return field


def encode(value: Any) -> bytes:
    """Encode an attrs instance; a tagged class (``TAG``) starts with its tag."""
    return cbor2.dumps(_class_coders(type(value))[0](value), canonical=True)


def decode(cls: type[T], data: bytes) -> T:
    """Decode exactly one ``cls`` from ``data``.

    Raises:
        MalformedError: the bytes are not CBOR, or not of this shape.
        NonCanonicalError: the same value has another encoding.
    """
    value = typing.cast(T, _class_coders(cls)[1](_load(data)))
    if encode(value) != data:
        raise NonCanonicalError(f"{cls.__name__}: the same value has another encoding")
    return value


def decode_tagged(classes: Sequence[type[T]], data: bytes) -> T:
    """Decode one instance of whichever of ``classes`` carries the tag in ``data``."""
    raw = _load(data)
    tag = raw[0] if isinstance(raw, list) and raw else None
    for cls in classes:
        if isinstance(tag, int) and getattr(cls, "TAG", None) == tag:
            return decode(cls, data)
    raise MalformedError(f"unknown message tag {tag!r:.40}")


def _load(data: bytes) -> Any:
    try:
        return cbor2.loads(data, max_depth=CBOR_DEPTH_MAX)
    except (cbor2.CBORDecodeError, ValueError, RecursionError) as error:
        raise MalformedError(f"the bytes must be CBOR of at most {CBOR_DEPTH_MAX} levels") from error


def _class_coders(cls: Any) -> tuple[Encoder, Decoder]:
    return _class_coders_of(cls)


@lru_cache(maxsize=256)
def _class_coders_of(cls: Hashable) -> tuple[Encoder, Decoder]:
    """Coders for one attrs class, built once from its annotations."""
    assert isinstance(cls, type)
    hints = typing.get_type_hints(cls)
    fields = attrs.fields(cls)
    names = [field.name for field in fields]
    arguments = [field.alias for field in fields]
    coders = [_coders(hints[name]) for name in names]
    tag: int | None = getattr(cls, "TAG", None)
    length = len(names) + (tag is not None)
    later = [field for field in fields if field.metadata.get(ADDED)]
    assert later == list(fields)[len(fields) - len(later) :], f"{cls.__name__}: added fields stand at the end"
    least = length - len(later)
    wanted = f"{length}" if not later else f"{least} to {length}"

    def to_value(instance: Any) -> list[Any]:
        row = [coder[0](getattr(instance, name)) for name, coder in zip(names, coders, strict=True)]
        for field in reversed(later):
            if getattr(instance, field.name) != field.default:
                break
            row.pop()
        return row if tag is None else [tag, *row]

    def from_value(raw: Any) -> Any:
        if not isinstance(raw, list) or not least <= len(raw) <= length or (tag is not None and raw[0] != tag):
            raise MalformedError(f"{cls.__name__} must be an array of {wanted}")
        row = raw if tag is None else raw[1:]
        values = {name: coder[1](item) for name, coder, item in zip(arguments, coders, row, strict=False)}
        try:
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise MalformedError(f"{cls.__name__}: {error}") from error

    return to_value, from_value


def _coders(hint: Any) -> tuple[Encoder, Decoder]:
    origin = typing.get_origin(hint)
    if origin is None:
        return _plain_coders(hint)
    arguments = typing.get_args(hint)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _sequence_coders(arguments[0])
    if origin is tuple:
        return _row_coders(arguments)
    if origin in (typing.Union, types.UnionType) and type(None) in arguments:
        inner = [argument for argument in arguments if argument is not type(None)]
        return _optional_coders(_coders(inner[0]))
    if hasattr(origin, "__coders__"):
        return typing.cast(tuple[Encoder, Decoder], origin.__coders__(*arguments))
    raise TypeError(f"no encoding for {hint!r}")


def _plain_coders(hint: Any) -> tuple[Encoder, Decoder]:
    if attrs.has(hint):
        return _class_coders(hint)
    if isinstance(hint, type) and issubclass(hint, enum.IntEnum):
        return int, _enum_decoder(hint)
    if hint in (int, bytes, str, bool):
        return _same, _exact_decoder(hint)
    raise TypeError(f"no encoding for {hint!r}")


def _same(value: Any) -> Any:
    return value


def _exact_decoder(cls: type[Any]) -> Decoder:
    def check(raw: Any) -> Any:
        if type(raw) is not cls:
            raise MalformedError(f"expected {cls.__name__}, got {type(raw).__name__}")
        return raw

    return check


def _enum_decoder(cls: type[enum.IntEnum]) -> Decoder:
    def check(raw: Any) -> Any:
        if type(raw) is not int:
            raise MalformedError(f"expected the integer of a {cls.__name__}")
        try:
            return cls(raw)
        except ValueError as error:
            raise MalformedError(f"{raw} is not a value of {cls.__name__}") from error

    return check


def _sequence_coders(item: Any) -> tuple[Encoder, Decoder]:
    encoder, decoder = _coders(item)

    def from_value(raw: Any) -> tuple[Any, ...]:
        if not isinstance(raw, list):
            raise MalformedError("expected an array")
        return tuple(decoder(element) for element in raw)

    return (lambda values: [encoder(value) for value in values]), from_value


def _row_coders(items: Sequence[Any]) -> tuple[Encoder, Decoder]:
    coders = [_coders(item) for item in items]

    def from_value(raw: Any) -> tuple[Any, ...]:
        if not isinstance(raw, list) or len(raw) != len(coders):
            raise MalformedError(f"expected an array of {len(coders)}")
        return tuple(coder[1](element) for coder, element in zip(coders, raw, strict=True))

    return (lambda values: [coder[0](value) for coder, value in zip(coders, values, strict=True)]), from_value


def _optional_coders(inner: tuple[Encoder, Decoder]) -> tuple[Encoder, Decoder]:
    encoder, decoder = inner
    return (
        lambda value: None if value is None else encoder(value),
        lambda raw: None if raw is None else decoder(raw),
    )
