"""Functions that an operator's own package brings to the policy language: named, versioned, known by their code.

Whoever runs a policy that names one must have that very code; an agent without it refuses the work.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from agents.document import Node
from protocols.errors import WorldFault

FUNCTIONS_MAX: Final = 16


class MissingFunctionError(WorldFault):
    """A policy names a function that is not installed here, or another version of it.

    Fields ``name``, ``version`` and ``hash`` are what the policy wants.
    """

    code = "missing-function"


@attrs.frozen(kw_only=True)
class Function:
    """An installed function.

    Attributes:
        name: Full, with dots. version: its package's. hash: SHA-256 of its module's source, 64 hex digits.
        call: Pure: JSON values in, a JSON value out.
    """

    name: str
    version: str
    hash: str
    call: Callable[..., Any]


Functions = tuple[Function, ...]


def read_functions(root: Node, installed: Functions) -> Mapping[str, Callable[..., Any]]:
    """The functions that a policy names, by name.

    Raises:
        InvalidPolicyError: An entry is wrong. MissingFunctionError: it names one that is not installed here.
    """
    known = {(function.name, function.hash): function for function in installed}
    found: dict[str, Callable[..., Any]] = {}
    for node in root.items("functions", FUNCTIONS_MAX):
        node.object("name", "version", "hash")
        name, digest = node.required("name").text(), node.required("hash").text()
        version = node.required("version").text()
        if name in found:
            node.refuse("this function is named before")
        function = known.get((name, digest))
        if function is None or function.version != version:
            raise MissingFunctionError(
                f"the function {name:.80} {version:.20} with the hash {digest:.16}... is not installed on this node",
                name=name,
                version=version,
                hash=digest,
            )
        found[name] = function.call
    return found
