"""A whole search with its trials in lanes against one with a process a trial."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.processes import mnist_tune, run, temporary_directory
from benchmarks.report import Table, percent, seconds
from benchmarks.rounds import interleave, median, ratio
from benchmarks.searches import summary_of
from benchmarks.settings import SPACE, Settings

_ALONE = "1"


def measure(settings: Settings) -> dict[str, Any]:
    """Runs the search once a round with each number of lanes."""
    dataset = "mnist" if settings.gpu and not settings.quick else "digits"
    trials, epochs = (4, 2) if settings.quick else (32, 10)
    several = "2" if settings.quick else "8"
    numbers = [_ALONE, several, *(["auto"] if settings.gpu else [])]
    workload = {"dataset": dataset, "trials": trials, "epochs": epochs}
    with temporary_directory() as cache:
        contestants: dict[str, Callable[[], dict[str, Any]]] = {
            lanes: partial(_search, settings, workload, cache, lanes) for lanes in numbers
        }
        if not settings.quick:
            # What they compile is there in the rounds, as it is from a user's second search on.
            interleave(contestants, 1)
        runs = interleave(contestants, settings.rounds)
    return {"workload": workload, "searches": runs}


def _search(
    settings: Settings, workload: dict[str, Any], cache: Path, lanes: str
) -> dict[str, Any]:
    with temporary_directory() as directory:
        search = run(
            mnist_tune(
                *("search", "--space", str(SPACE), "--dataset", workload["dataset"]),
                *("--num-samples", str(workload["trials"])),
                *("--max-epochs", str(workload["epochs"]), "--lanes", lanes),
                *("--data-dir", settings.data_dir, "--storage-path", str(directory)),
                *("--name", "run", "--json"),
            ),
            directory,
            {"XDG_CACHE_HOME": str(cache)},
        )
    summary = summary_of(search)
    return {
        "wall_s": search.wall_s,
        "lanes": summary.get("lanes", 1),
        "epochs": summary["epochs_trained"],
        "epochs_wasted": summary.get("epochs_wasted", 0),
        "compilations": summary.get("compilations"),
        "validation_accuracy": summary["best"]["validation"]["accuracy"],
    }


def table(result: dict[str, Any]) -> Table:
    """A row a number of lanes: medians over the rounds."""
    runs = result["searches"]

    def column(name: str, field: str) -> list[float]:
        return [run[field] for run in runs[name]]

    alone = column(_ALONE, "wall_s")
    rows = [
        [
            f"--lanes {name}" + (f" ({median(column(name, 'lanes')):g})" * (name == "auto")),
            seconds(median(column(name, "wall_s"))),
            f"{ratio(alone, column(name, 'wall_s')):.2f}",
            f"{median(column(name, 'epochs')):g}",
            f"{median(column(name, 'epochs_wasted')):g}",
            _compilations(runs[name]),
            percent(median(column(name, "validation_accuracy"))),
        ]
        for name in runs
    ]
    columns = (
        *("", "command to best configuration (s)", "times as fast as --lanes 1"),
        *("epochs trained", "epochs wasted", "compilations", "best validation accuracy"),
    )
    return Table(columns, rows)


def _compilations(runs: list[dict[str, Any]]) -> str:
    """Those of engines; trials in processes of their own don't count them."""
    counts = [run["compilations"] for run in runs if run["compilations"] is not None]
    return f"{median(counts):g}" if counts else "not counted"
