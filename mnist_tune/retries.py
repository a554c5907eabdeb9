"""Ray Tune's retries, also for a trial that fails while it begins in another's process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


@contextmanager
def retried_resets() -> Iterator[None]:
    """Has a trial that fails during ``reset_config`` tried again like any other.

    Ray retries what runs, and a trial runs from the end of ``reset_config`` on: before that a
    failure is for good. If the process dies, Ray does retry, is told of it a second time, and then
    gives up what it has just put back. The version of Ray is held within a minor release.
    """
    from ray.exceptions import RayActorError
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial

    failed = TuneController._trial_task_failure

    def retried(controller: Any, trial: Trial, exception: Exception) -> None:
        if trial in controller._resetting_trials:
            controller._resetting_trials.remove(trial)
            if trial.status == Trial.PENDING:
                controller._unstage_trial_with_resources(trial)
                controller._set_trial_status(trial, Trial.RUNNING)
        elif trial.status == Trial.PENDING and isinstance(exception, RayActorError):
            return
        failed(controller, trial, exception)

    with patch.object(TuneController, failed.__name__, retried):
        yield
