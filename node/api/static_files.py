"""The files of the pages: where they are, which of them are served, and under which policy."""

from functools import cache
from pathlib import Path
from typing import Final

STATIC: Final = Path(__file__).parent / "static"
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILES: Final = {
    "docs.html": "text/html; charset=utf-8",
    "docs.css": "text/css; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
    "base.css": "text/css; charset=utf-8",
    "certificate.css": "text/css; charset=utf-8",
    "verify_certificate.mjs": "text/javascript; charset=utf-8",
}


@cache
def static_text(name: str) -> bytes:
    return (STATIC / name).read_bytes()
