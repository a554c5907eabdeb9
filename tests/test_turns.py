"""Every lane gets its turn, those that are waited for first, and only lanes that fit together."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from mnist_tune.turns import Waiting, next_turn

waiting = st.lists(
    st.builds(
        Waiting,
        trial=st.integers(0, 20),
        shapes=st.sampled_from("abc"),
        since=st.integers(0, 5),
        asked=st.booleans(),
        alone=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda lane: lane.trial,
)


@given(waiting, st.integers(1, 6), st.booleans())
def test_who_runs(lanes: list[Waiting], most: int, abreast: bool) -> None:
    turn = next_turn(lanes, most, abreast)
    assert bool(turn) == bool(lanes)
    assert len(turn) == len(set(turn)) <= most
    chosen = [lane for lane in lanes if lane.trial in turn]
    assert len(chosen) == len(turn)
    assert len({lane.shapes for lane in chosen}) <= 1
    if any(lane.alone for lane in chosen):
        assert len(turn) == 1
    if any(lane.asked for lane in lanes):
        assert any(lane.asked for lane in chosen)
        # In turn the device does nothing that nobody asks for while somebody asks.
        assert abreast or all(lane.asked for lane in chosen)


def test_the_one_that_waits_longest_comes_first_and_brings_others_of_its_shapes() -> None:
    lanes = [
        Waiting(0, "a", 3, True),
        Waiting(1, "b", 1, True),
        Waiting(2, "b", 2, True),
        Waiting(3, "b", 0, False),
        Waiting(4, "b", 2, True, alone=True),
    ]
    assert next_turn(lanes, 8, abreast=False) == [1, 2]
    assert next_turn(lanes, 8, abreast=True) == [1, 2, 3]
    assert next_turn(lanes, 1, abreast=True) == [1]


def test_what_runs_ahead_waits_for_what_is_asked_for() -> None:
    ahead, asked = Waiting(0, "a", 0, False), Waiting(1, "b", 9, True)
    for abreast in (False, True):
        assert next_turn([ahead, asked], 8, abreast) == [1]
        assert next_turn([ahead], 8, abreast) == [0]


@dataclass
class _Device:
    """Lanes whose trials ask again at once, on a device that runs turn after turn."""

    shapes: list[str]
    ran: list[int] = field(default_factory=list)

    def run(self, turns: int, most: int, abreast: bool) -> None:
        since = [0] * len(self.shapes)
        self.ran = [0] * len(self.shapes)
        for turn in range(1, turns + 1):
            lanes = [Waiting(i, s, since[i], True) for i, s in enumerate(self.shapes)]
            for trial in next_turn(lanes, most, abreast):
                since[trial] = turn
                self.ran[trial] += 1


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8), st.integers(1, 4), st.booleans())
def test_no_lane_starves(shapes: list[str], most: int, abreast: bool) -> None:
    device = _Device(shapes)
    # Each needs one turn of all the others' before its own.
    device.run(2 * len(shapes), most, abreast)
    assert min(device.ran) >= 1
