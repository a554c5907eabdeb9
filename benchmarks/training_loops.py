"""One configuration's epochs by mnist-tune, by a PyTorch user and by a Flax user, each timed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks.peers.task import Config, Task, load
from benchmarks.settings import MEMORY_KEPT

CONFIG: Config = {"learning_rate": 0.1, "beta": 0.9}
"""The original program's."""


class Epoch(NamedTuple):
    """What an epoch took, and how well the model then does on the validation set.

    Attributes:
        train_s: for the pass over the training set.
        evaluation_s: for the pass over the validation set.
        accuracy: a fraction in [0, 1].
    """

    train_s: float
    evaluation_s: float
    accuracy: float


Loop = Callable[[], Epoch]
"""Trains one more epoch."""


def mnist_tune(task: Task) -> Loop:
    """The program of this project: an epoch is one compiled program."""
    from mnist_tune import devices

    devices.configure("cpu", threads=1)
    import jax
    import numpy as np

    from mnist_tune import training
    from mnist_tune.datasets import load_dataset
    from mnist_tune.hparams import complete

    dataset = load_dataset(task.dataset, task.data_dir, task.validation_size, task.train_size)
    train = training.device_data(dataset.train)
    validation = training.device_data(dataset.validation)
    config = complete(CONFIG)
    hypers = training.hypers(config, task.epochs)
    state, epoch = training.initial_state(config), 0

    def train_epoch() -> None:
        nonlocal state, epoch
        epoch += 1
        state = training.train_epoch(state, train, hypers, np.int32(epoch), config["batch_size"])
        jax.block_until_ready(state)

    return _timed(train_epoch, lambda: float(training.evaluate(state.params, validation).accuracy))


def pytorch(task: Task) -> Loop:
    """PyTorch, channels-last, one thread."""
    from benchmarks.peers import torch_cnn

    data = load(task)
    train, validation = torch_cnn.tensors(data.train), torch_cnn.tensors(data.validation)
    state = torch_cnn.start(CONFIG)
    return _timed(
        lambda: torch_cnn.train_epoch(state, train),
        lambda: torch_cnn.accuracy(state.model, validation),
    )


def flax(task: Task) -> Loop:
    """Flax and Optax: a jitted step in a Python loop, one thread."""
    os.environ["NPROC"] = "1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import numpy as np

    from benchmarks.peers import flax_cnn

    data = load(task)
    rng, state = np.random.default_rng(0), flax_cnn.start(CONFIG)

    def train_epoch() -> None:
        nonlocal state
        state = flax_cnn.train_epoch(state, data.train, rng)

    return _timed(train_epoch, lambda: flax_cnn.accuracy(state, data.validation))


class Variant(NamedTuple):
    """A loop, and what differs in its process's environment."""

    start: Callable[[Task], Loop]
    environment: Mapping[str, str] = {}


VARIANTS = {
    "mnist-tune": Variant(mnist_tune),
    "PyTorch": Variant(pytorch),
    "PyTorch, memory kept": Variant(pytorch, MEMORY_KEPT),
    "Flax": Variant(flax),
    "Flax, memory kept": Variant(flax, MEMORY_KEPT),
}


def _timed(train: Callable[[], None], evaluate: Callable[[], float]) -> Loop:
    def epoch() -> Epoch:
        start = time.perf_counter()
        train()
        trained = time.perf_counter()
        accuracy = evaluate()
        return Epoch(trained - start, time.perf_counter() - trained, accuracy)

    return epoch
