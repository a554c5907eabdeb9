"""ASHA as a Ray Tune scheduler: the decisions are ``rungs``', this connects them to Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from mnist_tune.errors import SearchError
from mnist_tune.ledger import Event
from mnist_tune.rungs import Decision, Metric, Promotion, Rungs, score


class Asha(FIFOScheduler):  # type: ignore[misc]
    """Stops trials by successive halving, asynchronously; without rungs, a plain FIFO.

    A report is recorded before its decision takes effect. For Ray a trial that pauses has ended:
    it goes on from its own checkpoint, as another of Ray's trials.

    Args:
        rungs: the bookkeeping, empty or as an earlier driver left it.
        metric: ``accuracy`` or ``loss``.
        epochs: trial → the last epoch that an earlier driver recorded.
        record: writes an event down; when it returns, the event can't be lost.
    """

    def __init__(
        self,
        rungs: Rungs,
        metric: Metric,
        epochs: dict[int, int],
        record: Callable[[Event], None],
    ) -> None:
        super().__init__()
        self._rungs, self._score_metric = rungs, metric
        self._epochs, self._record = epochs, record

    def on_trial_result(self, _controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Records a report and decides whether the trial goes on.

        Raises:
            SearchError: the report lacks a number that the decision needs.
        """
        needed = ("epoch", "accuracy", "loss", "epoch_s")
        missing = [name for name in needed if not isinstance(result.get(name), int | float)]
        if missing:
            raise SearchError(f"trial {trial}: its report lacks a number: {', '.join(missing)}")
        number, epoch = trial.config["trial"], result["epoch"]
        if epoch <= self._epochs.get(number, 0):
            # Sent again by a trial that goes on from its checkpoint.
            over = epoch >= self._rungs.max_epochs
            return str(TrialScheduler.STOP if over else TrialScheduler.CONTINUE)
        self._epochs[number] = epoch
        value = score(self._score_metric, result["accuracy"], result["loss"])
        decision = self._rungs.report(number, epoch, value)
        self._record(
            {
                "event": "report",
                "time": round(time.time(), 3),
                "trial": number,
                "epoch": epoch,
                "accuracy": result["accuracy"],
                "loss": result["loss"],
                "epoch_s": result["epoch_s"],
                "worker": f"{result.get('hostname', '')}:{result.get('pid', '')}",
                "node": result.get("node", ""),
                "decision": _word(decision),
                "reason": decision.reason,
            }
        )
        return str(TrialScheduler.CONTINUE if decision.go_on else TrialScheduler.STOP)

    def on_trial_error(self, _controller: Any, trial: Trial) -> None:
        """Records that a trial has failed for good; it counts as the worst."""
        if trial.status == Trial.ERROR:
            # Ray also tells of a failure before it starts the trial again; only then has the
            # trial this status already.
            return
        number = trial.config["trial"]
        self._rungs.fail(number)
        self._record(
            {
                "event": "error",
                "time": round(time.time(), 3),
                "trial": number,
                "message": _last_line(trial),
            }
        )

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Leaves it to Tune, which goes by their order too; a FIFO looks at all at each event."""

    def __reduce__(self) -> tuple[type[FIFOScheduler], tuple[()]]:
        """Ray pickles its schedulers for a restore that mnist-tune doesn't use."""
        return FIFOScheduler, ()


def replay(rungs: Rungs, metric: Metric, events: list[Event]) -> dict[int, int]:
    """Brings empty rungs to where a ledger left them; returns trial → last epoch."""
    epochs: dict[int, int] = {}
    for event in events:
        if event["event"] == "report":
            if event["epoch"] <= epochs.get(event["trial"], 0):
                continue
            finite = event["accuracy"] is not None and event["loss"] is not None
            value = score(metric, event["accuracy"], event["loss"]) if finite else -float("inf")
            rungs.report(event["trial"], event["epoch"], value)
            epochs[event["trial"]] = event["epoch"]
        elif event["event"] == "promote":
            rungs.promote(Promotion(event["trial"], event["epoch"]))
        elif event["event"] == "error":
            rungs.fail(event["trial"])
    return epochs


def _word(decision: Decision) -> str:
    if decision.paused:
        return "pause"
    return "continue" if decision.go_on else "stop"


def _last_line(trial: Trial) -> str:
    # Not trial.get_error(): it reads the copy in the storage, which is made later.
    path = trial.error_file
    try:
        lines = Path(path).read_text(errors="replace").strip().splitlines() if path else []
    except OSError:
        lines = []
    return lines[-1].strip() if lines else "unknown error"
