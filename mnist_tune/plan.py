"""What a search would do, for ``--dry-run``: everything is checked, nothing is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mnist_tune.data_sources import source_of
from mnist_tune.datasets import dataset_info
from mnist_tune.options import SearchOptions
from mnist_tune.searching import as_space, check_local_slots, new_place, validation_size
from mnist_tune.space import Space, draw

CORE_S_PER_IMAGE = 17.0 / 60_000
"""Seconds that one core of a server takes to train on an image; most take 12 to 25 an epoch."""


def plan(
    space: str | Path | Mapping[str, Any] | Space,
    *,
    name: str | None = None,
    storage: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """An outline of a search; arguments and errors as ``searching.search``.

    Returns:
        ``path``, ``space``, ``configs`` (how many), ``rungs`` (``epoch``, ``trials`` expected
        to reach it), ``lanes`` as asked, ``slots``, ``data`` and ``estimate``.
    """
    asked = SearchOptions(**options)
    space = as_space(space)
    data = _data(asked)
    place = new_place(space, asked, name, storage)
    configs = len(draw(space, asked.num_samples, asked.seed, asked.searcher))
    rungs = expected_rungs(asked, configs)
    outline: dict[str, Any] = {
        "path": str(place),
        "space": space.to_mapping(),
        "configs": configs,
        "scheduler": asked.scheduler,
        "asha_type": asked.asha_type,
        "lanes": asked.lanes,
        "rungs": rungs,
        "data": data,
    }
    epochs = expected_epochs(rungs)
    outline["estimate"] = {
        "epochs": epochs,
        "epochs_without_stopping": configs * asked.max_epochs,
    }
    places = check_local_slots(asked)
    if places:
        outline["slots"] = asdict(places)
        if not places.gpus:
            at_a_time = min(-(-places.count // places.lanes), configs)
            seconds = epochs * data["train_size"] * CORE_S_PER_IMAGE / at_a_time
            outline["estimate"]["training_s"] = round(seconds)
    return outline


def expected_rungs(options: SearchOptions, configs: int) -> list[dict[str, int]]:
    """The rungs, and how many of ``configs`` trials reach each if one in η goes on."""
    reached, rungs = configs, []
    for milestone in (*options.milestones, options.max_epochs):
        rungs.append({"epoch": milestone, "trials": reached})
        # Promotion waits for η trials at a rung, stopping lets the first to come go on.
        fewest = 0 if options.asha_type == "promotion" else 1
        reached = max(fewest, reached // options.reduction_factor)
    return rungs


def expected_epochs(rungs: list[dict[str, int]]) -> int:
    """The epochs that trials train in all if they leave at the rungs as expected."""
    epochs, before = 0, 0
    for rung in rungs:
        epochs += rung["trials"] * (rung["epoch"] - before)
        before = rung["epoch"]
    return epochs


def describe_plan(outline: Mapping[str, Any]) -> str:
    """The outline for people."""
    data, estimate = outline["data"], outline["estimate"]
    lines = [
        f"run directory: {outline['path']}",
        f"data: {data['name']} ({data['state']}), {data['train_size']} to train on, "
        f"{data['validation_size']} to select by, {data['test_size']} to test the winner",
        "space:",
        *(f"  {name}: {_described(value)}" for name, value in outline["space"].items()),
        f"trials: {outline['configs']}, scheduler {_scheduler(outline)}",
        "  epoch  trials expected there",
        *(f"  {rung['epoch']:>5}  {rung['trials']}" for rung in outline["rungs"]),
        f"epochs in all: {_epochs(estimate)}",
    ]
    if "slots" in outline:
        lines.append(f"resources: {_resources(outline['slots'], outline['lanes'])}")
    if "training_s" in estimate:
        lines.append(
            f"training: from about {estimate['training_s']} s (17 s a core for 60,000 images with "
            "the default network), and half a minute to start, compile and test the winner"
        )
    return "\n".join([*lines, "nothing was started"])


def _epochs(estimate: Mapping[str, Any]) -> str:
    fewest, most = estimate["epochs"], estimate["epochs_without_stopping"]
    return (
        f"from {fewest}, if no more go on at each rung, to {most}" if fewest < most else f"{most}"
    )


def _scheduler(outline: Mapping[str, Any]) -> str:
    promotes = outline["asha_type"] == "promotion"
    return f"{outline['scheduler']}{' (promotion)' if promotes else ''}"


def _resources(slots: Mapping[str, Any], lanes: int | str) -> str:
    each = "each"
    if slots["lanes"] > 1:
        each = f"for {slots['lanes']} of them"
    elif lanes == "auto" and slots["gpus"] == 1:
        each = "for as many as turn out to pay"
    return (
        f"{slots['count']} trials at a time, CPU cores {each}: {slots['cpus']:g}, "
        f"GPUs {each}: {slots['gpus']:g}"
    )


def _described(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    rest = " ".join(f"{k}={v}" for k, v in value.items() if k != "distribution")
    return f"{value['distribution']} {rest}"


def _data(options: SearchOptions) -> dict[str, Any]:
    source = source_of(options.dataset)
    validation = validation_size(options)
    rest = source.train_images - validation
    return {
        "name": options.dataset,
        "state": dataset_info(options.dataset, options.data_dir).state,
        "train_size": options.train_size or rest,
        "validation_size": validation,
        "test_size": source.test_images,
    }
