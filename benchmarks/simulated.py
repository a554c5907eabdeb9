"""Trials that train nothing: all that is left is the driver's work.

python -m benchmarks.simulated mnist-tune|ray TRIALS DIRECTORY DATA_DIR
"""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any
from unittest.mock import patch

import numpy as np
from ray import tune

from benchmarks.settings import CORES, SPACE
from benchmarks.usage import resident_bytes
from mnist_tune.checkpoints import best_name, write_checkpoint
from mnist_tune.options import TrialSettings
from mnist_tune.places import join
from mnist_tune.results import trial_id

EPOCHS = 4


def report(learning_rate: float, epoch: int) -> dict[str, Any]:
    """What a trial would report: better in the middle of the range, and with each epoch."""
    accuracy = math.exp(-((math.log10(learning_rate) + 1.5) ** 2) - 1 / epoch)
    return {"epoch": epoch, "accuracy": accuracy, "loss": 1 - accuracy, "epoch_s": 0.0}


class Trial(tune.Trainable):  # type: ignore[misc]
    """Reports at once; goes on with the next trial in the same process."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begins the first trial."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins another trial."""
        self._config, self._epoch = new_config, 0
        return True

    def step(self) -> dict[str, Any]:
        """Reports an epoch."""
        self._epoch += 1
        return report(self._config["learning_rate"], self._epoch)


class CheckpointedTrial(Trial):
    """The same with the small files that mnist-tune's driver expects of a trial."""

    def setup(
        self,
        config: dict[str, Any],
        train: object = None,  # noqa: ARG002
        validation: object = None,  # noqa: ARG002
        settings: TrialSettings | None = None,
    ) -> None:
        """Begins the first trial."""
        assert settings is not None
        self._settings = settings
        self.reset_config(config)

    def step(self) -> dict[str, Any]:
        """Reports an epoch, its checkpoint written."""
        reported = super().step()
        directory = join(self._settings.checkpoints, trial_id(self._config["trial"]))
        meta: dict[str, Any] = {"device": {}, "versions": {}}
        write_checkpoint(
            join(directory, best_name(self._epoch)), {"params": {"x": np.zeros(1)}}, meta
        )
        return reported


class Watch:
    """Times and memory of a driver, from its first report to its last.

    Attributes:
        trials: that began.
        reports: that came in.
    """

    def __init__(self) -> None:
        self.trials = self.reports = 0
        self._first_s = self._last_s = 0.0
        self._memory: list[tuple[int, int]] = []

    def on_report(self) -> None:
        """Takes note of a report."""
        self._last_s = time.monotonic()
        self._first_s = self._first_s or self._last_s
        self.reports += 1

    def on_trial(self) -> None:
        """Takes note of a new trial."""
        self.trials += 1
        self._memory.append((self.trials, resident_bytes()))

    def record(self) -> dict[str, Any]:
        """What came out; memory growth is from the first tenth of the trials on."""
        wall_s = self._last_s - self._first_s
        (early, before), (late, after) = self._memory[self.trials // 10], self._memory[-1]
        return {
            "trials": self.trials,
            "reports": self.reports,
            "wall_s": wall_s,
            "bytes_per_trial": (after - before) / max(1, late - early),
            "resident_bytes": after,
        }


def run_ours(trials: int, directory: str, data_dir: str) -> dict[str, Any]:
    """``mnist_tune.search`` with all it writes; only training and the last scoring are left out."""
    from mnist_tune import driver, search

    watch = Watch()

    def show(_experiment: object, event: dict[str, Any]) -> None:
        if event["event"] == "report":
            if event["epoch"] == 1:
                watch.on_trial()
            watch.on_report()

    with (
        patch("mnist_tune.trial.TrainingTrial", CheckpointedTrial),
        patch.object(driver, "finish_best", lambda *_: None),
    ):
        search(
            SPACE,
            storage=directory,
            name="run",
            show=show,
            dataset="digits",
            data_dir=data_dir,
            num_samples=trials,
            max_epochs=EPOCHS,
            max_concurrent=CORES,
        )
    return watch.record()


def run_ray(trials: int, directory: str) -> dict[str, Any]:
    """Ray Tune itself, with its ASHA, its random search, and no loggers."""
    import ray
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    watch = Watch()

    class Watching(tune.Callback):  # type: ignore[misc]
        def on_trial_result(self, result: dict[str, Any], **_: Any) -> None:
            if result["epoch"] == 1:
                watch.on_trial()
            watch.on_report()

    ray.init(
        address="local",
        num_cpus=CORES,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=f"{directory}/ray",
    )
    results = tune.Tuner(
        tune.with_resources(Trial, {"cpu": 1}),
        param_space={
            "learning_rate": tune.loguniform(1e-4, 1.0),
            "beta": tune.uniform(0.0, 0.99),
        },
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            num_samples=trials,
            search_alg=BasicVariantGenerator(),
            scheduler=ASHAScheduler(max_t=EPOCHS, grace_period=1, reduction_factor=3),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="run",
            storage_path=directory,
            verbose=0,
            callbacks=[Watching()],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()
    if results.num_errors:
        raise SystemExit("trials failed")
    ray.shutdown()
    return watch.record()


def main() -> None:
    """Runs one of the two and prints its record."""
    name, trials, directory, data_dir = sys.argv[1:]
    if name == "ray":
        record = run_ray(int(trials), directory)
    else:
        record = run_ours(int(trials), directory, data_dir)
    sys.stdout.write(f"\n{json.dumps(record)}\n")


if __name__ == "__main__":
    main()
