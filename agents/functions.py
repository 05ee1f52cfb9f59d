"""Functions that an operator's own package adds to the policy language, identified by name, version and code.

An agent runs a policy only with the very code that the policy names; without it, it refuses the work. Checking a
policy needs only the functions' declarations, so that no process but a worker ever loads an operator's code.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

import attrs

from agents.document import DocumentNode
from protocols.errors import WorldFault

FUNCTIONS_MAX: Final = 16


class MissingFunctionError(WorldFault):
    """A policy names a function that is not installed here, or another version of it.

    Fields ``name``, ``version`` and ``hash`` are those that the policy names.
    """

    code = "missing-function"


@attrs.frozen(kw_only=True)
class DeclaredFunction:
    """What identifies a function.

    Attributes:
        name: Full, with dots. version: its package's. hash: SHA-256 of its module's source, 64 hex digits.
    """

    name: str
    version: str
    hash: str


@attrs.frozen(kw_only=True)
class Function(DeclaredFunction):
    """A loaded function. ``call`` is pure: JSON values in, a JSON value out."""

    call: Callable[..., Any]


Declarations = tuple[DeclaredFunction, ...]
Functions = tuple[Function, ...]


def read_functions(
    root: DocumentNode, known: Declarations | None
) -> tuple[Declarations, Mapping[str, Callable[..., Any]]]:
    """The functions that a policy names: their declarations, and what runs them by name.

    Args:
        known: Those that are installed here; those that are declared only cannot run. None: do not check.

    Raises:
        InvalidPolicyError: An entry is wrong. MissingFunctionError: it names one that is not among ``known``.
    """
    available = {(function.name, function.hash): function for function in known or ()}
    declared: list[DeclaredFunction] = []
    calls: dict[str, Callable[..., Any]] = {}
    for node in root.items("functions", FUNCTIONS_MAX):
        node.object("name", "version", "hash")
        name, digest = node.required("name").text(), node.required("hash").text()
        version = node.required("version").text()
        if name in calls:
            node.refuse(f"the function {name!r:.80} is named twice; name it once")
        wanted = DeclaredFunction(name=name, version=version, hash=digest)
        function = wanted if known is None else available.get((name, digest))
        if function is None or function.version != version:
            raise MissingFunctionError(
                f"the function {name:.80} {version:.20} with the hash {digest:.16}... is not installed on this node",
                name=name,
                version=version,
                hash=digest,
            )
        declared.append(wanted)
        calls[name] = function.call if isinstance(function, Function) else not_loaded
    return tuple(declared), calls


def not_loaded(*arguments: Any) -> NoReturn:
    raise AssertionError("a policy that was compiled from declarations is never run")
