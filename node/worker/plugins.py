"""Functions of installed packages, by their entry points: ``[project.entry-points."overlay_node.functions"]``.

An entry point's name is the function's name in policies; its hash is that of its module's source, so that the same
name and version with other code is another function, and agents that have it agree to the bit.

``catalogue`` reads metadata and sources only and may be called anywhere. ``functions_for`` imports the packages,
which runs an operator's code: worker processes call it, and the commands that an operator runs by hand.
"""

import functools
import hashlib
import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final

from agents.functions import Declarations, DeclaredFunction, Function, Functions
from agents.policy import policy_facts

GROUP: Final = "overlay_node.functions"
NAMES: Final = b'"functions"'
LOADED_MAX: Final = 1_024


def functions_for(policy: bytes) -> Functions:
    """Import the installed functions that a policy names. One that cannot be loaded is left out.

    Raises:
        InvalidPolicyError: The policy is wrong.
    """
    if NAMES not in policy:
        return ()
    wanted = policy_facts(policy).functions
    found = (_load(point, declared) for declared, point in _installed() if declared in wanted)
    return tuple(function for function in found if function is not None)


def catalogue() -> Declarations:
    """Every function that the installed packages declare, by name. Imports none of them.

    A package whose metadata or source cannot be read declares none.
    """
    return tuple(declared for declared, _ in _installed())


def forget() -> None:
    """Look at what is installed anew. A process does it when it starts."""
    _installed.cache_clear()
    _load.cache_clear()


@functools.lru_cache(maxsize=1)
def _installed() -> tuple[tuple[DeclaredFunction, EntryPoint], ...]:
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    found = ((_declared(point), point) for point in points)
    return tuple((declared, point) for declared, point in found if declared is not None)


def _declared(point: EntryPoint) -> DeclaredFunction | None:
    try:
        source = _source_of(point.module)
        if source is None or point.dist is None:
            return None
        digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()
        return DeclaredFunction(name=point.name, version=point.dist.version, hash=digest)
    except Exception:  # noqa: BLE001  # broken metadata: without it, policies that name the function are refused
        return None


def _source_of(module: str) -> str | None:
    """The file that a module would be loaded from. ``importlib.util.find_spec`` would import its parents."""
    name, spec, places = "", None, None
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = _find(name, places)
        if spec is None:
            return None
        places = spec.submodule_search_locations
    return spec.origin if spec is not None and spec.has_location else None


def _find(name: str, places: Sequence[str] | None) -> importlib.machinery.ModuleSpec | None:
    found = (finder.find_spec(name, places) for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return next((spec for spec in found if spec is not None), None)


@functools.lru_cache(maxsize=LOADED_MAX)
def _load(point: EntryPoint, declared: DeclaredFunction) -> Function | None:
    try:
        call = point.load()
        if not callable(call):
            return None
    except BaseException:  # noqa: BLE001  # an operator's code, which may even call sys.exit
        return None
    # A partial, since an operator's object need not be hashable, and compiled policies are kept by their functions.
    return Function(name=declared.name, version=declared.version, hash=declared.hash, call=functools.partial(call))
