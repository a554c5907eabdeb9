"""Nine things that Ray's ASHA gets wrong, each played to Ray's scheduler and to ours.

``python -m tests.asha_faults`` prints the table; test_asha_faults.py checks it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from mnist_tune.asha import Asha, replay
from mnist_tune.errors import ConfigError, SearchError
from mnist_tune.ledger import Event
from mnist_tune.options import SearchOptions
from mnist_tune.rungs import Rungs, milestones

NAN = float("nan")


class Engine(Protocol):
    """A scheduler with max_epochs, grace period 1 and reduction factor 3 by default."""

    def report(self, trial: int, epoch: int, accuracy: float, loss: float = 1.0) -> bool:
        """Whether the trial goes on."""

    def send(self, trial: int, report: dict[str, Any]) -> bool:
        """The same for any report."""

    def fail(self, trial: int) -> None:
        """The trial has failed for good."""

    def restart(self) -> Engine:
        """What goes on after the driver has died and the search is resumed."""

    def rungs(self) -> list[dict[int, float]]:
        """Each rung's entries, the lowest first."""


class Ray:
    """Ray's AsyncHyperBandScheduler."""

    def __init__(
        self,
        max_epochs: int = 9,
        reduction_factor: int = 3,
        metric: str = "accuracy",
        **options: Any,
    ) -> None:
        self._options = {
            **options,
            "max_t": max_epochs,
            "reduction_factor": reduction_factor,
            "metric": metric,
            "mode": "min" if metric == "loss" else "max",
        }
        self.scheduler = ASHAScheduler(time_attr="epoch", **self._options)
        self._added: set[int] = set()

    def report(self, trial: int, epoch: int, accuracy: float, loss: float = 1.0) -> bool:
        return self.send(trial, {"epoch": epoch, "accuracy": accuracy, "loss": loss})

    def send(self, trial: int, report: dict[str, Any]) -> bool:
        ray_trial = SimpleNamespace(trial_id=str(trial))
        if trial not in self._added:
            self.scheduler.on_trial_add(None, ray_trial)
            self._added.add(trial)
        with np.errstate(invalid="ignore"):  # it interpolates between infinities
            decision = self.scheduler.on_trial_result(None, ray_trial, report)
        return bool(decision == TrialScheduler.CONTINUE)

    def fail(self, trial: int) -> None:
        self.scheduler.on_trial_error(None, SimpleNamespace(trial_id=str(trial)))

    def restart(self) -> Ray:
        # Tuner.restore saves the searcher and the trials, and makes the scheduler anew.
        again = Ray.__new__(Ray)
        again._options, again._added = self._options, set()
        again.scheduler = ASHAScheduler(time_attr="epoch", **self._options)
        return again

    def rungs(self) -> list[dict[int, float]]:
        (bracket,) = self.scheduler._brackets
        entries = [recorded for _, recorded in reversed(bracket._rungs)]
        return [{int(trial): score for trial, score in recorded.items()} for recorded in entries]

    def milestones(self) -> list[int]:
        return sorted(milestone for milestone, _ in self.scheduler._brackets[0]._rungs)


class Ours:
    """mnist-tune's Asha."""

    def __init__(
        self, max_epochs: int = 9, reduction_factor: int = 3, metric: str = "accuracy"
    ) -> None:
        self._of = (milestones(max_epochs, 1, reduction_factor), max_epochs, reduction_factor)
        self._metric = metric
        self._events: list[Event] = []
        self._start()

    def _start(self) -> None:
        self._rungs = Rungs(*self._of)
        epochs = replay(self._rungs, self._metric, self._events)  # type: ignore[arg-type]
        self.scheduler = Asha(self._rungs, self._metric, epochs, self._events.append)  # type: ignore[arg-type]

    def report(self, trial: int, epoch: int, accuracy: float, loss: float = 1.0) -> bool:
        report = {"epoch": epoch, "accuracy": accuracy, "loss": loss, "epoch_s": 1.0}
        return self.send(trial, report)

    def send(self, trial: int, report: dict[str, Any]) -> bool:
        decision = self.scheduler.on_trial_result(None, _trial(trial), report)
        return bool(decision == TrialScheduler.CONTINUE)

    def fail(self, trial: int) -> None:
        self.scheduler.on_trial_error(None, _trial(trial))

    def restart(self) -> Ours:
        self._start()
        return self

    def rungs(self) -> list[dict[int, float]]:
        return self._rungs.entries


def _trial(number: int) -> Any:
    return SimpleNamespace(config={"trial": number}, status=Trial.RUNNING, error_file=None)


def outside_the_best_third(make: Callable[..., Engine]) -> str:
    """A few trials, then one that isn't among the best ⌊k/3⌋ that have arrived, itself included."""
    engine = make()
    scores = [0.1, 0.2, 0.9, 0.5]
    decisions = [engine.report(trial, 1, score) for trial, score in enumerate(scores)]
    return f"second of four {_goes_on(decisions[-1])}"


def tied_at_chance(make: Callable[..., Engine]) -> str:
    """Eleven trials that have learned nothing."""
    engine = make()
    return f"{sum(engine.report(trial, 1, 0.098) for trial in range(11))} of 11 go on"


