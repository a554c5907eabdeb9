"""How a search ends, whatever Ray has done: the part of a search that Ray runs is made up."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from examples import keep_checkpoint, new_run, paused, promote, report

from mnist_tune import driver
from mnist_tune.experiment import Experiment, open_experiment
from mnist_tune.ledger import Event
from mnist_tune.slots import Slots

Run = Callable[[Experiment, list[Event]], Experiment]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a search in which Ray's part is a list of events."""

    def run(experiment: Experiment, events: list[Event]) -> Experiment:
        def fit(_e: Any, _d: Any, _p: Any, rungs: Any, _r: Any, _c: Any, record: Any) -> None:
            assert events, "there is nothing to do"
            for event in events:
                if event["event"] == "promote":
                    promotion = rungs.next_promotion()
                    assert promotion == (event["trial"], event["epoch"])
                    rungs.promote(promotion)
                else:
                    rungs.report(event["trial"], event["epoch"], event["accuracy"])
                record(event)

        monkeypatch.setattr(driver, "_fit", fit)
        monkeypatch.setattr(driver, "finish_best", lambda *_: None)
        dataset: Any = None
        return driver.run_trials(experiment, dataset, Slots(1.0, 0.0, 1), time.monotonic(), None)

    return run


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return new_run(
        tmp_path / "run", 3, max_epochs=3, reduction_factor=2, grace_period=2, asha_type="promotion"
    )


def statuses(experiment: Experiment) -> list[str]:
    """As the results, the run directory and trials.csv have them, which must be the same."""
    found = [trial.status for trial in experiment.results.trials]
    assert found == [trial.status for trial in open_experiment(experiment.path).results.trials]
    rows = (experiment.path / "trials.csv").read_text().splitlines()[1:]
    assert found == [row.split(",")[1] for row in rows]
    return found


EPOCHS = [report(0, 1), paused(0, 2, 0.9), report(1, 1), paused(1, 2, 0.8)]
REST = [promote(0, 2), report(0, 3, 0.9, stop="all epochs"), report(2, 1), paused(2, 2, 0.7)]


def test_what_is_paused_when_nothing_can_be_promoted_was_stopped(
    experiment: Experiment, run: Run
) -> None:
    keep_checkpoint(experiment, "00001", 1)
    run(experiment, EPOCHS + REST)
    assert experiment.results.ended == "done"
    assert statuses(experiment) == ["completed", "stopped", "stopped"]
    assert not experiment.checkpoints.exists()


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7])
def test_what_is_paused_when_the_time_is_over_stays_so(
    count: int, experiment: Experiment, run: Run
) -> None:
    events = EPOCHS + REST
    for trial in range(3):
        keep_checkpoint(experiment, f"{trial:05d}", 1)
    run(experiment, events[:count])
    assert experiment.results.ended == "time_budget"
    found = statuses(experiment)
    assert "stopped" not in found
    left = {path.name for path in experiment.checkpoints.iterdir()}
    assert left == {f"{i:05d}" for i in range(3) if found[i] != "completed"}

    resumed = run(open_experiment(experiment.path), events[count:])
    assert resumed.results.ended == "done"
    assert statuses(resumed) == ["completed", "stopped", "stopped"]


def test_a_promotion_that_no_slot_has_taken_is_left_to_do(experiment: Experiment, run: Run) -> None:
    run(experiment, [*EPOCHS, report(2, 1), paused(2, 2, 0.7)])
    assert [trial.status for trial in experiment.results.trials] == ["paused"] * 3
    assert experiment.results.ended == "time_budget"


def test_a_driver_that_dies_at_the_end_leaves_nothing_to_do(
    experiment: Experiment, run: Run
) -> None:
    experiment.record(*EPOCHS, *REST)
    run(open_experiment(experiment.path), [])
    assert open_experiment(experiment.path).results.ended == "done"


def test_checkpoints_are_looked_through_when_a_trial_is_finished(
    experiment: Experiment, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(
        driver, "keep_checkpoints", lambda e: seen.append(e.results.counts()["completed"])
    )
    run(experiment, EPOCHS + REST)
    assert seen == [1]
