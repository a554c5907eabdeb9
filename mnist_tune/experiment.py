"""A run directory: reads it, and writes it one whole file at a time.

search.yaml        all that was asked: options, space, data set
ledger.jsonl       every report and decision (see ledger.py): the truth
trials.csv         one row a trial; follows from the ledger
best.yaml          the best configuration so far, and all that a replay needs
best.safetensors   the winner's parameters
checkpoints/       of trials that aren't finished, and of the best
ray/               Ray's own files; nothing is read from them

A run can be kept in an object store, with its ledger in segments (see segments.py). A driver then
works on a copy, and brings each change to the store before anything relies on it.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_tune import ledger, records, storage
from mnist_tune.checkpoints import write_atomically
from mnist_tune.errors import ConfigError, InputError, RunError
from mnist_tune.hparams import Config, complete
from mnist_tune.ledger import Event
from mnist_tune.options import SearchOptions, options_from
from mnist_tune.places import Place, join, name_of, shown, working_copy
from mnist_tune.records import COUNT, MAPPING, NUMBER, TEXT, Shape
from mnist_tune.results import Results, fold, table
from mnist_tune.segments import Segments
from mnist_tune.space import Space, space_from_mapping
from mnist_tune.yamls import dump_yaml, load_yaml

SEARCH, LEDGER, TRIALS, BEST = "search.yaml", "ledger.jsonl", "trials.csv", "best.yaml"
BEST_CHECKPOINT, CHECKPOINTS = "best.safetensors", "checkpoints"
SEGMENTS = "ledger"

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
        place: the run directory, or its URI in a store.
        options: what was asked.
        space: where configurations are drawn from.
        data: ``name``, ``checksum``, ``train_size``, ``validation_size``, ``test_size``.
        results: the trials.
        segments: what of the ledger is in the store, for the driver of a run in one.
        copy: a directory with a copy of the run's files, where the run itself can't be seen.
    """

    place: Place
    options: SearchOptions
    space: Space
    data: dict[str, Any]
    results: Results
    segments: Segments | None = None
    copy: Path | None = None

    @property
    def path(self) -> Path:
        """The run directory, or that of a copy, where the run isn't in one of this machine."""
        return self.copy or working_copy(self.place)

    @property
    def name(self) -> str:
        """The run's name: its directory's."""
        return name_of(self.place)

    @property
    def checkpoints(self) -> Path:
        """The directory of the trials' checkpoints here, one directory a trial."""
        return self.path / CHECKPOINTS

    @property
    def state(self) -> str:
        """``done``, ``interrupted``, ``time budget over``, or ``running or killed``."""
        ended = {"time_budget": "time budget over", "": "running or killed"}
        return ended.get(self.results.ended, self.results.ended)

    def record(self, *events: Event) -> None:
        """Writes events to the ledger, then takes them in."""
        ledger.append(self.path / LEDGER, events)
        if self.segments:
            self.segments.push(self.path / LEDGER)
        for event in events:
            self.results.apply(event)

    def best_record(self) -> dict[str, Any] | None:
        """What best.yaml holds; None before the first finished trial with a finite report.

        Raises:
            RunError: it's damaged.
        """
        path = join(self.copy or self.place, BEST)
        if not (path.exists() if isinstance(path, Path) else storage.exists(path)):
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
            "path": str(self.place),
            "best": best
            and {
                "trial_id": best["provenance"]["trial_id"],
                **{key: best[key] for key in ("config", "validation", "test")},
            },
            "trials": self.results.counts(),
            "epochs_trained": self.results.epochs_trained,
            "epochs_wasted": self.results.epochs_wasted,
            "lanes": self.results.lanes,
            "compilations": self.results.compilations,
            "wall_s": round(self.results.wall_s, 3),
        }


def create_experiment(
    place: Place,
    options: SearchOptions,
    space: Space,
    data: Mapping[str, Any],
    configs: Sequence[Config],
) -> Experiment:
    """Makes a new run directory with its search.yaml and its trials, in one step.

    Raises:
        RunError: the directory exists, or can't be made or written.
        StorageError: the store can't be written.
    """
    path = working_copy(place)
    if isinstance(place, str):
        # Ray's start and the wait for nodes lie between the first look and this one.
        if storage.exists(join(place, SEARCH)):
            raise taken(place)
        # Of a run that is no longer in the store.
        shutil.rmtree(path, ignore_errors=True)
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
    experiment = Experiment(place, options, space, dict(data), fold(options.metric, events))
    if isinstance(place, str):
        experiment.segments = Segments(join(place, SEGMENTS), 0, 0)
        experiment.segments.push(path / LEDGER)
        # Last: what has it is a run.
        storage.write_bytes(join(place, SEARCH), (path / SEARCH).read_bytes())
    return experiment


def taken(place: Place) -> RunError:
    """The error for a new run where there is one already."""
    return RunError(
        f"{place}: exists already; choose another --name or --storage-path, or go on with it: "
        f"{resume_command(place)}"
    )


def resume_command(place: Place) -> str:
    """What to type to go on with a run."""
    return f"mnist-tune resume {shown(place)}"


def open_experiment(place: Place) -> Experiment:
    """Reads a run directory, or a run in a store; executes nothing that is in it.

    Raises:
        RunError: it isn't one, or it's damaged.
        StorageError: the store can't be asked.
    """
    if not is_run(place):
        raise RunError(f"{place}: not a run directory (no {SEARCH}); see: mnist-tune runs")
    search, path = join(place, SEARCH), join(place, LEDGER if isinstance(place, Path) else SEGMENTS)
    record = _load(search, _SEARCH)
    try:
        options = options_from(record["options"], str(search))
        space = space_from_mapping(record["space"], str(search))
    except InputError as error:
        raise RunError(str(error)) from None
    try:
        results = fold(options.metric, ledger.read(path))
    except (ValueError, ConfigError) as error:
        raise RunError(f"{path}: damaged: {error}") from None
    if not results.trials:
        raise RunError(f"{path}: damaged: holds no trials")
    return Experiment(place, options, space, record["data"], results)


def keep(experiment: Experiment, name: str, content: bytes, *, sync: bool) -> None:
    """Replaces one of a run's files, here and in its store."""
    write_atomically(experiment.path / name, content, sync=sync)
    if isinstance(experiment.place, str):
        storage.write_bytes(join(experiment.place, name), content)


def write_trials(experiment: Experiment) -> None:
    """Replaces trials.csv."""
    rows = table(experiment.results)
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    keep(experiment, TRIALS, text.getvalue().encode(), sync=False)


def write_best(experiment: Experiment, record: Mapping[str, Any]) -> None:
    """Replaces best.yaml."""
    keep(experiment, BEST, dump_yaml(record), sync=True)


def is_run(place: Place) -> bool:
    """Whether a run is there.

    Raises:
        StorageError: the store can't be asked.
    """
    return storage.exists(join(place, SEARCH))


def _load(path: Place, shape: Shape) -> dict[str, Any]:
    record = load_yaml(path)
    try:
        records.check(record, shape)
        # Everything in it can be printed: no lone surrogates, no NaN.
        json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise RunError(f"{path}: damaged: {error}") from None
    return record
