"""A trial as Ray Tune runs it: one epoch a step, in a process that serves many trials.

A trial keeps its own checkpoints below the run directory or its URI, so that a retry, a resumed
search and a new process all go on in the same way: from the last finished epoch. That epoch's
report is sent again, in case it was lost; whoever receives it ignores what is known.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.tune import Trainable

from mnist_tune import devices, storage
from mnist_tune.checkpoints import LAST, best_name, read_checkpoint, write_checkpoint
from mnist_tune.datasets import Split
from mnist_tune.errors import CheckpointError, ClusterError
from mnist_tune.experiment import SEARCH
from mnist_tune.hparams import Config
from mnist_tune.options import TrialSettings
from mnist_tune.places import above, join
from mnist_tune.results import trial_id
from mnist_tune.rungs import score

if TYPE_CHECKING:
    from mnist_tune.training import State

_SHAPES = ("batch_size", "features", "dense_units")
"""The hyperparameters that decide which program is run."""


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
        _check_node(settings)
        devices.configure(settings.device, settings.threads)
        import ray

        from mnist_tune import training

        self._node = ray.get_runtime_context().get_node_id()
        self._settings = settings
        self._train = training.device_data(train)
        self._validation = training.device_data(validation)
        self._compiled: set[tuple[str, ...]] = set()
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
        self._save(report)
        return {**report, "node": self._node}

    def _begin(self, config: dict[str, Any]) -> None:
        from mnist_tune import training

        self._config: Config = {name: value for name, value in config.items() if name != "trial"}
        self._place = join(self._settings.checkpoints, trial_id(config["trial"]))
        self._hypers = training.hypers(self._config, self._settings.max_epochs)
        self._epoch, self._best_score, self._unsent = 0, -np.inf, None
        shapes = tuple(repr(self._config[name]) for name in _SHAPES)
        if shapes not in self._compiled:
            programs = training.programs(self._config, self._train, self._validation)
            with devices.compiling_alone():
                for program in programs:
                    program.compile()
            self._compiled.add(shapes)
        self._state = training.initial_state(self._config)
        if LAST in storage.files(self._place):
            self._restore()

    def _restore(self) -> None:
        from mnist_tune import training

        try:
            arrays, meta = read_checkpoint(join(self._place, LAST))
        except CheckpointError:
            # Starting over is right, only slower: reports that are known are ignored.
            storage.delete(join(self._place, LAST))
            return
        self._state = training.state_from(arrays)
        self._epoch, self._best_score = meta["epoch"], meta["best_score"]
        self._unsent = {name: meta[name] for name in ("epoch", "accuracy", "loss", "epoch_s")}

    def _save(self, report: Mapping[str, Any]) -> None:
        value = score(self._settings.metric, report["accuracy"], report["loss"])
        if value == -np.inf:
            return
        record = {
            **report,
            "config": self._config,
            "max_epochs": self._settings.max_epochs,
            "data": self._settings.data,
            "device": devices.current().record(),
            "versions": devices.versions(),
        }
        if value > self._best_score:
            self._best_score = value
            # The driver may not know of this report yet and still need the one before.
            name = best_name(self._epoch)
            kept = [old for old in storage.files(self._place) if old.startswith("best-")]
            for older in [old for old in kept if old != name][:-1]:
                storage.delete(join(self._place, older))
            write_checkpoint(join(self._place, name), {"params": self._state.params}, record)
        arrays = {"params": self._state.params, "velocity": self._state.velocity}
        write_checkpoint(
            join(self._place, LAST), arrays, {**record, "best_score": self._best_score}
        )


def _check_node(settings: TrialSettings) -> None:
    run = above(settings.checkpoints)
    if not storage.exists(join(run, SEARCH)):
        raise ClusterError(f"{run} isn't seen from {platform.node()}")
    if settings.versions != devices.versions():
        raise ClusterError(f"{platform.node()} has other versions than the driver")
