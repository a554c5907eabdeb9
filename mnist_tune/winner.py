"""The best configuration of a search: recorded as trials finish, scored once at the end."""

from __future__ import annotations

import math
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from mnist_tune import devices, storage
from mnist_tune.checkpoints import Arrays, best_name, read_checkpoint, write_atomically
from mnist_tune.cluster import from_worker
from mnist_tune.datasets import Dataset, Split
from mnist_tune.errors import CheckpointError, StorageError
from mnist_tune.experiment import BEST_CHECKPOINT, CHECKPOINTS, Experiment, keep, write_best
from mnist_tune.options import TrialSettings
from mnist_tune.places import join, with_endpoint
from mnist_tune.results import Best
from mnist_tune.slots import Slots

_REPORTED = ("epoch", "accuracy", "loss")


def trial_settings(experiment: Experiment, slots: Slots) -> TrialSettings:
    """What every trial of a search shares."""
    return TrialSettings(
        checkpoints=join(with_endpoint(experiment.place), CHECKPOINTS),
        max_epochs=experiment.options.max_epochs,
        metric=experiment.options.metric,
        device="gpu" if slots.gpus else "cpu",
        threads=max(1, math.floor(slots.cpus)),
        lanes=slots.lanes,
        data=experiment.data,
        versions=devices.versions(),
    )


def update_best(experiment: Experiment, recorded: Best | None = None) -> Best | None:
    """Records the best so far, without a test score, if it isn't the one recorded already.

    Args:
        experiment: the search.
        recorded: what the last call returned; spares reading best.yaml for each trial that ends.

    Returns:
        What is recorded, as far as it's the best; None if there is none yet.
    """
    best = experiment.results.best
    if best is None or best is recorded:
        return best
    if _is_recorded(experiment, best):
        return best
    kept = experiment.path / BEST_CHECKPOINT
    source = _fetched(experiment, best)
    meta = _meta(source)
    if meta is not None:
        keep(experiment, BEST_CHECKPOINT, source.read_bytes(), sync=True)
    else:
        # It is there if only best.yaml has been removed. Else the trial has lost its checkpoints,
        # and is on its way to this epoch again.
        meta = _meta(kept)
        if meta is None or any(meta.get(name) != getattr(best.report, name) for name in _REPORTED):
            return None
    write_best(experiment, _best_record(experiment, best, meta))
    return best


def _fetched(experiment: Experiment, best: Best) -> Path:
    """Where the best trial's checkpoint is on this machine, if it still exists."""
    names = (CHECKPOINTS, best.trial.trial_id, best_name(best.report.epoch))
    path = experiment.path.joinpath(*names)
    if isinstance(experiment.place, str):
        content = storage.read_bytes(join(experiment.place, *names))
        if content is not None:
            write_atomically(path, content, sync=False)
    return path


def _meta(path: Path) -> dict[str, Any] | None:
    try:
        return read_checkpoint(path)[1]
    except CheckpointError:
        return None


def _is_recorded(experiment: Experiment, best: Best) -> bool:
    record = experiment.best_record()
    if record is None or not (experiment.path / BEST_CHECKPOINT).exists():
        return False
    known = (record["provenance"]["trial_id"], record["validation"]["epoch"])
    return known == (best.trial.trial_id, best.report.epoch)


def keep_checkpoints(experiment: Experiment) -> None:
    """Removes the checkpoints of trials that are finished."""
    for directory in experiment.checkpoints.glob("[0-9]*"):
        # Few directories, but perhaps many thousand trials.
        if _is_finished(experiment, directory.name):
            shutil.rmtree(directory, ignore_errors=True)
    if isinstance(experiment.place, str):
        checkpoints = join(experiment.place, CHECKPOINTS)
        # As above: what can't be removed is left.
        with suppress(StorageError):
            for name in storage.directories(checkpoints):
                if _is_finished(experiment, name):
                    storage.delete_tree(join(checkpoints, name))


def _is_finished(experiment: Experiment, name: str) -> bool:
    trials = experiment.results.trials
    if not name.isdigit() or int(name) >= len(trials):
        return False
    trial = trials[int(name)]
    return trial.finished and trial.trial_id == name


def remove_checkpoints(experiment: Experiment) -> None:
    """Removes all trials' checkpoints."""
    shutil.rmtree(experiment.checkpoints, ignore_errors=True)
    if isinstance(experiment.place, str):
        storage.delete_tree(join(experiment.place, CHECKPOINTS)).result()


def finish_best(experiment: Experiment, dataset: Dataset, slots: Slots) -> None:
    """Scores the winner on the test set, once, on a worker, and completes best.yaml."""
    import ray

    update_best(experiment)
    best, record = experiment.results.best, experiment.best_record()
    if best is None:
        return
    if not _is_recorded(experiment, best):
        raise CheckpointError(
            f"{experiment.checkpoints}: the best trial, {best.trial.trial_id}, has lost its "
            "checkpoint; its configuration is in trials.csv"
        )
    if record is None or record["test"] is not None:
        return
    remote = ray.remote(num_cpus=slots.cpus, num_gpus=slots.gpus)(_score)
    settings = trial_settings(experiment, slots)
    path = experiment.path / BEST_CHECKPOINT
    params = read_checkpoint(path)[0]["params"]
    try:
        record["test"] = ray.get(remote.remote(params, dataset.test, settings))
    except ray.exceptions.RayError as error:
        raise from_worker(error, f"{path}: the winner could not be scored") from None
    write_best(experiment, record)


def _score(params: Arrays, test: Split, settings: TrialSettings) -> dict[str, float]:
    devices.configure(settings.device, settings.threads)
    from mnist_tune import training

    metrics = training.evaluate(params, training.device_data(test))
    return {"accuracy": float(metrics.accuracy), "loss": float(metrics.loss)}


def _best_record(experiment: Experiment, best: Best, meta: dict[str, Any]) -> dict[str, Any]:
    return {
        "config": best.trial.config,
        "validation": {
            "accuracy": best.report.accuracy,
            "loss": best.report.loss,
            "epoch": best.report.epoch,
        },
        "test": None,
        "provenance": {
            "run": experiment.name,
            "trial_id": best.trial.trial_id,
            "metric": experiment.options.metric,
            "seed": experiment.options.seed,
            "max_epochs": experiment.options.max_epochs,
            "data": experiment.data,
            "device": meta["device"],
            "lanes": meta.get("lanes", 1),
            "versions": meta["versions"],
        },
    }
