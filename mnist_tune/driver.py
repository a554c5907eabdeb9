"""The driver of a search: hands trials to Ray Tune, writes down what comes back.

It never starts a JAX backend: training and scoring are left to Ray's workers.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_tune import ledger
from mnist_tune.datasets import Dataset
from mnist_tune.errors import (
    InterruptedSearch,
    MnistTuneError,
    RunError,
    SearchError,
    StorageError,
)
from mnist_tune.experiment import (
    LEDGER,
    Experiment,
    open_experiment,
    resume_command,
    write_trials,
)
from mnist_tune.ledger import Event
from mnist_tune.places import above
from mnist_tune.preflight import check_nodes
from mnist_tune.results import ERRORED, UNFINISHED, Best
from mnist_tune.rungs import Rungs
from mnist_tune.signals import interruptible, uninterruptible
from mnist_tune.sizing import sized
from mnist_tune.slots import Slots, has_room, nodes
from mnist_tune.winner import finish_best, keep_checkpoints, remove_checkpoints, update_best

if TYPE_CHECKING:
    from ray.tune.search import Searcher

Show = Callable[[Experiment, Event], None]
"""Takes every event of a running search, for a person to look at."""

_WRITE_EVERY_S, _WRITE_TO_STORE_EVERY_S = 1.0, 10.0


def run_trials(
    experiment: Experiment,
    dataset: Dataset,
    slots: Slots,
    began_s: float,
    show: Show | None,
) -> Experiment:
    """Runs what is left of a search, from wherever its ledger left it; the caller has its lock.

    Args:
        experiment: the search; its results are brought up to date.
        dataset: its data.
        slots: what each trial gets.
        began_s: when it began, on the monotonic clock.
        show: is called with every event.

    Raises:
        InterruptedSearch: it was interrupted and can be resumed.
        SearchError: no trial gave a finite result.
    """
    counts: Event = {}

    def end(reason: str) -> None:
        wall_s = round(time.monotonic() - began_s, 3)
        now = round(time.time(), 3)
        experiment.record(
            {"event": "end", "time": now, "reason": reason, "wall_s": wall_s, **counts}
        )

    try:
        # Ray has set handlers of its own by now.
        with interruptible():
            slots = sized(experiment, dataset, slots)
            end(_drive(experiment, dataset, slots, counts, show))
    except KeyboardInterrupt:
        # A store that is away doesn't keep a driver from ending: what is in it is whole.
        with uninterruptible(), suppress(StorageError):
            # An event can be on the disk and not yet be taken in: read them again.
            experiment.results = open_experiment(experiment.path).results
            update_best(experiment)
            write_trials(experiment)
            end("interrupted")
        raise InterruptedSearch(
            f"interrupted; what it has so far is in {experiment.place}\n"
            f"go on with: {resume_command(experiment.place)}"
        ) from None
    check_outcome(experiment)
    return experiment


def check_outcome(experiment: Experiment) -> None:
    """Returns if a search that has ended gave something.

    Raises:
        SearchError: it didn't.
    """
    results = experiment.results
    if results.best is not None:
        return
    errors = [trial.reason for trial in results.trials if trial.status == ERRORED]
    detail = f"; the first error: {errors[0]}" if errors else ""
    if results.counts()["unfinished"]:
        detail += f"; go on with: {resume_command(experiment.place)}"
    raise SearchError(f"{experiment.place}: no trial gave a finite result{detail}")


def _drive(
    experiment: Experiment, dataset: Dataset, slots: Slots, counts: Event, show: Show | None
) -> str:
    """Runs all trials that aren't finished, scores the winner; returns why it ended."""
    written = time.monotonic()
    least_s = _WRITE_TO_STORE_EVERY_S if experiment.segments else _WRITE_EVERY_S
    every_s = least_s
    recorded: Best | None = None

    def tell(event: Event) -> None:
        nonlocal show
        try:
            if show:
                show(experiment, event)
        except OSError:
            # Nobody looks any more: a closed terminal must not end a search.
            show = None

    def record(event: Event) -> None:
        nonlocal written, recorded, every_s
        experiment.record(event)
        tell(event)
        if event["event"] == "promote" or event.get("decision") == "continue":
            return
        recorded = update_best(experiment, recorded)
        if event.get("decision") != "pause":
            keep_checkpoints(experiment)
        began = time.monotonic()
        if began - written > every_s:
            write_trials(experiment)
            written = time.monotonic()
            # It takes longer the more trials there are.
            every_s = max(least_s, 20 * (written - began))

    now = round(time.time(), 3)
    started = {"event": "session", "time": now, "slots": slots.count, "lanes": slots.lanes}
    experiment.record(started)
    tell(started)
    rungs = experiment.options.rungs()
    epochs = _replay(experiment, rungs)
    if not _is_over(experiment, rungs):
        _fit(experiment, dataset, slots, rungs, epochs, counts, record)
    write_trials(experiment)
    finish_best(experiment, dataset, slots)
    over = _is_over(experiment, rungs)
    if over:
        experiment.results.settle()
    write_trials(experiment)
    if over:
        remove_checkpoints(experiment)
    return "done" if over else "time_budget"


