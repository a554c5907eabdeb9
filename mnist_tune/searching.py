"""A search: options, checked → configurations, drawn → a run directory, which the driver fills."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from mnist_tune import afar, devices
from mnist_tune import storage as stores
from mnist_tune.cluster import local_gpus, ray_session
from mnist_tune.datasets import Dataset, check_sizes, default_validation_size, load_dataset
from mnist_tune.driver import Show, check_outcome, lock, run_trials
from mnist_tune.errors import ConfigError, RunError
from mnist_tune.experiment import (
    SEARCH,
    Experiment,
    create_experiment,
    taken,
)
from mnist_tune.options import SearchOptions, check_name
from mnist_tune.places import Place, above, join, working_copy
from mnist_tune.preflight import ready_slots
from mnist_tune.runs import check_out, find_run, storage_path
from mnist_tune.signals import interruptible
from mnist_tune.slots import Say, Slots, local_slots
from mnist_tune.space import Space, draw, grid_size, load_space, space_from_mapping


def search(
    space: str | Path | Mapping[str, Any] | Space,
    *,
    name: str | None = None,
    storage: str | None = None,
    verbose: bool = False,
    show: Show | None = None,
    say: Say = lambda _line: None,
    **options: Any,
) -> Experiment:
    """Runs a search to its end.

    Args:
        space: a search space file, or its ``parameters`` as a mapping.
        name: the run directory's name in ``storage``; None: from the space and the time.
        storage: the directory for runs, or its URI in an object store; None:
            ``MNIST_TUNE_STORAGE``, else ``~/mnist-tune-runs``.
        verbose: let Ray speak.
        show: is called with every event.
        say: is called with what a cluster is waited for.
        **options: as in ``SearchOptions``.

    Returns:
        The finished search; ``summary()`` has what the command line prints.

    Raises:
        InputError: what was asked is not valid; nothing has been started or written.
        InterruptedSearch: it was interrupted and can be resumed.
        SearchError: no trial gave a result.
        StorageError: the object store can't be reached or used.
    """
    began_s = time.monotonic()
    asked = SearchOptions(**options)
    if asked.data_dir is not None:
        # Recorded for a resume that may be run from elsewhere.
        asked = replace(asked, data_dir=os.path.abspath(os.path.expanduser(asked.data_dir)))
    space = as_space(space)
    validation_size(asked)
    # Raises for a space that can't be drawn from, before Ray is started for it.
    grid_size(space, asked.searcher)
    work = afar.Search(space, asked, name, storage)
    if afar.is_far(asked.address):
        return afar.search_there(work, partial(dataset_for, asked), verbose, show, say)
    return search_here(work, partial(dataset_for, asked), began_s, verbose, show, say)


def search_here(
    work: afar.Search,
    load: Callable[[], Dataset],
    began_s: float,
    verbose: bool,
    show: Show | None,
    say: Say,
) -> Experiment:
    """Runs a search whose driver is this process; see ``search``."""
    space, asked, name, storage = work
    place = new_place(space, asked, name, storage)
    if isinstance(runs := storage_path(storage), str):
        stores.probe(runs)
    check = partial(check_local_slots, asked)
    light = shares_device(asked)
    with interruptible(), ray_session(asked.address, verbose, check, light=light) as connect:
        configs = draw(space, asked.num_samples, asked.seed, asked.searcher)
        dataset = load()
        connect()
        slots = ready_slots(asked, len(configs), runs, say)
        experiment = create_experiment(place, asked, space, data_record(dataset), configs)
        with lock(experiment.path):
            return run_trials(experiment, dataset, slots, began_s, show)


def resume(
    run: str,
    *,
    storage: str | None = None,
    address: str | None = None,
    verbose: bool = False,
    show: Show | None = None,
    say: Say = lambda _line: None,
) -> Experiment:
    """Goes on with a search that was interrupted or died; does nothing to one that is done.

    Args:
        run: a run directory, its URI, or its name in ``storage``.
        storage: as in ``search``.
        address: a Ray cluster's address; None: where the search ran before, if that was this
            machine.
        verbose: let Ray speak.
        show: is called with every event.
        say: is called with what a cluster is waited for.

    Returns, Raises:
        As ``search``.
    """
    began_s = time.monotonic()
    if address is not None and afar.is_far(SearchOptions(address=address).address):
        return afar.resume_there(run, storage, address, verbose, show, say)
    return resume_here(run, storage, address, dataset_for, began_s, verbose, show, say)


def resume_here(
    run: str,
    storage: str | None,
    address: str | None,
    load: Callable[[SearchOptions], Dataset],
    began_s: float,
    verbose: bool,
    show: Show | None,
    say: Say,
) -> Experiment:
    """Goes on with a search whose driver is this process; see ``resume``."""
    place = find_run(run, storage_path(storage))
    path = working_copy(place)
    path.mkdir(parents=True, exist_ok=True)
    with lock(path):
        experiment = check_out(place)
        if experiment.results.ended == "done":
            check_outcome(experiment)
            return experiment
        experiment.options = replace(
            experiment.options, address=address_to_resume_at(experiment, address)
        )
        dataset = load(experiment.options)
        if dataset.checksum != experiment.data["checksum"]:
            raise RunError(
                f"{place}: the search began on {dataset.name} with checksum "
                f"{experiment.data['checksum']}, but the data here has {dataset.checksum}"
            )
        options = experiment.options
        light = shares_device(options)
        with interruptible(), ray_session(options.address, verbose, light=light) as connect:
            connect()
            slots = ready_slots(options, experiment.results.to_run, above(place), say)
            return run_trials(experiment, dataset, slots, began_s, show)


def address_to_resume_at(experiment: Experiment, given: str | None) -> str | None:
    """Where a search goes on.

    Raises:
        ConfigError: it ran on a cluster, and isn't told on which one to go on: a run directory
            can be somebody else's, and whoever runs a cluster can run programs here.
    """
    recorded = experiment.options.address
    if given is None and recorded not in {None, "auto"}:
        raise ConfigError(
            f"{experiment.place}: the search ran on the Ray cluster at {recorded}; say where to go "
            f"on: --address {recorded}, or another"
        )
    return given or recorded


def as_space(space: str | Path | Mapping[str, Any] | Space) -> Space:
    """A space from a file, from a mapping, or as it is."""
    if isinstance(space, Space):
        return space
    return space_from_mapping(space) if isinstance(space, Mapping) else load_space(space)


def dataset_for(options: SearchOptions) -> Dataset:
    """The data set that a search's options ask for."""
    size = validation_size(options)
    return load_dataset(options.dataset, options.data_dir, size, options.train_size)


