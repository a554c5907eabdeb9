"""A trial that fails while it takes over another's process is tried again, as Ray has it else."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from ray import tune
from ray.exceptions import RayActorError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

from mnist_tune.retries import retries

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


def trainable() -> type[tune.Trainable]:
    """Ends after one step; the second trial fails once, when it begins in the first one's process.

    Made here, so that it's sent to workers whole: they can't import this file.
    """

    class Begins(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            self._begin(config, "")

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._begin(new_config, new_config["fail"])
            return True

        def _begin(self, config: dict[str, Any], fail: str) -> None:
            log = Path(config["log"]) / f"{config['trial']}"
            first = not log.exists()
            with log.open("a") as file:
                file.write(f"{os.getpid()}\n")
            if first and config["trial"] == 1 and fail == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if first and config["trial"] == 1 and fail == "raises":
                raise ValueError("no")

        def step(self) -> dict[str, Any]:
            return {"done": True}

    return Begins


def outcome(directory: Path, fail: str) -> tuple[list[str], int]:
    """The states in which three trials end, sorted, and how often the second began."""
    config = {"trial": tune.grid_search([0, 1, 2]), "log": str(directory), "fail": fail}
    results = tune.Tuner(
        tune.with_resources(trainable(), {"cpu": 2}),
        param_space=config,
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(
            name="run",
            storage_path=str(directory),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=2),
        ),
    ).fit()
    states = ["failed" if result.error else "done" for result in results]
    return sorted(states), len((directory / "1").read_text().splitlines())


@pytest.mark.parametrize("fail", ["dies", "raises"])
def test_a_trial_that_fails_at_its_beginning_is_tried_again(fail: str, tmp_path: Path) -> None:
    with retries():
        assert outcome(tmp_path, fail) == (["done"] * 3, 2)


@pytest.mark.parametrize("fail", ["dies", "raises"])
def test_ray_alone_gives_such_a_trial_up(fail: str, tmp_path: Path) -> None:
    # Once Ray mends this, retries.py has no reason to be.
    assert outcome(tmp_path, fail) == (["done", "done", "failed"], 1)


def lost(said: str) -> RayActorError:
    return RayActorError(error_msg=f"The actor died unexpectedly.\n{said} Node Id: 12")


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (lost("The actor died because its node has died."), False),
        (lost("The actor never ran - it was cancelled before it started running."), False),
        (lost("Its process was killed."), True),
        (ValueError("its node has died"), True),
    ],
)
def test_only_a_lost_node_is_not_the_trials_failure(error: Exception, counts: bool) -> None:
    counted: list[bool] = []

    def failed(_controller: Any, _trial: Trial, error: Exception) -> None:
        # As Trial.handle_error asks.
        counted.append(not getattr(error, "preempted", False))

    failed.__name__ = "_trial_task_failure"
    trial: Any = SimpleNamespace(config={"trial": 0}, status=Trial.RUNNING)
    controller: Any = SimpleNamespace(_resetting_trials=[])
    with patch.object(TuneController, failed.__name__, failed), retries():
        for _ in range(22):
            TuneController._trial_task_failure(controller, trial, error)
    assert counted == [counts] * 20 + [True] * 2