def _replay(experiment: Experiment, rungs: Rungs) -> dict[int, int]:
    from mnist_tune.asha import replay

    path = experiment.path / LEDGER
    try:
        return replay(rungs, experiment.options.metric, ledger.read(path))
    except ValueError as error:
        raise RunError(f"{path}: damaged: {error}") from None


def _is_over(experiment: Experiment, rungs: Rungs) -> bool:
    return not experiment.results.to_run and rungs.next_promotion() is None


def _fit(
    experiment: Experiment,
    dataset: Dataset,
    slots: Slots,
    rungs: Rungs,
    epochs: dict[int, int],
    counts: Event,
    record: Callable[[Event], None],
) -> None:
    from ray import tune

    from mnist_tune.asha import Asha
    from mnist_tune.budget import time_budget
    from mnist_tune.retries import retries
    from mnist_tune.trainables import trainable
    from mnist_tune.warm_starts import warm_starts

    options, storage = experiment.options, above(experiment.place)
    failures: list[Exception] = []

    def record_or_fail(event: Event) -> None:
        try:
            if event["event"] == "error" and options.address is not None:
                # Perhaps the fault of a node that has joined meanwhile.
                with_room = [node for node in nodes() if has_room(slots, node)]
                check_nodes(with_room, storage, gpus=slots.gpus > 0)
            record(event)
        except Exception as error:
            # Tune would bury it in an error of its own.
            failures.append(error)
            raise

    searcher, num_samples = searcher_for(experiment, slots, rungs, record_or_fail)
    # Trials that wait for a slot are what makes a cluster grow, and what warm processes go on with
    # while others start.
    waiting = slots.count
    if options.address is not None:
        waiting = min(len(experiment.results.trials), slots.count + 200)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(waiting)
    tune_config = tune.TuneConfig(
        search_alg=searcher,
        scheduler=Asha(rungs, options.metric, epochs, record_or_fail),
        num_samples=num_samples,
        max_concurrent_trials=options.max_concurrent,
        reuse_actors=True,
    )
    run_config = tune.RunConfig(
        name="ray",
        stop=time_budget(options.time_budget_s),
        storage_path=str(experiment.path),
        verbose=0,
        # Trials keep their own checkpoints; Ray would ask for one at the end.
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        failure_config=tune.FailureConfig(max_failures=options.max_failures),
    )
    try:
        with trainable(experiment, dataset, slots, counts) as trials, retries(), warm_starts():
            tune.Tuner(trials, tune_config=tune_config, run_config=run_config).fit()
    except Exception as error:
        first = failures[0] if failures else error
        ours = isinstance(first, MnistTuneError)
        said = str(first) if ours else " ".join(str(first).split())[-500:]
        raise SearchError(
            f"the search broke off: {said}\n"
            f"what is recorded is safe; go on with: {resume_command(experiment.place)}"
        ) from error


def searcher_for(
    experiment: Experiment, slots: Slots, rungs: Rungs, record: Callable[[Event], None]
) -> tuple[Searcher, int]:
    """What hands out the trials that are left, and as how many of Tune's; -1 is any number.

    Args:
        experiment: the search.
        slots: where its trials run.
        rungs: the bookkeeping, as the ledger left it.
        record: writes an event down.
    """
    from mnist_tune.listed import ListedConfigs
    from mnist_tune.promotions import Promotions

    options, trials = experiment.options, experiment.results.trials
    configs = [{"trial": trial.number, **trial.config} for trial in trials]
    to_run = [trial for trial in trials if trial.status == UNFINISHED]
    if options.asha_type == "stopping":
        return ListedConfigs([configs[trial.number] for trial in to_run]), len(to_run)
    begun = [trial.number for trial in to_run if trial.reports]
    new = [trial.number for trial in to_run if not trial.reports]
    # As above: a cluster grows by what waits.
    at_a_time = slots.count if options.address is None else len(trials)
    return Promotions(configs, begun, new, rungs, at_a_time, record), -1


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Keeps a second driver out of a run directory.

    Raises:
        RunError: another process has it.
    """
    handle = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise RunError(f"{path}: another process is running this search") from None
    try:
        yield
    finally:
        os.close(handle)
