"""Two one-core trials at the same time against one alone: do they get in each other's way?"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.kernel import epoch_task
from benchmarks.live import live
from benchmarks.processes import temporary_directory
from benchmarks.report import Table
from benchmarks.rounds import interleave, median
from benchmarks.settings import CORES, Settings
from benchmarks.training_loops import Epoch

_LOOPS = ("mnist-tune", "PyTorch, memory kept")


def measure(settings: Settings) -> dict[str, Any]:
    """Images a second of one trial alone and of a trial a core; processes aren't kept on cores."""
    with temporary_directory() as directory, ExitStack() as stack:
        contestants: dict[str, Callable[[], float]] = {}
        for name in _LOOPS:
            tasks = []
            for i in range(CORES):
                (directory / str(i)).mkdir(exist_ok=True)
                tasks.append(epoch_task(settings, str(directory / str(i))))
            pair = [stack.enter_context(live(name, task)) for task in tasks]
            images = tasks[0].train_size or 0
            contestants[f"{name}, alone"] = partial(_rate, pair[:1], images)
            contestants[f"{name}, {CORES} at a time"] = partial(_rate, pair, images)
        rates = interleave(contestants, tasks[0].epochs - 1)
    return {"images_per_s": rates}


def _rate(loops: list[Callable[[], Epoch]], images: int) -> float:
    """Images trained on a second, by all loops together, from the first's start to the last's end.

    Evaluation is part of an epoch and counts as time.
    """
    with ThreadPoolExecutor(len(loops)) as pool:
        start = time.perf_counter()
        for future in [pool.submit(loop) for loop in loops]:
            future.result()
        return images * len(loops) / (time.perf_counter() - start)


def table(result: dict[str, Any]) -> Table:
    """A row a program."""
    rates = result["images_per_s"]
    rows = []
    for name in _LOOPS:
        alone = median(rates[f"{name}, alone"])
        together = median(rates[f"{name}, {CORES} at a time"])
        rows.append([name, f"{alone:.0f}", f"{together:.0f}", f"{together / alone:.2f}"])
    columns = ("", "one trial (images/s)", f"{CORES} trials together (images/s)", "together / one")
    return Table(columns, rows)
