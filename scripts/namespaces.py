"""Network namespaces of this machine as machines of a network: an address each, joined by a bridge. Linux, root."""

import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final

HOSTS_MAX: Final = 250
NETWORK: Final = "198.18"  # addresses for benchmarks of network devices (RFC 2544)


class NamespacesError(Exception):
    """Namespaces cannot be made here; the text says why."""


class Namespaces:
    """``with Namespaces(3) as spaces``: three, removed at the end. This process reaches all of their addresses.

    Attributes:
        hosts: The address of each.
    """

    def __init__(self, count: int) -> None:
        assert 1 <= count <= HOSTS_MAX
        self._id = os.getpid()
        self._subnet = f"{NETWORK}.{self._id % 256}"
        self._undo = ExitStack()
        self.hosts = [f"{self._subnet}.{number}" for number in range(1, count + 1)]

    def command(self, index: int) -> tuple[str, ...]:
        """What goes before a command to run it in that namespace, in the same process."""
        return ("ip", "netns", "exec", self._name(index))

    def bytes_carried(self, index: int) -> int:
        """Bytes to and from a namespace so far, with all headers."""
        counters = Path(f"/sys/class/net/{self._outer(index)}/statistics")
        return sum(int((counters / f"{direction}_bytes").read_text()) for direction in ("rx", "tx"))

    def __enter__(self) -> "Namespaces":
        if os.geteuid() != 0:
            raise NamespacesError("network namespaces need root")
        if shutil.which("ip") is None:
            raise NamespacesError("the command 'ip' is not installed: apt-get install iproute2")
        with self._undo as undo:
            self._make()
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def _make(self) -> None:
        bridge = f"ob{self._id}"
        _ip("link", "add", bridge, "type", "bridge")
        self._undo.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{self._subnet}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for index, host in enumerate(self.hosts):
            name, outer = self._name(index), self._outer(index)
            _ip("netns", "add", name)
            self._undo.callback(_ip, "netns", "del", name)
            _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", outer, "master", bridge, "up")
            _ip("-n", name, "addr", "add", f"{host}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")

    def _name(self, index: int) -> str:
        return f"overlay-{self._id}-{index + 1}"

    def _outer(self, index: int) -> str:
        return f"ov{self._id}x{index + 1}"  # an interface's name has 15 characters at most


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NamespacesError(f"'ip {' '.join(arguments)}' failed: {done.stderr.strip()}")
