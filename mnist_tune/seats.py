"""A trial in its lane: what an engine knows of it."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnist_tune.errors import EngineError
from mnist_tune.hparams import Config
from mnist_tune.options import TrialSettings
from mnist_tune.places import Place
from mnist_tune.trial_files import files_of, read_kept

if TYPE_CHECKING:
    from mnist_tune.training import Hypers, Metrics, State

Report = dict[str, Any]
"""Of an epoch: ``trial_files.REPORTED``."""


@dataclass
class Seat:
    """A trial in its lane.

    Attributes:
        state: after the last epoch that is through.
        epoch: the last that has been begun.
        taken: the last whose report the trial has got.
        since: the turn after which it has waited.
        alone: it may not run beside others.
        hopeful: its last report's scores are finite; else it will be stopped.
        ready: the report of an epoch that the trial hasn't asked for.
        asked: what the trial waits with.
        failed: why its next epoch could not be trained.
    """

    trial: int
    config: Config
    place: Place
    hypers: Hypers
    state: State
    epoch: int
    taken: int
    best_score: float
    since: int
    alone: bool
    hopeful: bool = True
    running: bool = False
    ready: Report | None = None
    asked: asyncio.Future[Report] | None = None
    failed: EngineError | None = None


def seat_for(trial: int, config: Config, settings: TrialSettings, since: int, alone: bool) -> Seat:
    """A seat where the trial's last checkpoint left it, with that report to be sent again.

    Raises:
        StorageError: the store can't be asked for the checkpoint.
    """
    from mnist_tune import training

    place = files_of(settings, trial)
    kept = read_kept(place)
    epoch = kept.report["epoch"] if kept else 0
    return Seat(
        trial=trial,
        config=config,
        place=place,
        hypers=training.hypers(config, settings.max_epochs),
        state=training.state_from(kept.arrays) if kept else training.initial_state(config),
        epoch=epoch,
        taken=epoch,
        best_score=kept.best_score if kept else -math.inf,
        since=since,
        alone=alone,
        ready=kept.report if kept else None,
    )


def report_of(epoch: int, metrics: Metrics, lane: int, took_s: float) -> Report:
    """The report of one of the lanes of a program."""
    return {
        "epoch": epoch,
        "accuracy": float(metrics.accuracy[lane]),
        "loss": float(metrics.loss[lane]),
        "epoch_s": round(took_s, 6),
    }
