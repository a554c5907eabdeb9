"""A run directory: reads it, and writes it one whole file at a time.

search.yaml        all that was asked: options, space, data set
ledger.jsonl       every report and decision (see ledger.py): the truth
trials.csv         one row a trial; follows from the ledger
best.yaml          the best configuration so far, and all that a replay needs
best.safetensors   the winner's parameters
checkpoints/       of trials that aren't finished, and of the best
ray/               Ray's own files; nothing is read from them
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_tune import ledger
from mnist_tune.checkpoints import write_atomically
from mnist_tune.errors import ConfigError, RunError
from mnist_tune.ledger import Event
from mnist_tune.options import SearchOptions, options_from
from mnist_tune.results import Results, fold, table
from mnist_tune.space import Space, space_from_mapping
from mnist_tune.yamls import dump_yaml, load_yaml

SEARCH, LEDGER, TRIALS, BEST = "search.yaml", "ledger.jsonl", "trials.csv", "best.yaml"
BEST_CHECKPOINT, CHECKPOINTS = "best.safetensors", "checkpoints"


@dataclass
class Experiment:
    """A search and what has come out of it so far.

    Attributes:
        path: the run directory.
        options: what was asked.
        space: where configurations are drawn from.
        data: ``name``, ``checksum``, ``train_size``, ``validation_size``, ``test_size``.
        results: the trials.
    """

    path: Path
    options: SearchOptions
    space: Space
    data: dict[str, Any]
    results: Results

    @property
    def name(self) -> str:
        """The run's name: its directory's."""
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """The directory of the trials' checkpoints, one directory a trial."""
        return self.path / CHECKPOINTS

    def record(self, *events: Event) -> None:
        """Writes events to the ledger, then takes them in."""
        ledger.append(self.path / LEDGER, events)
        for event in events:
            self.results.apply(event)

    def best_record(self) -> dict[str, Any] | None:
        """What best.yaml holds; None before the first finished trial with a finite report."""
        path = self.path / BEST
        return load_yaml(path) if path.exists() else None

    def summary(self) -> dict[str, Any]:
        """What ``search --json`` prints."""
        best = self.best_record()
        return {
            "name": self.name,
            "path": str(self.path),
            "best": best
            and {
                "trial_id": best["provenance"]["trial_id"],
                **{key: best[key] for key in ("config", "validation", "test")},
            },
            "trials": self.results.counts(),
            "epochs_trained": self.results.epochs_trained,
            "wall_s": round(self.results.wall_s, 3),
        }


def create_experiment(
    path: Path, options: SearchOptions, space: Space, data: Mapping[str, Any]
) -> Experiment:
    """Makes a new run directory with its search.yaml.

    Raises:
        RunError: the directory exists, or can't be made or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except FileExistsError:
        reason = "exists already" if path.exists() else "is below a file"
        raise RunError(
            f"{path}: {reason}; choose another --name or --storage-path, or go on with it: "
            f"mnist-tune resume {path}"
        ) from None
    except OSError as error:
        raise RunError(
            f"{path}: cannot be made ({error.strerror}); choose another --storage-path"
        ) from None
    record = {"options": options.record(), "space": space.to_mapping(), "data": dict(data)}
    write_atomically(path / SEARCH, dump_yaml(record))
    return Experiment(path, options, space, dict(data), Results(options.metric))


def open_experiment(path: Path) -> Experiment:
    """Reads a run directory; executes nothing that is in it.

    Raises:
        RunError: it isn't one, or it's damaged.
    """
    if not (path / SEARCH).is_file():
        raise RunError(f"{path}: not a run directory (no {SEARCH}); see: mnist-tune runs")
    record = load_yaml(path / SEARCH)
    try:
        options = options_from(record["options"], str(path / SEARCH))
        space = space_from_mapping(record["space"], str(path / SEARCH))
        data = dict(record["data"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path / SEARCH}: damaged: {error!r}") from None
    except ConfigError as error:
        raise RunError(str(error)) from None
    events = ledger.read(path / LEDGER) if (path / LEDGER).exists() else []
    try:
        results = fold(options.metric, events)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise RunError(f"{path / LEDGER}: damaged: {error!r}") from None
    return Experiment(path, options, space, data, results)


def write_trials(experiment: Experiment) -> None:
    """Replaces trials.csv."""
    rows = table(experiment.results)
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_atomically(experiment.path / TRIALS, text.getvalue().encode())


def write_best(experiment: Experiment, record: Mapping[str, Any]) -> None:
    """Replaces best.yaml."""
    write_atomically(experiment.path / BEST, dump_yaml(record))


def storage_path(given: str | None) -> Path:
    """The directory that holds the runs: as given, else ``~/mnist-tune-runs``."""
    return Path(given).expanduser().absolute() if given else Path.home() / "mnist-tune-runs"


def find_run(run: str, storage: Path) -> Path:
    """The directory of a run given as a path, or as a name in ``storage``.

    Raises:
        RunError: there is no such run.
    """
    for path in (Path(run).expanduser(), storage / run):
        if (path / SEARCH).is_file():
            return path.absolute()
    raise RunError(
        f"{run}: no run directory of this path, nor of this name in {storage}; see: mnist-tune runs"
    )


def list_runs(storage: Path) -> list[Path]:
    """The run directories in ``storage``, the newest last."""
    if not storage.is_dir():
        return []
    found = [path for path in storage.iterdir() if (path / SEARCH).is_file()]
    return sorted(found, key=lambda path: os.stat(path / SEARCH).st_mtime)