def validation_size(options: SearchOptions) -> int:
    """The images to select by: as asked, or the data set's default.

    Raises:
        ConfigError: the data set isn't known, or hasn't as many images as asked for.
    """
    size = options.validation_size
    if size is None:
        size = default_validation_size(options.dataset)
    check_sizes(options.dataset, size, options.train_size)
    return size


def data_record(dataset: Dataset) -> dict[str, Any]:
    """What search.yaml and best.yaml say of the data."""
    return {
        "name": dataset.name,
        "checksum": dataset.checksum,
        "train_size": len(dataset.train),
        "validation_size": len(dataset.validation),
        "test_size": len(dataset.test),
    }


def new_place(space: Space, options: SearchOptions, name: str | None, storage: str | None) -> Place:
    """Where a new run goes; by default it's named after its space, data set and time.

    Raises:
        InputError: the name can't be one, the run exists, or it couldn't be made.
        StorageError: the object store can't be reached.
    """
    if name is None:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(space.source).stem).strip("-._")[:60]
        name = f"{stem or 'space'}-{options.dataset}-{datetime.now():%Y%m%d-%H%M%S}"
    path = join(storage_path(storage), check_name(name))
    if isinstance(path, str):
        if stores.exists(join(path, SEARCH)):
            raise taken(path)
        return path
    if path.exists():
        raise taken(path)
    above = next(parent for parent in path.parents if parent.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise RunError(
            f"{path}: cannot be made ({above} is not a directory that you may write); choose "
            "another --storage-path"
        )
    return path


def shares_device(options: SearchOptions) -> bool:
    """Whether trials share a process that trains, as far as one can say before Ray is there."""
    if options.lanes == "auto":
        return options.address is None and options.gpus_per_trial != 0 and local_gpus() > 0
    return options.lanes > 1


def check_local_slots(options: SearchOptions) -> Slots | None:
    """What each trial gets of this machine; None if the search runs on a cluster.

    Raises:
        ConfigError: no trial could ever start.
    """
    if options.address is not None:
        return None
    return local_slots(options, devices.cpu_count(), local_gpus())
