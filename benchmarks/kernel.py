"""A trial-epoch on one core: one thread a side, the same core, rounds in live processes."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from benchmarks.live import live
from benchmarks.peers.task import Task
from benchmarks.processes import temporary_directory
from benchmarks.report import Table, percent, seconds
from benchmarks.rounds import interleave, median, ratio
from benchmarks.settings import Settings
from benchmarks.training_loops import VARIANTS, Epoch

_ROUNDS = 5


def epoch_task(settings: Settings, directory: str) -> Task:
    """An epoch of MNIST that is long enough to be measured."""
    train, validation, rounds = (640, 512, 1) if settings.quick else (10_000, 5_000, _ROUNDS)
    return Task("mnist", settings.data_dir, train, validation, 1 + rounds, [], directory)


def measure(settings: Settings) -> dict[str, Any]:
    """Times the same epochs in each loop; the first, which compiles, doesn't count."""
    core = min(os.sched_getaffinity(0))
    with temporary_directory() as directory, ExitStack() as stack:
        task = epoch_task(settings, str(directory))
        loops = {name: stack.enter_context(live(name, task, core)) for name in VARIANTS}
        epochs = interleave(loops, task.epochs - 1)
    return {
        "train_size": task.train_size,
        "validation_size": task.validation_size,
        "epochs": task.epochs,
        "variants": {name: _columns(done) for name, done in epochs.items()},
    }


def _columns(epochs: list[Epoch]) -> dict[str, list[float]]:
    return {name: [getattr(epoch, name) for epoch in epochs] for name in Epoch._fields}


def table(result: dict[str, Any]) -> Table:
    """A row a variant; the ratios are of training and evaluation together."""
    variants = result["variants"]
    ours = _both(variants["mnist-tune"])
    columns = (
        *("", f"training, {result['train_size']} images (s)"),
        *(f"evaluation, {result['validation_size']} images (s)", "both (s)", "theirs / ours"),
        f"accuracy after {result['epochs']} epochs",
    )
    rows = [
        [
            name,
            seconds(median(variant["train_s"])),
            seconds(median(variant["evaluation_s"])),
            seconds(median(_both(variant))),
            f"{ratio(_both(variant), ours):.2f}",
            percent(variant["accuracy"][-1]),
        ]
        for name, variant in variants.items()
    ]
    return Table(columns, rows)


def _both(variant: dict[str, list[float]]) -> list[float]:
    return [a + b for a, b in zip(variant["train_s"], variant["evaluation_s"], strict=True)]
