"""What a level lacks is looked up once a moment, each level and quorum by itself."""

from node.ingest.shortfalls import LOOK_S, Shortfalls
from protocols.messages import Level


def test_an_answer_holds_for_a_moment_and_for_its_level_and_quorum_alone() -> None:
    lacking = {(Level.BASIC, 1): "", (Level.ENHANCED, 2): "one agent"}
    now_s, looks = 10.0, 0

    def look(level: Level, quorum: int) -> str:
        nonlocal looks
        looks += 1
        return lacking[level, quorum]

    shortfalls = Shortfalls(look, clock=lambda: now_s)
    for _ in range(3):
        assert (shortfalls(Level.BASIC, 1), shortfalls(Level.ENHANCED, 2)) == ("", "one agent")
    assert looks == 2
    lacking[Level.ENHANCED, 2] = ""
    now_s += LOOK_S / 2
    assert shortfalls(Level.ENHANCED, 2) == "one agent"
    now_s += LOOK_S / 2
    assert shortfalls(Level.ENHANCED, 2) == ""
