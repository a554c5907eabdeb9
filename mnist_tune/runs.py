"""Where runs are: found by name, path or URI, listed, and opened to go on with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from mnist_tune import ledger, storage
from mnist_tune.checkpoints import write_atomically
from mnist_tune.errors import RunError
from mnist_tune.experiment import (
    BEST,
    BEST_CHECKPOINT,
    CHECKPOINTS,
    LEDGER,
    SEARCH,
    SEGMENTS,
    TRIALS,
    Experiment,
    is_run,
    open_experiment,
)
from mnist_tune.options import is_name
from mnist_tune.places import Place, checked_uri, is_uri, join, working_copy
from mnist_tune.results import fold
from mnist_tune.segments import Segments, read_segments


def storage_path(given: str | None) -> Place:
    """Where the runs are: as given, else ``MNIST_TUNE_STORAGE``, else ``~/mnist-tune-runs``.

    Raises:
        ConfigError: it's a URI, and not one of a store that is supported.
    """
    given = given or os.environ.get("MNIST_TUNE_STORAGE")
    if not given:
        return Path.home() / "mnist-tune-runs"
    return checked_uri(given) if is_uri(given) else _expanded(given).absolute()


def find_run(run: str, runs: Place) -> Place:
    """A run given as a path or URI, or as a name in ``runs``.

    Raises:
        RunError: there is no such run.
        StorageError: the store can't be asked.
    """
    if is_uri(run):
        if is_run(uri := checked_uri(run)):
            return uri
        raise RunError(
            f"{run}: there is no run (no {SEARCH}); see: mnist-tune runs --storage-path URI"
        )
    if is_run(path := _expanded(run)):
        return path.absolute()
    if isinstance(runs, Path):
        if is_run(runs / run):
            return (runs / run).absolute()
    elif is_name(run) and is_run(join(runs, run)):
        return join(runs, run)
    raise RunError(
        f"{run}: no run directory of this path, nor of this name in {runs}; see: mnist-tune runs"
    )


def list_runs(runs: Place) -> Sequence[Place]:
    """The runs in a directory or a store, the newest last.

    Raises:
        StorageError: the store can't be asked.
    """
    if isinstance(runs, Path):
        here = [path for path in runs.iterdir() if is_run(path)] if runs.is_dir() else []
        return sorted(here, key=lambda path: os.stat(path / SEARCH).st_mtime)
    storage.check_bucket(runs)
    found = [join(runs, name) for name in storage.directories(runs) if is_name(name)]
    times = storage.modified_s([join(uri, SEARCH) for uri in found])
    dated = [(time_s, uri) for time_s, uri in zip(times, found, strict=True) if time_s is not None]
    return [uri for _, uri in sorted(dated)]


def check_out(place: Place) -> Experiment:
    """Opens a run to go on with it; the caller has the lock of its working copy.

    Of a run in a store, the copy is made anew: the store has what was acted on.

    Raises:
        As ``open_experiment``.
    """
    path = working_copy(place)
    experiment = open_experiment(place)
    remove_half_written(path)
    if isinstance(place, Path):
        ledger.drop_torn_line(path / LEDGER)
        return experiment
    shutil.rmtree(path / CHECKPOINTS, ignore_errors=True)
    parts = read_segments(join(place, SEGMENTS))
    names = (SEARCH, BEST, BEST_CHECKPOINT)
    contents = storage.read_all([join(place, name) for name in names])
    for name, content in zip((*names, LEDGER), (*contents, b"".join(parts)), strict=True):
        if content is None:
            (path / name).unlink(missing_ok=True)
        else:
            write_atomically(path / name, content, sync=False)
    ledger.drop_torn_line(path / LEDGER)
    experiment.results = fold(experiment.options.metric, ledger.read(path / LEDGER))
    size_bytes = (path / LEDGER).stat().st_size
    experiment.segments = Segments(join(place, SEGMENTS), len(parts), size_bytes)
    return experiment


def remove_half_written(path: Path) -> None:
    """Removes what a driver that was killed while it wrote has left; the caller has the lock."""
    for name in (SEARCH, TRIALS, BEST, BEST_CHECKPOINT):
        for part in path.glob(f".{name}.*"):
            part.unlink(missing_ok=True)


def _expanded(path: str) -> Path:
    # Path.expanduser raises for a user that isn't known.
    return Path(os.path.expanduser(path))
