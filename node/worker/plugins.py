"""Functions of installed packages, by their entry points: ``[project.entry-points."overlay_node.functions"]``.

An entry point's name is the function's name in policies; its hash is that of its module's source, so that the same
name and version with other code is another function, and agents that have it agree to the bit.
"""

import functools
import hashlib
import importlib.util
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final

from agents.functions import Function, Functions

GROUP: Final = "overlay_node.functions"
NAMES: Final = b'"functions"'


def functions_for(policy: bytes) -> Functions:
    """The installed functions, for a policy that may name some; none are loaded for one that does not."""
    return installed() if NAMES in policy else ()


@functools.lru_cache(maxsize=1)
def installed() -> Functions:
    """Every function that the installed packages bring, by name. A package that cannot be loaded brings none."""
    found = (_load(point) for point in sorted(entry_points(group=GROUP), key=lambda point: point.name))
    return tuple(function for function in found if function is not None)


def _load(point: EntryPoint) -> Function | None:
    try:
        spec = importlib.util.find_spec(point.module)
        call = point.load()
    except Exception:  # noqa: BLE001  # a stranger's code: without it, policies that name it are refused
        return None
    if spec is None or spec.origin is None or not callable(call) or point.dist is None:
        return None
    digest = hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
    return Function(name=point.name, version=point.dist.version, hash=digest, call=call)
