"""Events and runs as a search would have left them, made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mnist_tune.checkpoints import write_checkpoint
from mnist_tune.experiment import Experiment, create_experiment, write_best, write_trials
from mnist_tune.hparams import complete
from mnist_tune.ledger import Event
from mnist_tune.options import SearchOptions
from mnist_tune.space import space_from_mapping

DATA = {
    "name": "digits",
    "checksum": "0123456789abcdef" * 4,
    "train_size": 1150,
    "validation_size": 287,
    "test_size": 360,
}
SPACE = {
    "learning_rate": {"distribution": "loguniform", "low": 1e-4, "high": 1.0},
    "schedule": {"distribution": "choice", "values": ["constant", "cosine"]},
    "features": [16, 32],
    "beta": 0.5,
}
META = {
    "device": {"platform": "cpu", "kind": "a CPU", "threads": 1},
    "lanes": 1,
    "versions": {"python": "3.11.0", "jax": "0.10.2"},
}


def drawn(trial: int, **config: Any) -> Event:
    return {"event": "trial", "trial": trial, "config": complete(config)}


def report(
    trial: int, epoch: int, accuracy: Any = 0.5, loss: Any = 1.0, stop: str = "", epoch_s: Any = 0.5
) -> Event:
    """A report that stops the trial where it's given a reason to."""
    return {
        "event": "report",
        "time": 1.5,
        "trial": trial,
        "epoch": epoch,
        "accuracy": accuracy,
        "loss": loss,
        "epoch_s": epoch_s,
        "worker": "host:1",
        "decision": "stop" if stop else "continue",
        "reason": stop,
    }


def paused(trial: int, epoch: int, accuracy: Any = 0.5, loss: Any = 1.0) -> Event:
    """A report at a rung where trials wait to be promoted."""
    reason = f"rung {epoch}: rank 1 of 1, best 0 go on"
    return {**report(trial, epoch, accuracy, loss, reason), "decision": "pause"}


def promote(trial: int, epoch: int) -> Event:
    return {"event": "promote", "time": 2.0, "trial": trial, "epoch": epoch}


def error(trial: int, message: str = "ValueError: no") -> Event:
    return {"event": "error", "time": 2.5, "trial": trial, "message": message}


def session(slots: int = 2) -> Event:
    return {"event": "session", "time": 0.5, "slots": slots}


def end(reason: str = "done", wall_s: float = 10.0) -> Event:
    return {"event": "end", "time": 9.5, "reason": reason, "wall_s": wall_s}


def new_run(path: Path, num_trials: int = 4, **options: Any) -> Experiment:
    """A search that was created, and nothing more."""
    return create_experiment(
        path,
        SearchOptions(**{"dataset": "digits", "num_samples": num_trials, **options}),
        space_from_mapping(SPACE),
        DATA,
        [complete({"learning_rate": (i + 1) / 100}) for i in range(num_trials)],
    )


def keep_checkpoint(experiment: Experiment, trial: str, epoch: int) -> bytes:
    """A trial's checkpoint after an epoch that was its best; returns the file's content."""
    import numpy as np

    path = experiment.checkpoints / trial / f"best-{epoch:05d}.safetensors"
    write_checkpoint(path, {"params": {"bias": np.full(3, epoch, np.float32)}}, META)
    return path.read_bytes()


def finished_run(path: Path, **options: Any) -> Experiment:
    """A search of four trials: one completed, one stopped, one failed, one not finite."""
    experiment = new_run(path, 4, **options)
    experiment.record(
        session(),
        report(0, 1, 0.8, 0.7),
        report(1, 1, 0.6, 0.9, stop="rung 1: rank 2 of 2, best 1 go on"),
        report(0, 2, 0.9, 0.4),
        error(2),
        report(3, 1, 0.1, float("nan"), stop="not finite"),
        report(0, 3, 0.85, 0.3, stop="all epochs"),
        end("done", 12.3456),
    )
    write_best(
        experiment,
        {
            "config": experiment.results.trials[0].config,
            "validation": {"accuracy": 0.9, "loss": 0.4, "epoch": 2},
            "test": {"accuracy": 0.875, "loss": 0.5},
            "provenance": {
                "run": experiment.name,
                "trial_id": "00000",
                "metric": experiment.options.metric,
                "seed": 0,
                "max_epochs": 3,
                "data": DATA,
                **META,
            },
        },
    )
    write_trials(experiment)
    return experiment
