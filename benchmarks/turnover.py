"""From a trial's last report to the next trial's first step in a warm worker; compilations."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.processes import mnist_tune, run, temporary_directory
from benchmarks.report import Table, seconds
from benchmarks.rounds import median, talk
from benchmarks.settings import SPACE, Settings
from mnist_tune import ledger
from mnist_tune.experiment import LEDGER

_TRAINING = "jit(train_epoch)"
_HOOKS = Path(__file__).parent / "hooks"


def measure(settings: Settings) -> dict[str, Any]:
    """Two digits searches, the first with an empty compilation cache."""
    trials, epochs = (4, 3) if settings.quick else (32, 10)
    with temporary_directory() as directory:
        searches = []
        for name in ("first", "second"):
            talk(f"turnover: {name} search")
            searches.append(_search(settings, directory, name, trials, epochs))
    return {"trials": trials, "max_epochs": epochs, "searches": searches}


def _search(
    settings: Settings, directory: Path, name: str, trials: int, epochs: int
) -> dict[str, Any]:
    count = directory / f"{name}.compilations"
    count.touch()
    command = mnist_tune(
        *("search", "--space", str(SPACE), "--dataset", "digits"),
        *("--data-dir", settings.data_dir, "--storage-path", str(directory), "--name", name),
        *("--num-samples", str(trials), "--max-epochs", str(epochs), "--json"),
    )
    paths = [str(_HOOKS), *filter(None, [os.environ.get("PYTHONPATH")])]
    run(
        command,
        directory,
        {
            "XDG_CACHE_HOME": str(directory / "cache"),
            "COUNT_COMPILATIONS": str(count),
            "PYTHONPATH": os.pathsep.join(paths),
        },
    )
    gaps = turnovers(ledger.read(directory / name / LEDGER))
    lines = [json.loads(line) for line in count.read_text().splitlines()]
    compiled = Counter(line["program"] for line in lines if line["compiled"])
    return {
        "search": name,
        "turnovers_s": gaps,
        "processes_with_jax": len({line["pid"] for line in lines}),
        "compilations": dict(compiled),
        "programs_from_cache": sum(not line["compiled"] for line in lines),
        "cache_entries": sum(p.name.endswith("-cache") for p in directory.rglob("cache/**/jit_*")),
    }


def turnovers(events: Iterable[Mapping[str, Any]]) -> list[float]:
    """Seconds from a report that ends a trial to the same worker's next first step.

    The step's start is its report's time less the epoch's duration; the way of both reports to
    the driver, and writing the last checkpoint, count as turnover.
    """
    ended: dict[str, float] = {}
    gaps = []
    for event in events:
        if event["event"] != "report":
            continue
        before = ended.pop(event["worker"], None)
        if before is not None:
            gaps.append(round(event["time"] - event["epoch_s"] - before, 3))
        if event["decision"] == "stop":
            ended[event["worker"]] = event["time"]
    return gaps


def table(result: dict[str, Any]) -> Table:
    """A row a search."""
    rows = [
        [
            f"{search['search']} search",
            seconds(median(search["turnovers_s"])),
            seconds(max(search["turnovers_s"])),
            str(search["processes_with_jax"]),
            str(search["compilations"].get(_TRAINING, 0)),
            str(sum(search["compilations"].values())),
            str(search["programs_from_cache"]),
        ]
        for search in result["searches"]
    ]
    columns = (
        *("", "turnover, median (s)", "turnover, longest (s)", "processes with JAX"),
        *("compilations of the training program", "compilations of all programs"),
        "programs from the cache",
    )
    return Table(columns, rows)
