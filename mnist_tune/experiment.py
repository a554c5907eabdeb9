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
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_tune import ledger, records
from mnist_tune.checkpoints import write_atomically
from mnist_tune.errors import ConfigError, InputError, RunError
from mnist_tune.hparams import Config, complete
from mnist_tune.ledger import Event
from mnist_tune.options import SearchOptions, options_from
from mnist_tune.records import COUNT, MAPPING, NUMBER, TEXT, Shape
from mnist_tune.results import Results, fold, table
from mnist_tune.space import Space, space_from_mapping
from mnist_tune.yamls import dump_yaml, load_yaml

SEARCH, LEDGER, TRIALS, BEST = "search.yaml", "ledger.jsonl", "trials.csv", "best.yaml"
BEST_CHECKPOINT, CHECKPOINTS = "best.safetensors", "checkpoints"

_SEARCH: Shape = {
    "options": MAPPING,
    "space": MAPPING,
    "data": {
        "name": TEXT,
        "checksum": TEXT,
        "train_size": COUNT,
        "validation_size": COUNT,
        "test_size": COUNT,
    },
}
_SCORES: Shape = {"accuracy": NUMBER, "loss": NUMBER}
_BEST: Shape = {
    "config": MAPPING,
    "validation": {**_SCORES, "epoch": COUNT},
    "test": records.optional(_SCORES),
    "provenance": {"trial_id": TEXT},
}


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

    @property
    def state(self) -> str:
        """``done``, ``interrupted``, ``time budget over``, or ``running or killed``."""
        ended = {"time_budget": "time budget over", "": "running or killed"}
        return ended.get(self.results.ended, self.results.ended)

    def record(self, *events: Event) -> None:
        """Writes events to the ledger, then takes them in."""
        ledger.append(self.path / LEDGER, events)
        for event in events:
            self.results.apply(event)

    def best_record(self) -> dict[str, Any] | None:
        """What best.yaml holds; None before the first finished trial with a finite report.

        Raises:
            RunError: it's damaged.
        """
        path = self.path / BEST
        if not path.exists():
            return None
        record = _load(path, _BEST)
        try:
            complete(record["config"], f"{path}: config")
        except InputError as error:
            raise RunError(str(error)) from None
        return record

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
    path: Path,
    options: SearchOptions,
    space: Space,
    data: Mapping[str, Any],
    configs: Sequence[Config],
) -> Experiment:
    """Makes a new run directory with its search.yaml and its trials, in one step.

    Raises:
        RunError: the directory exists, or can't be made or written.
    """
    record = {"options": options.record(), "space": space.to_mapping(), "data": dict(data)}
    events = [{"event": "trial", "trial": i, "config": config} for i, config in enumerate(configs)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path):
            raise FileExistsError
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
            draft = Path(temporary) / path.name
            draft.mkdir()
            write_atomically(draft / SEARCH, dump_yaml(record), sync=True)
            ledger.append(draft / LEDGER, events)
            draft.rename(path)
    except OSError as error:
        if os.path.lexists(path):
            raise taken(path) from None
        raise RunError(
            f"{path}: cannot be made ({error.strerror or error}); choose another --storage-path"
        ) from None
    return Experiment(path, options, space, dict(data), fold(options.metric, events))


def taken(path: Path) -> RunError:
    """The error for a new run where there is one already."""
    return RunError(
        f"{path}: exists already; choose another --name or --storage-path, or go on with it: "
        f"mnist-tune resume {path}"
    )


def open_experiment(path: Path) -> Experiment:
    """Reads a run directory; executes nothing that is in it.

    Raises:
        RunError: it isn't one, or it's damaged.
    """
    if not _is_run(path):
        raise RunError(f"{path}: not a run directory (no {SEARCH}); see: mnist-tune runs")
    record = _load(path / SEARCH, _SEARCH)
    try:
        options = options_from(record["options"], str(path / SEARCH))
        space = space_from_mapping(record["space"], str(path / SEARCH))
    except InputError as error:
        raise RunError(str(error)) from None
    try:
        results = fold(options.metric, ledger.read(path / LEDGER))
    except (ValueError, ConfigError) as error:
        raise RunError(f"{path / LEDGER}: damaged: {error}") from None
    if not results.trials:
        raise RunError(f"{path / LEDGER}: damaged: holds no trials")
    return Experiment(path, options, space, record["data"], results)


def remove_half_written(path: Path) -> None:
    """Removes what a driver that was killed while it wrote has left; the caller has the lock."""
    for name in (SEARCH, TRIALS, BEST, BEST_CHECKPOINT):
        for part in path.glob(f".{name}.*"):
            part.unlink(missing_ok=True)


def write_trials(experiment: Experiment) -> None:
    """Replaces trials.csv."""
    rows = table(experiment.results)
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_atomically(experiment.path / TRIALS, text.getvalue().encode(), sync=False)


def write_best(experiment: Experiment, record: Mapping[str, Any]) -> None:
    """Replaces best.yaml."""
    write_atomically(experiment.path / BEST, dump_yaml(record), sync=True)


def storage_path(given: str | None) -> Path:
    """The directory that holds the runs: as given, else ``~/mnist-tune-runs``."""
    return _expanded(given).absolute() if given else Path.home() / "mnist-tune-runs"


def find_run(run: str, storage: Path) -> Path:
    """The directory of a run given as a path, or as a name in ``storage``.

    Raises:
        RunError: there is no such run.
    """
    for path in (_expanded(run), storage / run):
        if _is_run(path):
            return path.absolute()
    raise RunError(
        f"{run}: no run directory of this path, nor of this name in {storage}; see: mnist-tune runs"
    )


def list_runs(storage: Path) -> list[Path]:
    """The run directories in ``storage``, the newest last."""
    if not storage.is_dir():
        return []
    found = [path for path in storage.iterdir() if _is_run(path)]
    return sorted(found, key=lambda path: os.stat(path / SEARCH).st_mtime)


def _is_run(path: Path) -> bool:
    # Path.is_file raises for a name that is too long or a directory that can't be entered.
    return os.path.isfile(path / SEARCH)


def _expanded(path: str) -> Path:
    # Path.expanduser raises for a user that isn't known.
    return Path(os.path.expanduser(path))


def _load(path: Path, shape: Shape) -> dict[str, Any]:
    record = load_yaml(path)
    try:
        records.check(record, shape)
        # Everything in it can be printed: no lone surrogates, no NaN.
        json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise RunError(f"{path}: damaged: {error}") from None
    return record
