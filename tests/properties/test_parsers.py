"""A fixed number of spoiled inputs for every parser; ``scripts/fuzz`` gives them a million each."""

import tracemalloc
from collections.abc import Callable

import pytest

from protocols.errors import MalformedError
from protocols.limits import FRAME_BYTES_MAX
from tests.properties import fuzzing
from tests.properties.fuzzing import Mutator, Parser, attempt, fuzz
from tests.properties.parsers import parsers

INPUTS = 10_000
WEIGHED = 300  # inputs whose memory is watched one by one, which is slow
PEAK_BYTES_PER_BYTE = 200  # a list of one-byte numbers costs most for its bytes
PEAK_BYTES_FREE = 262_144

each_parser = pytest.mark.parametrize("parser", parsers().values(), ids=lambda parser: parser.name)


@each_parser
def test_seeds_are_taken(parser: Parser) -> None:
    for seed in parser.seeds:
        assert parser.parse(seed) in (None, seed)


@each_parser
def test_corrupted_inputs_are_read_or_refused(parser: Parser) -> None:
    outcome = fuzz(parser, inputs=INPUTS, seed=1)
    assert [(flaw.why, flaw.data.hex()) for flaw in outcome.flaws] == []
    assert outcome.refused > 0


@each_parser
def test_no_input_makes_a_parser_allocate_more_than_it_could_need(parser: Parser) -> None:
    mutator = Mutator(parser, 2)
    tracemalloc.start()
    try:
        for _ in range(WEIGHED):
            data = mutator.next()
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            attempt(parser, data)
            _, peak = tracemalloc.get_traced_memory()
            room = FRAME_BYTES_MAX if parser.name == "stream frames" else PEAK_BYTES_FREE
            assert peak - before < room + PEAK_BYTES_PER_BYTE * len(data), data.hex()
    finally:
        tracemalloc.stop()


def refuse(data: bytes) -> bytes:
    raise MalformedError("no")


def crash(data: bytes) -> bytes:
    raise KeyError("a bug")


def change(data: bytes) -> bytes:
    return data + b"!"


def waste_time(data: bytes) -> None:
    sum(range(1_000_000))


@pytest.mark.parametrize(("parse", "why"), [(crash, "raised"), (change, "means"), (waste_time, "took")])
def test_flaws_are_found_and_found_again(
    monkeypatch: pytest.MonkeyPatch, parse: Callable[[bytes], bytes | None], why: str
) -> None:
    """The fuzzer itself: bugs, other bytes and slowness are flaws, and equal seeds find them again."""
    monkeypatch.setattr(fuzzing, "CPU_MS_MAX", 1.0)
    parser = Parser(name="flawed", parse=parse, seeds=[b"seed"])
    outcome = fuzz(parser, inputs=20, seed=3)
    assert {flaw.why.split()[0] for flaw in outcome.flaws} == {why}
    assert [flaw.data for flaw in fuzz(parser, inputs=20, seed=3).flaws] == [flaw.data for flaw in outcome.flaws]


def test_a_refusal_is_not_a_fault_of_the_parser() -> None:
    outcome = fuzz(Parser(name="strict", parse=refuse, seeds=[b"seed"]), inputs=20, seed=3)
    assert (outcome.refused, outcome.accepted, outcome.flaws) == (20, 0, ())
