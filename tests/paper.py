"""Algorithm 2 of the ASHA paper (arXiv 1810.05934), slow and obvious, to be compared with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mnist_tune.ledger import Event

WORST = -float("inf")


@dataclass
class Arrival:
    trial: int
    score: float


@dataclass
class Paper:
    """Each rung is a list of who has come, in order; each has a list of who was promoted from it.

    A trial that fails counts as the worst in the rungs that it came to and in the next.
    """

    milestones: tuple[int, ...]
    max_epochs: int
    eta: int
    rungs: list[list[Arrival]] = field(default_factory=list)
    promoted: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rungs = [[] for _ in self.milestones]
        self.promoted = [[] for _ in self.milestones]

    def report(self, trial: int, epoch: int, score: float) -> str:
        if score == WORST:
            self.fail(trial)
            return "stop"
        came_to = None
        for k, milestone in enumerate(self.milestones):
            if epoch >= milestone:
                if not self.has(k, trial):
                    self.rungs[k].append(Arrival(trial, score))
                if came_to is not None:
                    self.promote(came_to, trial)
                came_to = k
        if epoch >= self.max_epochs:
            if came_to is not None:
                self.promote(came_to, trial)
            return "stop"
        waits = came_to is not None and trial not in self.promoted[came_to]
        return "pause" if waits else "continue"

    def get_job(self) -> tuple[int, int] | None:
        """Which trial is promoted from which rung; None: a new one starts in the bottom rung."""
        for k in reversed(range(len(self.milestones))):
            top = [a for a in self.rungs[k] if self.better(k, a) < len(self.rungs[k]) // self.eta]
            promotable = [a for a in top if a.trial not in self.promoted[k] and a.score > WORST]
            if promotable:
                return min(promotable, key=lambda a: self.better(k, a)).trial, k
        return None

    def better(self, k: int, one: Arrival) -> int:
        """How many in a rung rank higher; of equals those that came before."""
        place = self.rungs[k].index(one)
        before, after = self.rungs[k][:place], self.rungs[k][place + 1 :]
        return sum(a.score >= one.score for a in before) + sum(a.score > one.score for a in after)

    def promote(self, k: int, trial: int) -> None:
        if trial not in self.promoted[k]:
            self.promoted[k].append(trial)

    def fail(self, trial: int) -> None:
        reached = sum(self.has(k, trial) for k in range(len(self.rungs)))
        for k, rung in enumerate(self.rungs[: reached + 1]):
            if not self.has(k, trial):
                rung.append(Arrival(trial, WORST))
            for arrival in rung:
                if arrival.trial == trial:
                    arrival.score = WORST

    def has(self, k: int, trial: int) -> bool:
        return trial in [arrival.trial for arrival in self.rungs[k]]

    def entries(self) -> list[list[tuple[int, float]]]:
        return [[(arrival.trial, arrival.score) for arrival in rung] for rung in self.rungs]

    def check(self, events: Iterable[Event]) -> None:
        """Plays a ledger: each decision and each promotion must be the paper's."""
        for event in events:
            if event["event"] == "report":
                finite = event["accuracy"] is not None and event["loss"] is not None
                score = event["accuracy"] if finite else WORST
                assert event["decision"] == self.report(event["trial"], event["epoch"], score)
            elif event["event"] == "promote":
                k = self.milestones.index(event["epoch"])
                assert self.get_job() == (event["trial"], k)
                self.promote(k, event["trial"])
            elif event["event"] == "error":
                self.fail(event["trial"])
