"""The bookkeeping of asynchronous successive halving (ASHA), apart from any engine.

A trial that reaches a rung goes on if, among the k trials that have reached it so far, itself
included, it is one of the best max(⌊k/η⌋, 1).

* Rungs are grace period · ηⁱ, in integers, below the last epoch.
* A trial is recorded once a rung: with the first report at or past its milestone.
* Of equal values the one that came first ranks higher, so that trials that are all at chance
  don't carry each other on.
* A trial that errs, or reports a number that isn't finite, stops, and counts as the worst in
  every rung that it reached and in the next one.

Reference: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020
(arXiv 1810.05934), Algorithm 2, in its stopping form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Metric = Literal["accuracy", "loss"]


class Decision(NamedTuple):
    """What happens to a trial after a report, and why, in words."""

    go_on: bool
    reason: str


def milestones(max_epochs: int, grace_period: int, reduction_factor: int) -> tuple[int, ...]:
    """The epochs of the rungs, ascending: grace_period · reduction_factorⁱ < max_epochs.

    Args:
        max_epochs: epochs of a trial that is never stopped, ≥ 1.
        grace_period: epochs before the first decision, ≥ 1.
        reduction_factor: η, ≥ 2.
    """
    epochs = []
    milestone = grace_period
    while milestone < max_epochs:
        epochs.append(milestone)
        milestone *= reduction_factor
    return tuple(epochs)


def score(metric: Metric, accuracy: float, loss: float) -> float:
    """A report as one number, higher is better; minus infinity if it isn't finite.

    The loss decides whether a report is finite: of logits that are NaN, argmax is class 0, and
    the accuracy looks like one.
    """
    if not (math.isfinite(accuracy) and math.isfinite(loss)):
        return -math.inf
    return accuracy if metric == "accuracy" else -loss


@dataclass
class Rungs:
    """What each rung has seen.

    Attributes:
        milestones: epochs of the rungs, ascending; none for a search without early stopping.
        max_epochs: the epoch at which every trial ends.
        reduction_factor: η.
        entries: for each rung, trial → score, in order of arrival.
    """

    milestones: tuple[int, ...]
    max_epochs: int
    reduction_factor: int
    entries: list[dict[int, float]] = field(init=False)

    def __post_init__(self) -> None:
        self.entries = [{} for _ in self.milestones]

    def report(self, trial: int, epoch: int, score: float) -> Decision:
        """Records a report and decides.

        Args:
            trial: the trial's number.
            epoch: finished epochs.
            score: higher is better; minus infinity for a report that isn't finite.
        """
        if not math.isfinite(score):
            self.fail(trial)
            return Decision(False, "not finite")
        for milestone, entries in zip(self.milestones, self.entries, strict=True):
            if trial in entries or epoch < milestone:
                continue
            entries[trial] = score
            rank = 1 + sum(other >= score for name, other in entries.items() if name != trial)
            kept = max(len(entries) // self.reduction_factor, 1)
            if rank > kept:
                return Decision(
                    False, f"rung {milestone}: rank {rank} of {len(entries)}, best {kept} go on"
                )
        if epoch >= self.max_epochs:
            return Decision(False, "all epochs")
        return Decision(True, "")

    def fail(self, trial: int) -> None:
        """Counts a trial as the worst in the rungs it reached and in the next one, once."""
        for entries in self.entries:
            if entries.get(trial) == -math.inf:
                return
            reached = trial in entries
            entries[trial] = -math.inf
            if not reached:
                return
