"""The model of a network's cost finds the costs that made its input, and adds them up."""

import pytest

from scripts.growth_model import Costs, Share, costs

COSTS = Costs(coordinate=99, work=58, follow=15, agents=3)


def share(coordinated: float, worked: float, *, is_agent: bool = True) -> Share:
    spent = COSTS.coordinate * coordinated + COSTS.work * worked + COSTS.follow * (1 - worked)
    return Share(cpu_us=spent, coordinated=coordinated, worked=worked, is_agent=is_agent)


SHARES = [
    *(share(part, worked) for part, worked in ((0.5, 0.75), (0.25, 0.5), (0.25, 0.25))),
    *(share(0, worked) for worked in (1.0, 0.5, 0.0)),
    *(share(0, 0, is_agent=False) for _ in range(4)),
]


def test_the_costs_that_made_the_shares_are_found() -> None:
    found = costs(SHARES)
    assert [found.coordinate, found.work, found.follow] == pytest.approx([99, 58, 15])
    assert found.agents == pytest.approx(3)


def test_the_model_of_as_many_machines_as_were_measured_is_what_they_spent() -> None:
    assert costs(SHARES).event_us(len(SHARES)) == pytest.approx(sum(each.cpu_us for each in SHARES))


def test_rates_fall_with_what_following_costs_every_machine() -> None:
    rates = [round(COSTS.events_per_s(machines, cores=2)) for machines in (3, 10, 50)]
    assert rates == [21_978, 52_910, 102_249]
    assert COSTS.limit(cores=2) == pytest.approx(133_333, abs=1)


@pytest.mark.parametrize("left_out", [SHARES[:3], SHARES[3:6], SHARES[6:]])
def test_the_model_is_refused_where_a_kind_of_node_is_missing(left_out: list[Share]) -> None:
    with pytest.raises(ValueError, match="needs nodes that only follow"):
        costs([each for each in SHARES if each not in left_out])
