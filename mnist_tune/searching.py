"""A search: options → trials under Ray Tune → a run directory with its best configuration.

The driver never starts a JAX backend: it draws configurations, records reports and decisions,
and leaves training and scoring to Ray's workers.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from mnist_tune import devices, ledger
from mnist_tune.cluster import Slots, local_gpus, ray_session, slots, slots_for
from mnist_tune.datasets import Dataset, default_validation_size, load_dataset
from mnist_tune.errors import InterruptedSearch, RunError, SearchError
from mnist_tune.experiment import (
    LEDGER,
    Experiment,
    create_experiment,
    find_run,
    open_experiment,
    storage_path,
    taken,
    write_trials,
)
from mnist_tune.ledger import Event
from mnist_tune.options import SearchOptions, check_name
from mnist_tune.results import ERRORED
from mnist_tune.rungs import Rungs
from mnist_tune.space import Space, draw, load_space, space_from_mapping
from mnist_tune.winner import finish_best, keep_checkpoints, update_best

Show = Callable[[Experiment, Event], None]
"""Takes every event of a running search, for a person to look at."""

_WRITE_EVERY_S = 1.0


def search(
    space: str | Path | Mapping[str, Any] | Space,
    *,
    name: str | None = None,
    storage: str | None = None,
    verbose: bool = False,
    show: Show | None = None,
    **options: Any,
) -> Experiment:
    """Runs a search to its end.

    Args:
        space: a search space file, or its ``parameters`` as a mapping.
        name: the run directory's name in ``storage``; None: from the space and the time.
        storage: the directory for runs; None: ``~/mnist-tune-runs``.
        verbose: let Ray speak.
        show: is called with every event.
        **options: as in ``SearchOptions``.

    Returns:
        The finished search; ``summary()`` has what the command line prints.

    Raises:
        InputError: what was asked is not valid; nothing has been started or written.
        InterruptedSearch: it was interrupted and can be resumed.
        SearchError: no trial gave a result.
    """
    asked = SearchOptions(**options)
    space = as_space(space)
    path = new_path(space, asked, name, storage)
    check_local_slots(asked)
    configs = draw(space, asked.num_samples, asked.seed, asked.searcher)
    dataset = dataset_for(asked)
    experiment = create_experiment(path, asked, space, data_record(dataset), configs)
    return _run(experiment, dataset, verbose, show)


def resume(
    run: str, *, storage: str | None = None, verbose: bool = False, show: Show | None = None
) -> Experiment:
    """Goes on with a search that was interrupted or died; does nothing to one that is done.

    Args:
        run: a run directory, or its name in ``storage``.
        storage: the directory for runs; None: ``~/mnist-tune-runs``.
        verbose: let Ray speak.
        show: is called with every event.

    Returns, Raises:
        As ``search``.
    """
    path = find_run(run, storage_path(storage))
    with lock(path):
        ledger.drop_torn_line(path / LEDGER)
    experiment = open_experiment(path)
    if experiment.results.ended == "done":
        return experiment
    dataset = dataset_for(experiment.options)
    if dataset.checksum != experiment.data["checksum"]:
        raise RunError(
            f"{path}: the search began on {dataset.name} with checksum "
            f"{experiment.data['checksum']}, but the data here has {dataset.checksum}"
        )
    return _run(experiment, dataset, verbose, show)


def as_space(space: str | Path | Mapping[str, Any] | Space) -> Space:
    """A space from a file, from a mapping, or as it is."""
    if isinstance(space, Space):
        return space
    return space_from_mapping(space) if isinstance(space, Mapping) else load_space(space)


def dataset_for(options: SearchOptions) -> Dataset:
    """The data set that a search's options ask for."""
    size = options.validation_size
    if size is None:
        size = default_validation_size(options.dataset)
    return load_dataset(options.dataset, options.data_dir, size, options.train_size)


def data_record(dataset: Dataset) -> dict[str, Any]:
    """What search.yaml and best.yaml say of the data."""
    return {
        "name": dataset.name,
        "checksum": dataset.checksum,
        "train_size": len(dataset.train),
        "validation_size": len(dataset.validation),
        "test_size": len(dataset.test),
    }


def new_path(space: Space, options: SearchOptions, name: str | None, storage: str | None) -> Path:
    """Where a new run goes; by default it's named after its space, data set and time.

    Raises:
        InputError: the name can't be one, or the run exists.
    """
    default = f"{Path(space.source).stem}-{options.dataset}-{datetime.now():%Y%m%d-%H%M%S}"
    path = storage_path(storage) / check_name(name or default)
    if path.exists():
        raise taken(path)
    return path


