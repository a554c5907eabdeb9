"""The CNN and its training as a Flax user writes them: a jitted step, a Python loop over batches.

The learning rate and β are in the optimizer's state, so that the step is compiled once. The last
batch of an epoch is filled up with images of weight 0, so that it is not compiled once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, serialization
from numpy.typing import NDArray

from benchmarks.peers.task import Arrays, Config

BATCH_SIZE = 128
EVALUATION_BATCH_SIZE = 512
OPTIMIZER = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9)


class CNN(nnx.Module):
    """The network that all contestants train."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(1, 32, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(32, 64, (3, 3), rngs=rngs)
        self.dense1 = nnx.Linear(7 * 7 * 64, 256, rngs=rngs)
        self.dense2 = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits ``[batch, 10]``."""
        x = nnx.avg_pool(nnx.relu(self.conv1(x)), (2, 2), (2, 2))
        x = nnx.avg_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
        x = nnx.relu(self.dense1(x.reshape(x.shape[0], -1)))
        logits: jax.Array = self.dense2(x)
        return logits


class State(NamedTuple):
    """The parameters and the optimizer's state."""

    params: Any
    optimizer: Any


@jax.jit
def _initial_params(key: jax.Array) -> Any:
    return nnx.state(CNN(rngs=nnx.Rngs(key)), nnx.Param)


@partial(jax.jit, donate_argnames="state")
def _step(state: State, images: jax.Array, labels: jax.Array, weights: jax.Array) -> State:
    def loss(params: Any) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(_logits(params, images), labels)
        mean: jax.Array = losses @ weights / weights.sum()
        return mean

    gradient = jax.grad(loss)(state.params)
    updates, optimizer = OPTIMIZER.update(gradient, state.optimizer, state.params)
    return State(optax.apply_updates(state.params, updates), optimizer)


@jax.jit
def _right(params: Any, images: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    return (_logits(params, images).argmax(-1) == labels).astype(jnp.float32) @ weights


def _logits(params: Any, images: jax.Array) -> jax.Array:
    graph = nnx.graphdef(nnx.eval_shape(lambda: CNN(rngs=nnx.Rngs(0))))
    logits: jax.Array = nnx.merge(graph, params)(images)
    return logits


def start(config: Config, seed: int = 0) -> State:
    """The state before the first epoch."""
    params = _initial_params(jax.random.key(seed))
    optimizer = OPTIMIZER.init(params)
    optimizer.hyperparams["learning_rate"] = jnp.float32(config["learning_rate"])
    optimizer.hyperparams["momentum"] = jnp.float32(config["beta"])
    return State(params, optimizer)


def train_epoch(state: State, data: Arrays, rng: np.random.Generator) -> State:
    """One pass over the data in a random order."""
    order = rng.permutation(len(data.labels))
    for rows, weights in _batches(order, BATCH_SIZE):
        state = _step(state, data.images[rows], data.labels[rows], weights)
    jax.block_until_ready(state)
    return state


def accuracy(state: State, data: Arrays) -> float:
    """The fraction of the data that is classified right."""
    rows = np.arange(len(data.labels))
    right = sum(
        _right(state.params, data.images[rows], data.labels[rows], weights)
        for rows, weights in _batches(rows, EVALUATION_BATCH_SIZE)
    )
    return float(right) / len(data.labels)


def save(state: State, directory: str) -> None:
    """Writes a checkpoint of the parameters."""
    content = serialization.msgpack_serialize(nnx.to_pure_dict(state.params))
    (Path(directory) / "params.msgpack").write_bytes(content)


def restored(directory: str, config: Config) -> State:
    """The state with the parameters of a checkpoint."""
    arrays: dict[str, Any] = serialization.msgpack_restore(
        (Path(directory) / "params.msgpack").read_bytes()
    )
    state = start(config)
    nnx.replace_by_pure_dict(state.params, arrays)
    return state


def _batches(
    rows: NDArray[np.int64], size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Batches of one size, and the weight of each row: 0 for those that fill up the last one."""
    n = len(rows)
    padding = -n % size
    weights = np.pad(np.ones(n, np.float32), (0, padding)).reshape(-1, size)
    yield from zip(np.pad(rows, (0, padding), mode="wrap").reshape(-1, size), weights, strict=True)
