"""Packages with functions of an operator's, as installers leave them: a module and its metadata in a directory."""

import hashlib
from pathlib import Path

from agents.functions import DeclaredFunction
from protocols.canonical import canonical_json

Entry = dict[str, str]

MISBEHAVING = """
import os
import time


def f(value):
    if value == "key":
        return {}[value]
    if value == "exit":
        raise SystemExit(3)
    if value == "interrupt":
        raise KeyboardInterrupt
    if value == "odd":
        return object()
    if value == "end":
        os._exit(1)
    if value == "hang":
        time.sleep(3600)
    return value == "yes"
"""


def install(site: Path, module: str, source: str, function: str = "f", version: str = "1.0") -> Entry:
    """Install a package with one function, ``acme.<module>``. Returns its entry for a policy's ``functions``."""
    file = site.joinpath(*module.split(".")).with_suffix(".py")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    info = site / f"{module.replace('.', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[overlay_node.functions]\nacme.{module} = {module}:{function}\n")
    return {"name": f"acme.{module}", "version": version, "hash": hashlib.sha256(source.encode()).hexdigest()}


def declared(entry: Entry) -> DeclaredFunction:
    return DeclaredFunction(name=entry["name"], version=entry["version"], hash=entry["hash"])


def rule_policy(entry: Entry) -> bytes:
    """A canonical policy with one rule that calls a function with ``data.v``."""
    return canonical_json({"functions": [entry], "rules": [{"name": "r", "check": f"{entry['name']}(data.v)"}]})


def levels_policy(entry: Entry) -> bytes:
    """A canonical policy whose events are ``critical`` where a function says so of ``data.v``."""
    levels = [
        {"when": f"{entry['name']}(data.v)", "level": "critical"},
        {"when": "data.v == 'plain'", "level": "basic"},
    ]
    return canonical_json({"certification": {"levels": levels}, "functions": [entry]})
