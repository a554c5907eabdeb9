"""Ray Tune + Flax: a function per trial, each in a process of its own."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
from ray import tune

from benchmarks.peers import flax_cnn
from benchmarks.peers.ray_search import search
from benchmarks.peers.task import Splits, load, read_task


def train(config: dict[str, Any], data: Splits, epochs: int) -> None:
    """Trains one configuration and reports after each epoch."""
    state, rng = flax_cnn.start(config), np.random.default_rng(0)
    for _ in range(epochs):
        state = flax_cnn.train_epoch(state, data.train, rng)
        accuracy = flax_cnn.accuracy(state, data.validation)
        with tempfile.TemporaryDirectory() as directory:
            flax_cnn.save(state, directory)
            tune.report(
                {"accuracy": accuracy}, checkpoint=tune.Checkpoint.from_directory(directory)
            )


def main() -> None:
    """Runs the search."""
    task = read_task()
    data = load(task)
    search(
        task,
        tune.with_parameters(train, data=data, epochs=task.epochs),
        lambda path, config: flax_cnn.accuracy(flax_cnn.restored(path, config), data.test),
        reuse=False,
        checkpoint_every_epoch=False,
    )


if __name__ == "__main__":
    main()
