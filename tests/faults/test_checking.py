"""The longest time without a certificate, less the times in which there could be none."""

import pytest

from tests.faults.checking import at_once, first_after, longest_gap


def test_the_longest_gap_is_found_with_its_beginning() -> None:
    assert longest_gap([101.0, 102.0, 107.0], 100.0, 110.0) == (5.0, 2.0)
    assert longest_gap([], 100.0, 104.5) == (4.5, 0.0)
    assert longest_gap([99.0, 101.0, 150.0], 100.0, 103.0) == (2.0, 1.0), "what was before and after is not looked at"


def test_excused_times_do_not_count() -> None:
    assert longest_gap([102.0, 112.0], 100.0, 115.0, [(3.0, 8.0), (9.0, 10.0)]) == (4.0, 2.0)
    assert longest_gap([104.0], 100.0, 108.0, [(-5.0, 1.0), (3.0, 5.0)]) == (3.0, 4.0)


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], []),
        ([(0, 1.0, 5.0), (0, 2.0, 3.0)], []),
        ([(0, 1.0, 5.0), (1, 4.0, 6.0)], [(4.0, 5.0)]),
        ([(0, 1.0, 9.0), (1, 2.0, 3.0), (2, 5.0, 6.0)], [(2.0, 3.0), (5.0, 6.0)]),
    ],
)
def test_when_several_nodes_are_under_faults_at_once(
    spans: list[tuple[int, float, float]], expected: list[tuple[float, float]]
) -> None:
    assert at_once(spans, 2) == expected


def test_the_first_certificate_after_a_moment() -> None:
    assert first_after([99.0, 104.0, 103.5], 100.0) == 3.5
    assert first_after([99.0], 100.0) is None
