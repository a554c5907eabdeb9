"""Searches that are hurt in the middle, and what is left of them.

``python -m tests.chaos --rounds 50`` runs as many small searches of digits with the real Ray,
in turns with ASHA's stopping and its promotion, hurts each at a random moment, resumes it as a
user would, and checks what must then hold:

* the search comes to its end, by itself or with ``mnist-tune resume``;
* the ledger begins with all that was in it when the search was hurt;
* every epoch of a trial is there once, with the numbers that it has in a search that nothing
  happened to, and every decision is the one that ASHA makes;
* best.yaml has the best report, and best.safetensors scores as it says;
* no process is left, and no half-written file.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from mnist_tune import ledger
from mnist_tune.asha import replay
from mnist_tune.datasets import load_dataset
from mnist_tune.experiment import Experiment, open_experiment
from mnist_tune.ledger import Event
from mnist_tune.rungs import Promotion, score
from tests.chaos_faults import (
    EPOCHS,
    FAULTS,
    TRIALS,
    Fault,
    LostError,
    Search,
    can_mount,
    resume,
    small_disk,
)
from tests.processes import (
    events,
    nothing_left,
    start,
    temporary_directory,
    wait_until,
)

ASHA_TYPES = ("stopping", "promotion")
Numbers = tuple[float | None, float | None]


def play(fault: Fault, seed: int) -> int:
    """Runs one search through one fault; returns how often it had to be resumed.

    Raises:
        LostError: what must hold doesn't.
    """
    rng = random.Random(seed)
    with temporary_directory() as temporary, temporary_directory() as place, ExitStack() as stack:
        storage = place / "runs"
        storage.mkdir()
        if fault.own_disk:
            stack.enter_context(small_disk(storage))
        load_dataset("digits", place / "data")
        lanes = ("--lanes", str(fault.lanes))
        options = ("--storage-path", storage, "--asha-type", ASHA_TYPES[seed % 2], *lanes)
        driver = stack.enter_context(start(temporary, *_search(fault.space, place), *options))
        stack.callback(driver.kill)
        search = Search(driver, temporary, storage / "run", place / "data", rng)
        reports = rng.randint(1, TRIALS)
        wait_until(
            lambda: driver.poll() is not None or len(events(search.run, "report")) >= reports,
            *(120, "reports"),
        )
        _hold(driver.poll() is None, "the search ended before it was hurt")
        time.sleep(rng.random() / 2)
        known = ledger.read(search.run / "ledger.jsonl")
        fault.hurt(search)
        driver.communicate(timeout=120)
        nothing_left(temporary)
        search.before_resume()
        resumed = _bring_to_end(search)
        check(search.run, known, unhurt(fault.space))
        return resumed


def _search(space: str, place: Path) -> list[str | Path]:
    """The search that all rounds make; its results don't depend on when its trials run."""
    (place / "space.yaml").write_text(space)
    return [
        *("search", "--space", place / "space.yaml", "--dataset", "digits", "--name", "run"),
        *("--num-samples", str(TRIALS), "--max-epochs", str(EPOCHS)),
        *("--data-dir", place / "data"),
    ]


@cache
def unhurt(space: str) -> Mapping[tuple[int, int], Numbers]:
    """What every epoch of every trial gives if nothing happens and none is stopped."""
    with temporary_directory() as temporary, temporary_directory() as place:
        options = ("--storage-path", place, "--scheduler", "fifo")
        with start(temporary, *_search(space, place), *options) as driver:
            _, said = driver.communicate(timeout=300)
        assert driver.returncode == 0, said
        return {
            (event["trial"], event["epoch"]): (event["accuracy"], event["loss"])
            for event in events(place / "run", "report")
        }


def _bring_to_end(search: Search) -> int:
    for resumed in range(4):
        if open_experiment(search.run).results.ended == "done":
            return resumed
        said = resume(search).stderr
        nothing_left(search.temporary)
    raise LostError(f"resumed four times, and still not at its end: {said[-300:]}")


