"""The build id that an agent signs: the version, and a digest of the code and libraries that determine its output."""

import hashlib
from functools import cache
from importlib import metadata
from pathlib import Path

DECISIVE_PACKAGES = ("cbor2", "jiter", "jsonschema-rs", "orjson", "rfc8785")


@cache
def build_id() -> str:
    """``overlay-agent-node/<version>+<16 hex digits>``: equal code, equal libraries, equal id."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parents[2]
    for package in ("agents", "protocols"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    for name in DECISIVE_PACKAGES:
        digest.update(f"{name}=={metadata.version(name)}\n".encode())
    return f"overlay-agent-node/{_version()}+{digest.hexdigest()[:16]}"


def _version() -> str:
    try:
        return metadata.version("overlay-agent-node")
    except metadata.PackageNotFoundError:
        return "0"
