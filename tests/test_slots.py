"""How many trials fit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_tune.errors import ConfigError
from mnist_tune.options import MOST_LANES, SearchOptions
from mnist_tune.slots import Node, Slots, has_room, local_slots, slots_for


@pytest.mark.parametrize(
    ("options", "cpus", "gpus", "expected"),
    [
        ({}, 2, 0, Slots(1.0, 0.0, 2)),
        ({}, 2.9, 0, Slots(1.0, 0.0, 2)),
        ({"cpus_per_trial": 0.5}, 2, 0, Slots(0.5, 0.0, 4)),
        ({"cpus_per_trial": 3}, 8, 0, Slots(3, 0.0, 2)),
        # One GPU a trial where there are GPUs, unless told otherwise.
        ({}, 16, 1, Slots(1.0, 1.0, 1)),
        ({}, 16, 8, Slots(1.0, 1.0, 8)),
        ({}, 4, 8, Slots(1.0, 1.0, 4)),
        ({"gpus_per_trial": 0}, 16, 8, Slots(1.0, 0, 16)),
        ({"gpus_per_trial": 0.5}, 16, 2, Slots(1.0, 0.5, 4)),
        ({"gpus_per_trial": 2}, 16, 5, Slots(1.0, 2, 2)),
        ({"max_concurrent": 3}, 16, 0, Slots(1.0, 0.0, 3)),
        ({"max_concurrent": 30}, 16, 0, Slots(1.0, 0.0, 16)),
    ],
)
def test_slots(options: dict[str, Any], cpus: float, gpus: float, expected: Slots) -> None:
    assert slots_for(SearchOptions(**options), [(cpus, gpus)]) == expected


def test_a_trial_has_all_it_gets_on_one_node() -> None:
    three = SearchOptions(cpus_per_trial=3)
    assert slots_for(three, [(2, 0), (2, 0)]).count == 0
    assert slots_for(three, [(2, 0), (4, 0), (7, 0)]).count == 3


def test_a_head_without_cores_holds_no_trial_and_one_gpu_anywhere_asks_for_gpus() -> None:
    assert slots_for(SearchOptions(), [(0, 0), (4, 1), (8, 0)]) == Slots(1.0, 1.0, 1)
    assert slots_for(SearchOptions(), [(0, 0)]) == Slots(1.0, 0.0, 0)
    assert slots_for(SearchOptions(), []) == Slots(1.0, 0.0, 0)


def test_room() -> None:
    slots = Slots(2.0, 0.5, 1)
    assert has_room(slots, Node("n", "h", "a", 2.0, 1.0))
    assert not has_room(slots, Node("n", "h", "a", 1.0, 1.0))
    assert not has_room(slots, Node("n", "h", "a", 2.0, 0.0))


@pytest.mark.parametrize(("share", "count"), [(0.1, 10), (0.2, 5), (0.05, 20)])
def test_fractions_that_fill_a_whole(share: float, count: int) -> None:
    assert slots_for(SearchOptions(gpus_per_trial=share), [(64, 1)]).count == count
    assert slots_for(SearchOptions(cpus_per_trial=share), [(1, 0)]).count == count


@pytest.mark.parametrize(
    ("options", "cpus", "gpus", "message"),
    [
        ({"cpus_per_trial": 3}, 2, 0, "--cpus-per-trial 3 --gpus-per-trial 0 must fit what is "),
        ({"gpus_per_trial": 1}, 2, 0, "must fit what is there: 2 CPU cores, 0 GPUs"),
        ({"gpus_per_trial": 2}, 2, 1, "must fit what is there: 2 CPU cores, 1 GPUs"),
        ({}, 0, 0, "must fit what is there: 0 CPU cores"),
    ],
)
def test_a_trial_that_could_never_start(
    options: dict[str, Any], cpus: float, gpus: float, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        local_slots(SearchOptions(**options), cpus, gpus)


@given(
    st.integers(1, 8),
    st.integers(0, 4),
    st.none() | st.integers(1, 9),
    st.integers(1, 256),
    st.integers(0, 16),
)
def test_slots_fit_and_no_more_would(
    per_trial: int, gpus_per_trial: int, at_most: int | None, cpus: int, gpus: int
) -> None:
    options = SearchOptions(
        cpus_per_trial=per_trial, gpus_per_trial=gpus_per_trial, max_concurrent=at_most
    )

    def fit(count: int) -> bool:
        return count * per_trial <= cpus and count * gpus_per_trial <= gpus

    if not fit(1):
        with pytest.raises(ConfigError):
            local_slots(options, cpus, gpus)
        return
    count = local_slots(options, cpus, gpus).count
    assert fit(count)
    assert count == at_most or not fit(count + 1)


def test_lanes_are_trials_at_a_time() -> None:
    four = SearchOptions(lanes=4)
    assert slots_for(four, [(2, 0)]) == Slots(1.0, 0.0, 8, 4)
    assert slots_for(four, [(16, 2)]) == Slots(1.0, 1.0, 8, 4)
    assert slots_for(SearchOptions(lanes=4, max_concurrent=3), [(2, 0)]) == Slots(1.0, 0.0, 3, 4)
    assert slots_for(SearchOptions(lanes="auto"), [(2, 0)]) == Slots(1.0, 0.0, 2, 1)


@given(
    st.integers(1, MOST_LANES),
    st.sampled_from([(1.0, 0.0), (1.0, 1.0), (0.5, 0.0), (4.0, 1.0), (3.0, 0.0)]),
)
def test_as_many_shares_fit_into_a_slot_as_it_has_lanes(
    lanes: int, slot: tuple[float, float]
) -> None:
    share = Slots(*slot, lanes, lanes).share
    for whole, each in zip(slot, share.values(), strict=True):
        assert (each > 0) == (whole > 0)
        if whole:
            # In Ray's units, in which it counts; none is left over for one more.
            units, unit = round(whole * 10_000), round(each * 10_000)
            assert lanes * unit <= units < (lanes + 1) * unit


def test_a_trial_of_its_own_has_the_whole_slot() -> None:
    assert Slots(0.3, 0.0001, 1).share == {"cpu": 0.3, "gpu": 0.0001}
    assert Slots(0.0001, 0.0, 8, 8).share == {"cpu": 0.0001, "gpu": 0.0}
