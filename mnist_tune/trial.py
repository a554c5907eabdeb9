"""A trial as Ray Tune runs it: one epoch a step, in a process that serves many trials.

A trial that goes on from its checkpoint sends that epoch's report again, in case it was lost;
whoever receives it ignores what is known.
"""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.tune import Trainable

from mnist_tune import devices, storage
from mnist_tune.datasets import Split
from mnist_tune.errors import ClusterError
from mnist_tune.experiment import SEARCH
from mnist_tune.hparams import Config, shapes_of
from mnist_tune.options import TrialSettings
from mnist_tune.places import above, join
from mnist_tune.trial_files import files_of, keep, read_kept

if TYPE_CHECKING:
    from mnist_tune.training import State


class TrainingTrial(Trainable):  # type: ignore[misc]  # Ray has no types
    """Trains one configuration after another; nothing of one is left for the next.

    A configuration is that of ``hparams.complete`` with its trial's number under ``trial``.
    Reports hold ``epoch``, ``accuracy``, ``loss`` (validation), ``epoch_s`` and ``node``, by which
    Ray knows where the trial runs.
    """

    _state: State
    _unsent: dict[str, Any] | None
    _epoch: int
    _best_score: float

    def setup(
        self,
        config: dict[str, Any],
        train: Split,
        validation: Split,
        settings: TrialSettings,
    ) -> None:
        """Starts JAX in this process, moves the data to the device, begins the first trial.

        Raises:
            ClusterError: this node has joined later than others, and isn't fit for the search.
        """
        check_node(settings)
        devices.configure(settings.device, settings.threads)
        import ray

        from mnist_tune import training

        self._node = ray.get_runtime_context().get_node_id()
        self._settings = settings
        self._train = training.device_data(train)
        self._validation = training.device_data(validation)
        self._compiled: set[str] = set()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins another trial in this process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Trains and evaluates one epoch, or sends again the report of the one before."""
        if self._unsent is not None:
            report, self._unsent = self._unsent, None
            return {**report, "node": self._node}
        from mnist_tune import training

        start = time.perf_counter()
        epoch = self._epoch + 1
        self._state = training.train_epoch(
            self._state, self._train, self._hypers, np.int32(epoch), self._config["batch_size"]
        )
        metrics = training.evaluate(self._state.params, self._validation)
        report = {
            "epoch": epoch,
            "accuracy": float(metrics.accuracy),
            "loss": float(metrics.loss),
            "epoch_s": round(time.perf_counter() - start, 6),
        }
        self._epoch = epoch
        self._best_score = keep(
            self._place,
            self._settings,
            self._config,
            report,
            self._state._asdict(),
            self._best_score,
        )
        return {**report, "node": self._node}

    def _begin(self, config: dict[str, Any]) -> None:
        from mnist_tune import training

        self._config: Config = {name: value for name, value in config.items() if name != "trial"}
        self._place = files_of(self._settings, config["trial"])
        self._hypers = training.hypers(self._config, self._settings.max_epochs)
        self._epoch, self._best_score, self._unsent = 0, -np.inf, None
        if (shapes := shapes_of(self._config)) not in self._compiled:
            programs = training.programs(self._config, self._train, self._validation)
            with devices.compiling_alone():
                for program in programs:
                    program.compile()
            self._compiled.add(shapes)
        self._state = training.initial_state(self._config)
        if kept := read_kept(self._place):
            self._state = training.state_from(kept.arrays)
            self._epoch, self._best_score = kept.report["epoch"], kept.best_score
            self._unsent = kept.report


def check_node(settings: TrialSettings) -> None:
    """Returns if the node that this process is on can run trials of the search.

    Raises:
        ClusterError: it can't.
    """
    run = above(settings.checkpoints)
    if not storage.exists(join(run, SEARCH)):
        raise ClusterError(f"{run} isn't seen from {platform.node()}")
    if settings.versions != devices.versions():
        raise ClusterError(f"{platform.node()} has other versions than the driver")
