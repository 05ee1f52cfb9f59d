"""What the pure packages must never contain, read from their source: clocks, randomness, unchecked ``Signed``."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PURE = ("protocols", "agents")
PRODUCT = (*PURE, "storage", "node")
CLOCKS = {"now", "utcnow", "today", "time", "time_ns", "monotonic", "perf_counter", "uuid1", "uuid4"}
RANDOM = {"urandom", "getrandom", "token_bytes", "token_hex", "randbytes", "SystemRandom", "default_rng"}
SIGNED_MAKERS = {
    "protocols/envelope.py",
    "protocols/messages/signed.py",
}  # the latter decodes what stands inside a frame


def modules(packages: tuple[str, ...]) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Each call in a module with the last part of the name that is called."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            function = node.func.value if isinstance(node.func, ast.Subscript) else node.func
            if isinstance(function, ast.Attribute):
                yield function.attr, node
            elif isinstance(function, ast.Name):
                yield function.id, node


def impurities(source: str) -> list[str]:
    """Calls that read a clock or draw randomness. A key of coincurve made without a secret is a random one."""
    found = []
    for name, call in calls(source):
        arguments = len(call.args) + len(call.keywords)
        if name in CLOCKS | RANDOM or (name in {"Secret", "PrivateKey"} and not arguments):
            found.append(f"{name} in line {call.lineno}")
    return found


def test_the_scan_finds_what_it_looks_for() -> None:
    assert impurities("import datetime\ndatetime.datetime.now(datetime.UTC)") == ["now in line 2"]
    assert impurities("from coincurve import PrivateKey as Secret\nkey = Secret()") == ["Secret in line 2"]
    assert impurities("import os\n\nos.urandom(32)") == ["urandom in line 3"]
    assert impurities("key = Secret(data)") == []
    assert [name for name, _ in calls("Signed[Bid](message=m)\nmessages.Signed(message=m)")] == ["Signed", "Signed"]


@pytest.mark.parametrize("path", modules(PURE), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pure_modules_read_no_clock_and_draw_no_randomness(path: Path) -> None:
    assert impurities(path.read_text()) == []


def test_signed_messages_are_made_in_the_envelope_alone() -> None:
    """Invariant 3: a ``Signed`` is the proof that its signature was checked."""
    makers = {
        path.relative_to(ROOT).as_posix()
        for path in modules(PRODUCT)
        if any(name == "Signed" for name, _ in calls(path.read_text()))
    }
    assert makers == SIGNED_MAKERS
