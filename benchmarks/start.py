"""How long a user waits for a command, and for the first report of a search."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.processes import mnist_tune, run, temporary_directory
from benchmarks.report import Table, seconds
from benchmarks.rounds import interleave, median
from benchmarks.settings import SPACE, Settings
from mnist_tune import ledger
from mnist_tune.experiment import LEDGER

_ROUNDS = 5


def measure(settings: Settings) -> dict[str, Any]:
    """Each command in its own process, from typed to done; the first round doesn't count."""
    with temporary_directory() as directory:
        numbers = itertools.count()
        contestants: dict[str, Callable[[], float]] = {
            "mnist-tune --help": lambda: run(mnist_tune("--help"), directory).wall_s,
            "mnist-tune space check": lambda: (
                run(mnist_tune("space", "check", str(SPACE)), directory).wall_s
            ),
        }
        first_report = {
            "mnist-tune search (digits), first report": lambda: _first_report(
                settings, directory, f"run-{next(numbers)}"
            )
        }
        times = interleave(contestants, 1 + (1 if settings.quick else _ROUNDS))
        times |= interleave(first_report, 1 + settings.rounds)
    return {"seconds": {name: values[1:] for name, values in times.items()}}


def _first_report(settings: Settings, directory: Path, name: str) -> float:
    search = run(
        mnist_tune(
            *("search", "--space", str(SPACE), "--dataset", "digits"),
            *("--data-dir", settings.data_dir, "--storage-path", str(directory)),
            *("--name", name, "--num-samples", "2", "--max-epochs", "1"),
        ),
        directory,
        {"XDG_CACHE_HOME": str(directory / "cache")},
    )
    events = ledger.read(directory / name / LEDGER)
    first: float = next(event["time"] for event in events if event["event"] == "report")
    return first - search.started


def table(result: dict[str, Any]) -> Table:
    """A row a command."""
    rows = [
        [name, seconds(median(values)), str(len(values))]
        for name, values in result["seconds"].items()
    ]
    return Table(("", "median (s)", "times"), rows)
