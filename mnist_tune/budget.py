"""``--time-budget``: the end of a search when its time is over."""

from __future__ import annotations

import time
from typing import Any

from ray.tune import Stopper


class _TimeBudget(Stopper):  # type: ignore[misc]
    # Not Tune's own: it can be over before the workers have started, and then each session of a
    # search that is resumed ends where it began.
    def __init__(self, budget_s: float) -> None:
        self._ends_s = time.monotonic() + budget_s
        self._reported = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        self._reported = True
        return False

    def stop_all(self) -> bool:
        return self._reported and time.monotonic() >= self._ends_s


def time_budget(budget_s: float | None) -> Stopper | None:
    """What ends a search after so many seconds from now, but not before its first report."""
    return None if budget_s is None else _TimeBudget(budget_s)
