"""Fixtures that tests of several of the node's packages use."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.worker import plugins


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for packages of an operator's, on the path of this process and of workers that it starts."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(directory)
    plugins.forget()
    before = set(sys.modules)
    yield directory
    plugins.forget()
    for name in set(sys.modules) - before:
        del sys.modules[name]
