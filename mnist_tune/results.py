"""What came out of a search: the ledger's events, folded. Pure: no file, no engine."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mnist_tune.hparams import Config, complete
from mnist_tune.ledger import Event
from mnist_tune.rungs import Metric, score

UNFINISHED, PAUSED = "unfinished", "paused"
COMPLETED, STOPPED, ERRORED = "completed", "stopped", "errored"


class Report(NamedTuple):
    """One epoch of one trial, measured on the validation set."""

    epoch: int
    accuracy: float
    loss: float
    epoch_s: float


@dataclass
class TrialResult:
    """A trial as far as it got.

    Attributes:
        number: its place in the order of drawing, from 0.
        config: its full configuration.
        status: ``unfinished``, ``paused`` (until it's promoted), ``completed`` (all epochs),
            ``stopped`` (early) or ``errored``.
        reason: why it isn't going on, in words.
        reports: its epochs so far, ascending.
    """

    number: int
    config: Config
    status: str = UNFINISHED
    reason: str = ""
    reports: list[Report] = field(default_factory=list)

    @property
    def trial_id(self) -> str:
        """The number as people see it and as directories are named."""
        return trial_id(self.number)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.status not in {UNFINISHED, PAUSED}

    @property
    def epochs(self) -> int:
        """Epochs trained and reported."""
        return self.reports[-1].epoch if self.reports else 0

    @property
    def seconds(self) -> float:
        """Time spent training and evaluating."""
        return sum(report.epoch_s for report in self.reports)

    def best(self, metric: Metric) -> Report | None:
        """The best report that is finite; of equals, the first."""
        ranked = [r for r in self.reports if score(metric, r.accuracy, r.loss) > -math.inf]
        return max(ranked, key=lambda r: score(metric, r.accuracy, r.loss), default=None)


class Best(NamedTuple):
    """The winner so far: a trial and its best report."""

    trial: TrialResult
    report: Report


@dataclass
class Results:
    """All trials of a search.

    Attributes:
        metric: what the search optimises.
        trials: in the order of drawing.
        best: the best finite report of all; of equals, of the trial drawn first.
        slots: trials at a time in the last session; 0 before the first.
        lanes: trials that shared a process in the last session.
        epochs_wasted: epochs that engines trained ahead and threw away.
        compilations: programs that engines compiled; None if trials had processes of their own.
        ended: why the last driver ended: ``done``, ``time_budget``, ``interrupted``; empty
            while one is running, or if it died.
        wall_s: seconds of all drivers that ended.
    """

    metric: Metric
    trials: list[TrialResult] = field(default_factory=list)
    best: Best | None = None
    slots: int = 0
    lanes: int = 1
    epochs_wasted: int = 0
    compilations: int | None = None
    ended: str = ""
    wall_s: float = 0.0

    def apply(self, event: Event) -> None:
        """Takes in one event; a report of an epoch that is known is ignored.

        Raises:
            ValueError: the event can't follow the ones before.
            ConfigError: a trial's configuration isn't valid.
        """
        kind = event["event"]
        if kind == "trial":
            number = event["trial"]
            if number != len(self.trials):
                raise ValueError(f"trial {number} where {len(self.trials)} must come")
            config = complete(event["config"], f"trial {trial_id(number)}")
            self.trials.append(TrialResult(number, config))
        elif kind == "report":
            self._report(self._known(event["trial"]), event)
        elif kind == "promote":
            trial = self._known(event["trial"])
            if trial.status != PAUSED:
                raise ValueError(f"trial {trial.number} is promoted, but isn't paused")
            trial.status, trial.reason = UNFINISHED, ""
        elif kind == "error":
            trial = self._known(event["trial"])
            trial.status, trial.reason = ERRORED, event["message"]
        elif kind == "session":
            self.ended, self.slots, self.lanes = "", event["slots"], event.get("lanes", 1)
        elif kind == "end":
            self.ended = event["reason"]
            self.wall_s += event["wall_s"]
            self.epochs_wasted += event.get("epochs_wasted", 0)
            if "compilations" in event:
                self.compilations = (self.compilations or 0) + event["compilations"]
            if self.ended == "done":
                self.settle()

    def settle(self) -> None:
        """Stops the trials that are paused: nothing will promote them any more."""
        for trial in self.trials:
            if trial.status == PAUSED:
                trial.status = STOPPED

    def _known(self, number: int) -> TrialResult:
        if not 0 <= number < len(self.trials):
            raise ValueError(f"trial {number} has not been drawn")
        return self.trials[number]

    def _report(self, trial: TrialResult, event: Event) -> None:
        if event["epoch"] <= trial.epochs:
            return
        trial.reports.append(_report(event))
        self._consider(Best(trial, trial.reports[-1]))
        if event["decision"] == "pause":
            trial.status, trial.reason = PAUSED, event["reason"]
        elif event["decision"] == "stop":
            all_epochs = event["reason"] == "all epochs"
            trial.status = COMPLETED if all_epochs else STOPPED
            trial.reason = "" if all_epochs else event["reason"]

    def _consider(self, new: Best) -> None:
        value = score(self.metric, new.report.accuracy, new.report.loss)
        if value == -math.inf:
            return
        if self.best is not None:
            known = score(self.metric, self.best.report.accuracy, self.best.report.loss)
            if (value, -new.trial.number) <= (known, -self.best.trial.number):
                return
        self.best = new

    def counts(self) -> dict[str, int]:
        """Trials by outcome, as in ``search --json``; those that are paused are unfinished."""
        statuses = [trial.status for trial in self.trials]
        return {
            "total": len(statuses),
            "completed": statuses.count(COMPLETED),
            "stopped_early": statuses.count(STOPPED),
            "errored": statuses.count(ERRORED),
            "unfinished": sum(not trial.finished for trial in self.trials),
        }

    @property
    def to_run(self) -> int:
        """Trials that have a slot or wait for one: neither finished nor paused."""
        return sum(trial.status == UNFINISHED for trial in self.trials)

    @property
    def epochs_trained(self) -> int:
        """Epochs over all trials."""
        return sum(trial.epochs for trial in self.trials)


def fold(metric: Metric, events: Iterable[Event]) -> Results:
    """Results from a ledger's events, oldest first."""
    results = Results(metric)
    for event in events:
        results.apply(event)
    return results


def trial_id(number: int) -> str:
    """A trial's number with leading zeros."""
    return f"{number:05d}"


def table(results: Results) -> list[dict[str, Any]]:
    """One row a trial, for ``trials.csv`` and ``show``: names → what JSON can hold.

    A number that there isn't, or that isn't finite, is None.
    """
    rows = []
    for trial in results.trials:
        best = trial.best(results.metric)
        last = trial.reports[-1] if trial.reports else None
        rows.append(
            {
                "trial_id": trial.trial_id,
                "status": trial.status,
                "epochs": trial.epochs,
                "best_epoch": best.epoch if best else None,
                "best_accuracy": best.accuracy if best else None,
                "best_loss": best.loss if best else None,
                "last_accuracy": _finite(last.accuracy) if last else None,
                "last_loss": _finite(last.loss) if last else None,
                "seconds": round(trial.seconds, 3),
                "reason": trial.reason,
                **trial.config,
            }
        )
    return rows


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _report(event: Event) -> Report:
    def number(name: str) -> float:
        return math.nan if event[name] is None else float(event[name])

    return Report(event["epoch"], number("accuracy"), number("loss"), event["epoch_s"])
