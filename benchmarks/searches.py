"""Whole searches, from the command to the best configuration, against the peers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.peers.task import Task
from benchmarks.processes import Finished, mnist_tune, module, run, temporary_directory
from benchmarks.report import Table, percent, seconds
from benchmarks.rounds import interleave, median, ratio
from benchmarks.settings import CORES, MEMORY_KEPT, SPACE, Settings
from mnist_tune.data_sources import default_validation_size
from mnist_tune.space import draw, load_space

OURS = "mnist-tune"
PEERS = {
    "Ray Tune + Flax": "ray_flax",
    "Ray Tune + Flax, actors reused": "ray_flax_reuse",
    "Ray Tune + PyTorch, actors reused": "ray_torch",
    "Optuna + PyTorch, two processes": "optuna_torch",
    "Keras Tuner Hyperband, two workers": "keras_hyperband",
}

_MEMORY_KEPT = ("ray_torch", "optuna_torch")
_PEER_ENVIRONMENT = {
    # One thread a trial for XLA, too; PyTorch and TensorFlow are told in their scripts.
    "NPROC": "1",
    "JAX_PLATFORMS": "cpu",
    # Without its CSV, JSON and TensorBoard files Ray's driver takes twice as many reports.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}


@dataclass(frozen=True)
class Workload:
    """What is searched; ``train_size`` None: all images that aren't held back."""

    dataset: str
    train_size: int | None
    validation_size: int
    trials: int
    epochs: int


MNIST = Workload("mnist", 20_000, default_validation_size("mnist"), 16, 4)
DIGITS = Workload("digits", None, default_validation_size("digits"), 32, 10)
QUICK_MNIST = Workload("mnist", 1_000, 500, 4, 3)
QUICK_DIGITS = Workload("digits", None, default_validation_size("digits"), 4, 3)


def measure_mnist(settings: Settings) -> dict[str, Any]:
    """The search on 20,000 images of MNIST."""
    return measure(settings, QUICK_MNIST if settings.quick else MNIST)


def measure_digits(settings: Settings) -> dict[str, Any]:
    """The search on scikit-learn's digits."""
    return measure(settings, QUICK_DIGITS if settings.quick else DIGITS)


def measure(settings: Settings, workload: Workload) -> dict[str, Any]:
    """Runs every contestant's search once a round."""
    drawn = draw(load_space(SPACE), workload.trials, 0, "random")
    configs = [{name: config[name] for name in ("learning_rate", "beta")} for config in drawn]
    with temporary_directory() as cache:
        contestants: dict[str, Callable[[], dict[str, Any]]] = {
            OURS: partial(_ours, settings, workload, cache),
            f"{OURS}, nothing compiled yet": partial(_ours, settings, workload, None),
        }
        for name, script in PEERS.items():
            contestants[name] = partial(_peer, settings, workload, configs, script)
        # What it compiles is there in the rounds, as it is from a user's second search on.
        _ours(settings, workload, cache)
        runs = interleave(contestants, settings.rounds)
    return {"workload": vars(workload), "contestants": runs}


def _ours(settings: Settings, workload: Workload, cache: Path | None) -> dict[str, Any]:
    with temporary_directory() as directory:
        size = ("--train-size", str(workload.train_size)) if workload.train_size else ()
        search = run(
            mnist_tune(
                *("search", "--space", str(SPACE), "--dataset", workload.dataset, *size),
                *("--validation-size", str(workload.validation_size)),
                *("--num-samples", str(workload.trials), "--max-epochs", str(workload.epochs)),
                *("--max-concurrent", str(CORES), "--data-dir", settings.data_dir),
                *("--storage-path", str(directory), "--name", "run", "--json"),
            ),
            directory,
            {"XDG_CACHE_HOME": str(cache or directory / "cache")},
        )
    summary = summary_of(search)
    best = summary["best"]
    return {
        "wall_s": search.wall_s,
        "config": {name: best["config"][name] for name in ("learning_rate", "beta")},
        "validation_accuracy": best["validation"]["accuracy"],
        "test_accuracy": best["test"]["accuracy"],
        "epochs": summary["epochs_trained"],
        "trials": workload.trials,
    }


def summary_of(command: Finished) -> dict[str, Any]:
    """What a command of ours with ``--json`` says: all of stdout is the object."""
    summary: dict[str, Any] = json.loads(command.output)
    return summary


def _peer(
    settings: Settings, workload: Workload, configs: list[dict[str, float]], script: str
) -> dict[str, Any]:
    with temporary_directory() as directory:
        task = Task(
            dataset=workload.dataset,
            data_dir=settings.data_dir,
            train_size=workload.train_size,
            validation_size=workload.validation_size,
            epochs=workload.epochs,
            configs=configs,
            directory=str(directory),
        )
        kept = MEMORY_KEPT if script in _MEMORY_KEPT else {}
        environment = {**_PEER_ENVIRONMENT, **kept}
        path = directory / "task.json"
        task.write(path)
        search = run(module(f"peers.{script}", str(path)), directory, environment)
    return {"wall_s": search.wall_s, **search.answer()}


def table(result: dict[str, Any]) -> Table:
    """A row a contestant: medians over the rounds."""
    runs = result["contestants"]

    def column(name: str, field: str) -> list[float]:
        return [run[field] for run in runs[name]]

    ours = column(OURS, "wall_s")
    rows = [
        [
            name,
            seconds(median(column(name, "wall_s"))),
            f"{ratio(column(name, 'wall_s'), ours):.2f}",
            f"{median(column(name, 'trials')):g}",
            f"{median(column(name, 'epochs')):g}",
            percent(median(column(name, "validation_accuracy"))),
            percent(median(column(name, "test_accuracy"))),
        ]
        for name in runs
    ]
    columns = (
        *("", "command to best configuration (s)", "theirs / ours", "trials"),
        *("epochs trained", "best validation accuracy", "its test accuracy"),
    )
    return Table(columns, rows)
