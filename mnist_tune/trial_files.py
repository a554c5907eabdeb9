"""What a trial keeps of itself, below the run directory or its URI, to go on from elsewhere.

A retry, a resumed search and a new process all go on in the same way: from the last finished
epoch. Whoever trains the trial writes these files, before anyone hears of the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mnist_tune import devices, storage
from mnist_tune.checkpoints import LAST, Arrays, best_name, read_checkpoint, write_checkpoint
from mnist_tune.errors import CheckpointError
from mnist_tune.hparams import Config
from mnist_tune.options import TrialSettings
from mnist_tune.places import Place, join
from mnist_tune.results import trial_id
from mnist_tune.rungs import score

REPORTED = ("epoch", "accuracy", "loss", "epoch_s")
"""What the report of an epoch holds; accuracy and loss on the validation set."""


class Kept(NamedTuple):
    """A trial after its last finished epoch.

    Attributes:
        arrays: ``params`` and ``velocity``.
        report: of that epoch.
        best_score: of all its epochs.
    """

    arrays: Arrays
    report: dict[str, Any]
    best_score: float


def files_of(settings: TrialSettings, number: int) -> Place:
    """Where a trial keeps its files."""
    return join(settings.checkpoints, trial_id(number))


def read_kept(place: Place) -> Kept | None:
    """Reads what a trial has kept; None if there is nothing to go on from.

    Raises:
        StorageError: the store can't be asked for it.
    """
    if LAST not in storage.files(place):
        return None
    try:
        arrays, meta = read_checkpoint(join(place, LAST))
    except CheckpointError:
        # Starting over is right, only slower: reports that are known are ignored.
        storage.delete(join(place, LAST))
        return None
    return Kept(arrays, {name: meta[name] for name in REPORTED}, meta["best_score"])


def keep(
    place: Place,
    settings: TrialSettings,
    config: Config,
    report: Mapping[str, Any],
    arrays: Arrays,
    best_score: float,
) -> float:
    """Writes what a trial needs to go on after an epoch; nothing if its scores aren't finite.

    Args:
        place: where the trial keeps its files.
        settings: the search's.
        config: the trial's configuration.
        report: of the epoch.
        arrays: ``params`` and ``velocity``.
        best_score: of the epochs before; -inf if there are none.

    Returns:
        The best score of all epochs.
    """
    value = score(settings.metric, report["accuracy"], report["loss"])
    if value == -np.inf:
        return best_score
    record = {
        **report,
        "config": config,
        "max_epochs": settings.max_epochs,
        "data": settings.data,
        "device": devices.current().record(),
        "lanes": settings.lanes,
        "versions": devices.versions(),
    }
    if value > best_score:
        best_score = value
        # The driver may not know of this report yet and still need the one before.
        name = best_name(report["epoch"])
        kept = [old for old in storage.files(place) if old.startswith("best-")]
        for older in [old for old in kept if old != name][:-1]:
            storage.delete(join(place, older))
        write_checkpoint(join(place, name), {"params": arrays["params"]}, record)
    write_checkpoint(join(place, LAST), arrays, {**record, "best_score": best_score})
    return best_score
