"""As many lanes as pay, and no more than fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from examples import new_run
from test_training import data_of, small

from mnist_tune import lanes
from mnist_tune.datasets import Dataset, Split
from mnist_tune.options import SearchOptions
from mnist_tune.sizing import lanes_that_pay, most_that_pay, sized
from mnist_tune.slots import Slots
from mnist_tune.winner import trial_settings


def paying(rates: dict[int, float], most: int = 64, fits: bool = True) -> tuple[int, list[int]]:
    measured = []

    def rate(count: int) -> float:
        measured.append(count)
        if count not in rates:
            raise MemoryError
        return rates[count]

    return most_that_pay(rate, most, lambda: fits), measured


@pytest.mark.parametrize(
    ("rates", "pays", "measured"),
    [
        ({1: 10, 4: 9}, 1, [1, 4]),
        ({1: 10, 4: 11.9}, 1, [1, 4]),
        ({1: 10, 4: 30, 16: 31}, 4, [1, 4, 16]),
        ({1: 10, 4: 30, 16: 80, 64: 200}, 64, [1, 4, 16, 64]),
        # Out of memory.
        ({1: 10, 4: 30}, 4, [1, 4, 16]),
    ],
)
def test_more_lanes_are_taken_while_they_pay(
    rates: dict[int, float], pays: int, measured: list[int]
) -> None:
    assert paying(rates) == (pays, measured)


def test_no_more_than_there_are_trials_or_than_fit() -> None:
    rising = {1: 1.0, 4: 4.0, 16: 16.0, 64: 64.0}
    rising[20] = 20.0
    assert paying(rising, most=20) == (20, [1, 4, 16, 20])
    assert paying({1: 1.0, 3: 2.0}, most=3) == (3, [1, 3])
    assert paying(rising, most=1) == (1, [1])
    assert paying(rising, fits=False) == (1, [1])


def test_a_device_that_cannot_run_one_lane_is_an_error() -> None:
    with pytest.raises(MemoryError):
        paying({})


def test_it_is_measured_on_this_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = Split(*map(np.asarray, data_of(40)))
    settings = trial_settings(new_run(tmp_path / "run"), Slots(1.0, 0.0, 2))
    ran = []
    next_epoch = lanes.next_epoch

    def counted(*arguments: object) -> object:
        ran.append((arguments[4], arguments[5]))
        return next_epoch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(lanes, "next_epoch", counted)
    assert lanes_that_pay(small(), train, settings, 4) in {1, 4}
    # Each once to compile, once for its time.
    assert ran == [(1, False)] * 2 + [(4, False)] * 2


@pytest.mark.parametrize(
    ("options", "slots"),
    [
        ({}, Slots(1.0, 0.0, 2)),
        ({"lanes": 8}, Slots(1.0, 1.0, 8, 8)),
        ({"gpus_per_trial": 0.5}, Slots(1.0, 0.5, 2)),
        # As many GPUs as trials.
        ({}, Slots(1.0, 1.0, 4)),
    ],
)
def test_nothing_is_measured_where_nothing_is_open(
    options: dict[str, object], slots: Slots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = new_run(tmp_path / "run")
    experiment.options = SearchOptions(**options)  # type: ignore[arg-type]
    assert experiment.results.to_run == 4
    # Without Ray, measuring would be an error.
    dataset: Dataset = None  # type: ignore[assignment]
    assert sized(experiment, dataset, slots) == slots