def not_a_number(make: Callable[..., Engine]) -> str:
    """A diverged trial, told by its loss; and what it does to the others' cutoff."""
    engine = make(metric="loss")
    diverged = engine.report(0, 1, 0.098, NAN)
    engine = make(metric="loss")
    engine.report(0, 1, 0.098, math.inf)
    engine.report(1, 1, 0.098, math.inf)
    engine.report(2, 1, 0.9, 0.1)
    bad = engine.report(3, 1, 0.1, 9.0)
    return f"NaN {_goes_on(diverged)}; after inf, a bad one {_goes_on(bad)}"


def late_scores(make: Callable[..., Engine]) -> str:
    """A trial's first report is at epoch 5, past the rungs at 1 and 3; the next at 8."""
    engine = make()
    engine.report(0, 5, 0.5)
    engine.report(0, 8, 0.8)
    return f"rung 1 holds {engine.rungs()[0].get(0)}, rung 3 {engine.rungs()[1].get(0)}"


def forgotten(make: Callable[..., Engine]) -> str:
    """Three good trials are recorded; the driver dies; a bad trial reports after the restart."""
    engine = make()
    for trial in range(3):
        engine.report(trial, 1, 0.9 + trial / 100)
    return f"a bad trial {_goes_on(engine.restart().report(9, 1, 0.1))}"


def last_rung(make: Callable[..., Engine]) -> str:
    """Whether the last epoch is a rung, for 81, 243 and 1,000 epochs."""
    said = []
    for epochs, factor in ((81, 3), (243, 3), (1000, 10)):
        engine = make(max_epochs=epochs, reduction_factor=factor)
        found = engine.milestones() if isinstance(engine, Ray) else milestones(epochs, 1, factor)
        said.append("yes" if epochs in found else "no")
    return ", ".join(said)


def drawn_brackets(make: Callable[..., Engine]) -> str:
    """Brackets: drawn so that a seed repeats them, and none of them without a rung."""
    if make is Ours:
        return "one bracket: nothing is drawn"
    state = np.random.get_state()
    try:
        draws = []
        for _ in range(2):
            scheduler = Ray(brackets=3).scheduler
            for trial in range(20):
                scheduler.on_trial_add(None, SimpleNamespace(trial_id=str(trial)))
            bracket_of = scheduler._trial_info
            draws.append([scheduler._brackets.index(bracket_of[str(t)]) for t in range(20)])
    finally:
        np.random.set_state(state)
    empty = sum(not bracket._rungs for bracket in Ray(brackets=5).scheduler._brackets)
    repeated = "the same" if draws[0] == draws[1] else "others"
    return f"drawn twice: {repeated}; of 5 brackets {empty} never stop anything"


def missing_metric(make: Callable[..., Engine]) -> str:
    """A report without the metric; and a grace period longer than the search."""
    try:
        said = _goes_on(make().send(0, {"epoch": 1, "loss": 1.0, "epoch_s": 1.0}))
    except SearchError:
        said = "ends the search with an error"
    try:
        if make is Ours:
            SearchOptions(max_epochs=10, reduction_factor=1)
        else:
            Ray(reduction_factor=1)
        checked = "accepted"
    except AssertionError:
        checked = "an assert, gone under -O"
    except ConfigError:
        checked = "refused"
    return f"a trial without it {said}; a reduction factor of 1: {checked}"


def failed_trials(make: Callable[..., Engine]) -> str:
    """The best of three fails; the rung still holds its score."""
    engine = make()
    engine.report(0, 1, 0.99)
    engine.fail(0)
    return f"its entry: {engine.rungs()[0].get(0)}"


def _goes_on(go_on: bool) -> str:
    return "goes on" if go_on else "stops"


class Fault(NamedTuple):
    """A fault: what happens, and what each of the two says."""

    name: str
    play: Callable[[Callable[..., Engine]], str]
    ray: str
    ours: str


FAULTS = [
    Fault(
        "the cutoff leaves out the one that arrives, and is interpolated",
        outside_the_best_third,
        "second of four goes on",
        "second of four stops",
    ),
    Fault("eleven trials tied at chance", tied_at_chance, "11 of 11 go on", "1 of 11 go on"),
    Fault(
        "losses that aren't finite",
        not_a_number,
        "NaN goes on; after inf, a bad one goes on",
        "NaN stops; after inf, a bad one stops",
    ),
    Fault(
        "reports that skip rungs",
        late_scores,
        "rung 1 holds 0.8, rung 3 0.5",
        "rung 1 holds 0.5, rung 3 0.5",
    ),
    Fault("after a resume", forgotten, "a bad trial goes on", "a bad trial stops"),
    Fault("is the last epoch a rung, for 81, 243, 1,000", last_rung, "yes, no, no", "no, no, no"),
    Fault(
        "brackets",
        drawn_brackets,
        "drawn twice: others; of 5 brackets 2 never stop anything",
        "one bracket: nothing is drawn",
    ),
    Fault(
        "bad input",
        missing_metric,
        "a trial without it goes on; a reduction factor of 1: an assert, gone under -O",
        "a trial without it ends the search with an error; a reduction factor of 1: refused",
    ),
    Fault("the best trial fails", failed_trials, "its entry: 0.99", "its entry: -inf"),
]


def main() -> None:
    """Prints what each scheduler does, a line a fault."""
    sys.stdout.write("| | Ray's ASHA | mnist-tune |\n|---|---|---|\n")
    for i, fault in enumerate(FAULTS, 1):
        sys.stdout.write(f"| {i}. {fault.name} | {fault.play(Ray)} | {fault.play(Ours)} |\n")


if __name__ == "__main__":
    main()