def check_local_slots(options: SearchOptions) -> Slots | None:
    """What each trial gets of this machine; None if the search runs on a cluster.

    Raises:
        ConfigError: no trial could ever start.
    """
    if options.address is not None:
        return None
    return slots_for(options, devices.cpu_count(), local_gpus())


def _run(experiment: Experiment, dataset: Dataset, verbose: bool, show: Show | None) -> Experiment:
    start, address = time.monotonic(), experiment.options.address

    def end(reason: str) -> None:
        wall_s = round(time.monotonic() - start, 3)
        experiment.record(
            {"event": "end", "time": round(time.time(), 3), "reason": reason, "wall_s": wall_s}
        )

    with lock(experiment.path):
        try:
            # Ray sets handlers of its own when it starts: ours go around it and inside it.
            with _interruptible(), ray_session(address, verbose), _interruptible():
                reason = _drive(experiment, dataset, show)
            end(reason)
        except KeyboardInterrupt:
            # An event can be on the disk and not yet be taken in: read them again.
            experiment.results = open_experiment(experiment.path).results
            update_best(experiment)
            write_trials(experiment)
            end("interrupted")
            raise InterruptedSearch(
                f"interrupted; the best so far is in {experiment.path}\n"
                f"go on with: mnist-tune resume {experiment.path}"
            ) from None
    if experiment.results.best is None:
        errors = [t.reason for t in experiment.results.trials if t.status == ERRORED]
        detail = f"; the first error: {errors[0]}" if errors else ""
        raise SearchError(f"{experiment.path}: no trial gave a finite result{detail}")
    return experiment


def _drive(experiment: Experiment, dataset: Dataset, show: Show | None) -> str:
    """Runs all trials that aren't finished, scores the winner; returns why it ended."""
    places = slots(experiment.options)
    written = time.monotonic()
    started = {"event": "session", "time": round(time.time(), 3), "slots": places.count}
    experiment.record(started)
    if show:
        show(experiment, started)

    def record(event: Event) -> None:
        nonlocal written
        experiment.record(event)
        if show:
            show(experiment, event)
        if event.get("decision") == "continue":
            return
        update_best(experiment)
        keep_checkpoints(experiment)
        if time.monotonic() - written > _WRITE_EVERY_S:
            write_trials(experiment)
            written = time.monotonic()

    if any(not trial.finished for trial in experiment.results.trials):
        _fit(experiment, dataset, places, record)
    finish_best(experiment, dataset, places)
    write_trials(experiment)
    unfinished = experiment.results.counts()["unfinished"]
    if not unfinished:
        shutil.rmtree(experiment.checkpoints, ignore_errors=True)
    return "time_budget" if unfinished else "done"


def _fit(
    experiment: Experiment, dataset: Dataset, places: Slots, record: Callable[[Event], None]
) -> None:
    from ray import tune

    from mnist_tune.asha import Asha, replay
    from mnist_tune.listed import ListedConfigs
    from mnist_tune.trial import TrainingTrial
    from mnist_tune.winner import trial_settings

    options = experiment.options
    rungs = Rungs(options.milestones, options.max_epochs, options.reduction_factor)
    epochs = replay(rungs, options.metric, ledger.read(experiment.path / LEDGER))
    unfinished = [
        {"trial": trial.number, **trial.config}
        for trial in experiment.results.trials
        if not trial.finished
    ]
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(places.count)
    trainable = tune.with_parameters(
        TrainingTrial,
        train=dataset.train,
        validation=dataset.validation,
        settings=trial_settings(experiment, places),
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": places.cpus, "gpu": places.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=ListedConfigs(unfinished),
            scheduler=Asha(rungs, options.metric, epochs, record),
            num_samples=len(unfinished),
            max_concurrent_trials=options.max_concurrent,
            time_budget_s=options.time_budget_s,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(experiment.path),
            verbose=0,
            # Trials keep their own checkpoints; Ray would ask for one at the end.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=options.max_failures),
        ),
    )
    tuner.fit()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end a search as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Keeps a second driver out of a run directory.

    Raises:
        RunError: another process has it.
    """
    handle = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise RunError(f"{path}: another process is running this search") from None
    try:
        yield
    finally:
        os.close(handle)
