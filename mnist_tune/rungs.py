"""The bookkeeping of asynchronous successive halving (ASHA), apart from any engine.

*Stopping*: a trial that reaches a rung goes on if, among the k trials that have reached it so
far, itself included, it is one of the best max(⌊k/η⌋, 1).

*Promotion*: a trial that reaches a rung pauses there. A free slot takes the best trial that is
one of the best ⌊k/η⌋ of a rung and paused there, from the highest rung that has one; if there is
none, a new trial.

* Rungs are grace period · ηⁱ, in integers, below the last epoch.
* A trial is recorded once a rung: with the first report at or past its milestone.
* Of equal values the one that came first ranks higher, so that trials that are all at chance
  don't carry each other on.
* A trial that errs, or reports a number that isn't finite, stops, and counts as the worst in
  every rung that it reached and in the next one.

Reference: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020
(arXiv 1810.05934), Algorithm 2, which is the promotion; Determined's adaptation stops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Metric = Literal["accuracy", "loss"]
AshaType = Literal["stopping", "promotion"]


class Decision(NamedTuple):
    """What happens to a trial after a report, and why, in words; ``paused``: it may go on later."""

    go_on: bool
    reason: str
    paused: bool = False


class Promotion(NamedTuple):
    """A trial that may leave a rung, and the rung's epoch."""

    trial: int
    epoch: int


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
        asha_type: whether a rung stops trials or promotes them.
        entries: for each rung, trial → score, in order of arrival.
        promoted: for each rung, the trials that have left it for the next.
    """

    milestones: tuple[int, ...]
    max_epochs: int
    reduction_factor: int
    asha_type: AshaType = "stopping"
    entries: list[dict[int, float]] = field(init=False)
    promoted: list[set[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.entries = [{} for _ in self.milestones]
        self.promoted = [set() for _ in self.milestones]

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
        record = self._stop if self.asha_type == "stopping" else self._pause
        decision = record(trial, epoch, score)
        if decision is not None:
            return decision
        if epoch >= self.max_epochs:
            return Decision(False, "all epochs")
        return Decision(True, "")

    def _stop(self, trial: int, epoch: int, score: float) -> Decision | None:
        for rung, milestone in enumerate(self.milestones):
            if trial in self.entries[rung] or epoch < milestone:
                continue
            self.entries[rung][trial] = score
            kept = max(len(self.entries[rung]) // self.reduction_factor, 1)
            rank = self._rank(rung, trial)
            if rank > kept:
                return Decision(False, self._standing(rung, rank, kept))
        return None

    def _pause(self, trial: int, epoch: int, score: float) -> Decision | None:
        reached = [rung for rung, milestone in enumerate(self.milestones) if epoch >= milestone]
        for rung in reached:
            self.entries[rung].setdefault(trial, score)
        # Whoever has come to a rung has left those below; and all of them at the end.
        for rung in reached if epoch >= self.max_epochs else reached[:-1]:
            self.promoted[rung].add(trial)
        if not reached or trial in self.promoted[reached[-1]]:
            return None
        rung = reached[-1]
        kept = len(self.entries[rung]) // self.reduction_factor
        return Decision(False, self._standing(rung, self._rank(rung, trial), kept), paused=True)

    def _rank(self, rung: int, trial: int) -> int:
        """A trial's rank when it is the last to have come to a rung."""
        entries = self.entries[rung]
        score = entries[trial]
        return 1 + sum(other >= score for name, other in entries.items() if name != trial)

    def _standing(self, rung: int, rank: int, kept: int) -> str:
        return (
            f"rung {self.milestones[rung]}: rank {rank} of {len(self.entries[rung])}, "
            f"best {kept} go on"
        )

    def next_promotion(self) -> Promotion | None:
        """The promotion that a free slot is to take; None if no trial may leave its rung."""
        if self.asha_type == "stopping":
            return None
        for rung in reversed(range(len(self.milestones))):
            entries = self.entries[rung]
            # Sorting is stable: of equals, the first to come stays before the others.
            best = sorted(entries, key=entries.__getitem__, reverse=True)
            for trial in best[: len(entries) // self.reduction_factor]:
                if trial not in self.promoted[rung] and math.isfinite(entries[trial]):
                    return Promotion(trial, self.milestones[rung])
        return None

    def promote(self, promotion: Promotion) -> None:
        """Lets a trial leave the rung at which it is paused.

        Raises:
            ValueError: it isn't at such a rung.
        """
        rung = self.milestones.index(promotion.epoch) if promotion.epoch in self.milestones else -1
        if rung < 0 or promotion.trial not in self.entries[rung]:
            raise ValueError(f"trial {promotion.trial} isn't at a rung of epoch {promotion.epoch}")
        self.promoted[rung].add(promotion.trial)

    def fail(self, trial: int) -> None:
        """Counts a trial as the worst in the rungs it reached and in the next one, once."""
        for entries in self.entries:
            if entries.get(trial) == -math.inf:
                return
            reached = trial in entries
            entries[trial] = -math.inf
            if not reached:
                return
