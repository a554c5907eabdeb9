"""What a cluster's head does for a person elsewhere (see afar.py), in a task of Ray's."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_tune import segments
from mnist_tune import storage as stores
from mnist_tune.afar import Search
from mnist_tune.experiment import BEST, LEDGER, SEARCH, SEGMENTS, Experiment, open_experiment
from mnist_tune.options import SearchOptions
from mnist_tune.places import join
from mnist_tune.preflight import try_nodes
from mnist_tune.slots import Say, nodes

if TYPE_CHECKING:
    from mnist_tune.datasets import Dataset
    from mnist_tune.driver import Show

Tell = Callable[[str, Any], None]
"""Takes what happens: a kind and a value."""


def drive_search(tell: Tell, work: Search, dataset: Dataset) -> dict[str, Any]:
    """Runs a search on the head."""
    from mnist_tune.searching import search_here

    show, say = _teller(tell)
    return _copied(search_here(work, lambda: dataset, time.monotonic(), False, show, say))


def drive_resume(
    tell: Tell, run: str, storage: str | None, dataset: Dataset | None
) -> dict[str, Any]:
    """Goes on with a search on the head."""
    from mnist_tune.searching import resume_here

    def load(_options: SearchOptions) -> Dataset:
        assert dataset is not None
        return dataset

    show, say = _teller(tell)
    return _copied(resume_here(run, storage, "auto", load, time.monotonic(), False, show, say))


def drive_doctor(_tell: Tell, storage: str | None, _data: None) -> dict[str, Any]:
    """Tries the nodes from the head."""
    from mnist_tune.runs import storage_path

    return {"reports": try_nodes(nodes(), storage_path(storage), gpus=True)}


def look_up(_tell: Tell, run: str, storage: str | None, _dataset: None) -> dict[str, Any]:
    """Reads a run on the head."""
    from mnist_tune.runs import find_run, storage_path

    return _copied(open_experiment(find_run(run, storage_path(storage))))


def _teller(tell: Tell) -> tuple[Show, Say]:
    told = False

    def show(experiment: Experiment, event: dict[str, Any]) -> None:
        nonlocal told
        if not told:
            tell("run", _copied(experiment))
            told = True
            # The ledger has it already.
            tell("shown", event)
            return
        tell("event", event)

    return show, lambda line: tell("line", line)


def _copied(experiment: Experiment) -> dict[str, Any]:
    found = {name: _content(experiment, name) for name in (SEARCH, LEDGER, BEST)}
    files = {name: content for name, content in found.items() if content is not None}
    return {"place": str(experiment.place), "files": files}


def _content(experiment: Experiment, name: str) -> bytes | None:
    path = experiment.path / name
    if experiment.segments or isinstance(experiment.place, Path):
        return path.read_bytes() if path.exists() else None
    # Nobody has brought it here from its store.
    if name == LEDGER:
        return segments.read(join(experiment.place, SEGMENTS))
    return stores.read_bytes(join(experiment.place, name))