def check(
    run: Path, known: list[Event], unhurt: Mapping[tuple[int, int], Numbers] | None = None
) -> None:
    """Checks a search that has come to its end.

    Args:
        run: its directory.
        known: what was in its ledger when it was hurt.
        unhurt: trial and epoch → accuracy and loss, if it's known.

    Raises:
        LostError: something is lost or wrong.
    """
    found = ledger.read(run / "ledger.jsonl")
    _hold(found[: len(known)] == known, "the ledger lost what was in it")
    experiment = open_experiment(run)
    _hold(experiment.results.counts()["unfinished"] == 0, "trials are unfinished")
    _check_decisions(experiment, found)
    for event in events(run, "report") if unhurt else ():
        numbers = (event["accuracy"], event["loss"])
        expected = unhurt[event["trial"], event["epoch"]] if unhurt else numbers
        _hold(numbers == expected, f"{event} is not what training gives: {expected}")
    _check_best(experiment)
    # Ray's own directory is Ray's.
    files = [path for path in run.rglob("*") if "ray" not in path.relative_to(run).parts]
    half_written = [p.name for p in files if ".tmp" in p.name or p.name.startswith(".")]
    _hold(not half_written, f"half-written files: {half_written}")


def _check_decisions(experiment: Experiment, found: list[Event]) -> None:
    metric, rungs = experiment.options.metric, experiment.options.rungs()
    last: dict[int, int] = {}
    ended: set[int] = set()
    for i, event in enumerate(found):
        if event["event"] == "report":
            trial, epoch = event["trial"], event["epoch"]
            _hold(epoch == last.get(trial, 0) + 1, f"trial {trial}: epoch {epoch} out of order")
            _hold(trial not in ended, f"trial {trial}: epoch {epoch} after its end")
            last[trial] = epoch
            numbers = [event[name] for name in ("accuracy", "loss")]
            value = score(metric, *(float("nan") if n is None else n for n in numbers))
            decision = rungs.report(trial, epoch, value)
            word = "pause" if decision.paused else "continue" if decision.go_on else "stop"
            _hold(word == event["decision"], f"event {i}: wrong decision")
            if word == "stop":
                ended.add(trial)
        elif event["event"] == "promote":
            promotion = Promotion(event["trial"], event["epoch"])
            _hold(promotion == rungs.next_promotion(), f"event {i}: wrong promotion")
            rungs.promote(promotion)
        elif event["event"] == "error":
            rungs.fail(event["trial"])
            ended.add(event["trial"])
    _hold(rungs.next_promotion() is None, "a trial could still be promoted")
    replayed = experiment.options.rungs()
    replay(replayed, metric, found)
    _hold(replayed == rungs, "the rungs are not what a resumed search would have")


def _check_best(experiment: Experiment) -> None:
    best = experiment.best_record()
    _hold(best is not None, "there is no best.yaml")
    assert best is not None
    finite = [
        report.accuracy
        for trial in experiment.results.trials
        for report in trial.reports
        if math.isfinite(report.accuracy) and math.isfinite(report.loss)
    ]
    _hold(best["validation"]["accuracy"] == max(finite), "best.yaml is not the best")
    scored = subprocess.run(
        [sys.executable, "-m", "mnist_tune", "evaluate", str(experiment.path), "--json"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    _hold(scored.returncode == 0, f"the best model can't be scored: {scored.stderr[-300:]}")
    test = json.loads(scored.stdout)["test"]
    _hold(test == best["test"], f"scored as {test}, recorded as {best['test']}")


def _hold(condition: bool, what: str) -> None:
    if not condition:
        raise LostError(what)


def main() -> None:
    """Plays the faults in turn and prints a table; exits with 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=len(FAULTS), help="(default: one a fault)")
    parser.add_argument("--seed", type=int, default=0, help="of the first round (default: 0)")
    arguments = parser.parse_args()
    # A shell lets what it runs in the background ignore it, and so would the searches.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    mounts = can_mount()
    names = [name for name, fault in FAULTS.items() if mounts or not fault.own_disk]
    for name in FAULTS.keys() - names:
        sys.stdout.write(f"left out: {name} (no file system can be mounted here)\n")
    sys.stdout.write("| round | fault | resumed | lost |\n|---|---|---|---|\n")
    lost = 0
    for i in range(arguments.rounds):
        name = names[i % len(names)]
        try:
            outcome = f"{play(FAULTS[name], arguments.seed + i)} | nothing"
        except Exception as error:  # noqa: BLE001  # whatever it is, the round is lost
            lost += 1
            outcome = f"? | {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        sys.stdout.write(f"| {i + 1} | {name} | {outcome} |\n")
        sys.stdout.flush()
    sys.stdout.write(f"{arguments.rounds} rounds, {lost} lost\n")
    raise SystemExit(bool(lost))


if __name__ == "__main__":
    main()
