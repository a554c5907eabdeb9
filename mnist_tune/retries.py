"""Ray Tune's retries, mended: of trials that fail while they begin, and whose node dies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

_LOST_NODES = 20
"""So many nodes may die under a trial before it counts as its failure: it could be the cause."""


@contextmanager
def retries() -> Iterator[None]:
    """Has a trial that fails during ``reset_config``, or whose node dies, tried again.

    Ray retries what runs, and a trial runs from the end of ``reset_config`` on: before that a
    failure is for good. If the process dies, Ray does retry, is told of it a second time, and then
    gives up what it has just put back. A lost node counts as a failure of the trial, unless an
    autoscaler has announced it. The version of Ray is held within a minor release.
    """
    from ray.exceptions import RayActorError
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial

    failed = TuneController._trial_task_failure
    lost: Counter[int] = Counter()

    def retried(controller: Any, trial: Trial, exception: Exception) -> None:
        if trial in controller._resetting_trials:
            controller._resetting_trials.remove(trial)
            if trial.status == Trial.PENDING:
                controller._unstage_trial_with_resources(trial)
                controller._set_trial_status(trial, Trial.RUNNING)
        elif trial.status == Trial.PENDING and isinstance(exception, RayActorError):
            return
        if isinstance(exception, RayActorError) and _node_died(exception):
            number = trial.config["trial"]
            lost[number] += 1
            # What Ray asks before it counts.
            exception._preempted = lost[number] <= _LOST_NODES
        failed(controller, trial, exception)

    with patch.object(TuneController, failed.__name__, retried):
        yield


def _node_died(error: Exception) -> bool:
    said = str(error)
    return "its node has died" in said or "cancelled before it started" in said
