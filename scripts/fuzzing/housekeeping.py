"""Deletes what calls created beyond a number, as an operator would: else a node is fuzzed that has 10,000 sources."""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import trio

from scripts.fuzzing.calls import Call, Nonces
from scripts.fuzzing.http_client import Connection, NoAnswerError
from scripts.fuzzing.target import Target
from scripts.fuzzing.world import KEPT

PAUSE_S: Final = 5.0
LEFT_MAX: Final = 12  # of each kind
BUILT_IN: Final = "builtIn"
IN_FORCE: Final = "inUse"  # instead of one that was kept
PAGE: Final = 1_000


class Housekeeping:
    """Keeps the number of things that calls create within a bound."""

    def __init__(self, target: Target, nonces: Nonces) -> None:
        self._target = target
        self._nonces = nonces
        self._places = deletable(target.document)

    async def run(self) -> None:
        """Until cancelled."""
        target = self._target
        async with Connection(target.node.http_port, target.world.node, self._nonces) as connection:
            while True:
                for path, name in self._places.items():
                    try:
                        await self._tidy(connection, path, name)
                    except (NoAnswerError, OSError):
                        await connection.close()
                await trio.sleep(PAUSE_S)

    async def _tidy(self, connection: Connection, path: str, name: str) -> None:
        listed = await connection.send(self._call("GET", f"{path}?limit={PAGE}"))
        if listed.status == 400:  # it has no pages
            listed = await connection.send(self._call("GET", path))
        document: Any = listed.document() or {}
        entries = next((part for part in document.values() if isinstance(part, list)), [])
        made = [entry for entry in entries if not _stays(entry)]
        left = [entry for entry in made if not entry.get(IN_FORCE)][:LEFT_MAX]
        for each in (str(entry[name]) for entry in made if entry not in left):
            await connection.send(self._call("DELETE", f"{path}/{quote(each, safe='')}"))

    def _call(self, method: str, target: str) -> Call:
        return Call(operation="", method=method, target=target, signer=self._target.operator)


def _stays(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get(BUILT_IN)) or any(str(part).startswith(KEPT) for part in entry.values())


def deletable(document: Mapping[str, Any]) -> dict[str, str]:
    """Lists whose items can be deleted by id, with the name of that."""
    found = {}
    for path, methods in document["paths"].items():
        match = re.fullmatch(r"([^{]+)/\{(\w+)\}", path)
        if match is not None and "delete" in methods and "get" in document["paths"].get(match[1], {}):
            found[match[1]] = match[2]
    return found
