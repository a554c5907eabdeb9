"""Training and evaluation as pure, compiled functions of their arguments.

Every hyperparameter that doesn't change shapes is a traced argument, so one compiled program
serves a whole search; an epoch is one program, with the data and its order on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float32, Int32, UInt8

from mnist_tune import model
from mnist_tune.datasets import Split
from mnist_tune.hparams import SCHEDULES, Config

EVALUATION_BATCH = 512


class Hypers(NamedTuple):
    """The traced hyperparameters: scalars, float32 unless said otherwise.

    Attributes:
        learning_rate: η.
        beta: β.
        weight_decay: λ.
        schedule: index in ``hparams.SCHEDULES``, int32.
        warmup_epochs: epochs of linear warm-up.
        seed: of the initial weights and the data order, uint32.
        max_epochs: the epochs over which the schedule goes down.
    """

    learning_rate: ArrayLike
    beta: ArrayLike
    weight_decay: ArrayLike
    schedule: ArrayLike
    warmup_epochs: ArrayLike
    seed: ArrayLike
    max_epochs: ArrayLike


class Data(NamedTuple):
    """Images ``uint8 [n, 28, 28, 1]`` and labels ``int32 [n]`` on the device."""

    images: UInt8[Array, "n 28 28 1"]
    labels: Int32[Array, " n"]


class State(NamedTuple):
    """What an epoch changes: the parameters θ and the velocity v, of the same shapes."""

    params: model.Params
    velocity: model.Params


class Metrics(NamedTuple):
    """Mean negative log-likelihood, and the fraction in [0, 1] that is classified right."""

    loss: Float32[Array, ""]
    accuracy: Float32[Array, ""]


def hypers(config: Config, max_epochs: int) -> Hypers:
    """The traced part of a configuration, as NumPy scalars: no device is touched.

    Args:
        config: a full configuration.
        max_epochs: the epochs over which the schedule goes down, ≥ 1.
    """
    return Hypers(
        learning_rate=np.float32(config["learning_rate"]),
        beta=np.float32(config["beta"]),
        weight_decay=np.float32(config["weight_decay"]),
        schedule=np.int32(SCHEDULES.index(config["schedule"])),
        warmup_epochs=np.float32(config["warmup_epochs"]),
        seed=np.uint32(config["seed"]),
        max_epochs=np.float32(max_epochs),
    )


def initial_state(config: Config) -> State:
    """The state before the first epoch, from the configuration's seed and shapes."""
    features = (config["features"][0], config["features"][1])
    state: State = init_state(np.uint32(config["seed"]), features, config["dense_units"])
    return state


def state_from(arrays: Mapping[str, Any]) -> State:
    """The state that a checkpoint holds, on the device."""
    return State(jax.device_put(arrays["params"]), jax.device_put(arrays["velocity"]))


def programs(config: Config, train: Data, validation: Data) -> list[jax.stages.Lowered]:
    """All that a trial of this configuration's shapes runs, ready to be compiled.

    Calls find what has been compiled of these.
    """
    features = (config["features"][0], config["features"][1])
    state = jax.eval_shape(lambda: initial_state(config))
    traced = hypers(config, max_epochs=1)
    return [
        init_state.lower(np.uint32(0), features, config["dense_units"]),
        train_epoch.lower(state, train, traced, np.int32(1), config["batch_size"]),
        evaluate.lower(state.params, validation),
    ]


def fits(params: Any, config: Config) -> bool:
    """Whether ``params`` are parameters of the configuration's network: names, shapes, dtypes."""

    def kinds(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)

    return bool(kinds(params) == kinds(jax.eval_shape(lambda: initial_state(config)).params))


def device_data(split: Split) -> Data:
    """Moves a data set to the device."""
    return Data(jax.device_put(split.images), jax.device_put(split.labels))


@partial(jax.jit, static_argnames=("features", "dense_units"))
def init_state(seed: ArrayLike, features: tuple[int, int], dense_units: int) -> State:
    """Initial weights drawn from the seed, and zero velocity."""
    params = model.init(jax.random.key(seed), features, dense_units)
    return State(params, jax.tree.map(jnp.zeros_like, params))


@partial(jax.jit, static_argnames="batch_size", donate_argnames="state")
def train_epoch(
    state: State, data: Data, hypers: Hypers, epoch: ArrayLike, batch_size: int
) -> State:
    """One pass over the data in a fresh random order: v ← βv + g, θ ← θ - ηv.

    The order is a function of the seed and the epoch alone. The last batch may be short: it is
    padded, and the padding doesn't count.

    Args:
        state: the state before the epoch; its buffers are reused.
        data: the training set.
        hypers: the traced hyperparameters.
        epoch: which epoch this is, from 1.
        batch_size: images a step.

    Returns:
        The state after the epoch.
    """
    n = data.labels.shape[0]
    batch_size = min(batch_size, n)
    steps = -(-n // batch_size)
    epoch = jnp.asarray(epoch)
    key = jax.random.fold_in(jax.random.key(hypers.seed), epoch)
    order = jax.random.permutation(key, n)
    order = jnp.pad(order, (0, steps * batch_size - n), mode="wrap").reshape(steps, batch_size)
    weights = (jnp.arange(steps * batch_size) < n).astype(jnp.float32).reshape(steps, batch_size)

    def step(state: State, batch: tuple[Array, Array, Array]) -> tuple[State, None]:
        i, rows, weight = batch
        done_epochs = (epoch - 1).astype(jnp.float32) + i.astype(jnp.float32) / steps
        optimizer = _momentum(hypers, learning_rate(hypers, done_epochs))
        gradient = jax.grad(_loss)(state.params, data.images[rows], data.labels[rows], weight)
        updates, optimizer_state = optimizer.update(
            gradient,
            (optax.EmptyState(), optax.TraceState(state.velocity), optax.EmptyState()),
            state.params,
        )
        return State(optax.apply_updates(state.params, updates), optimizer_state[1].trace), None

    state, _ = lax.scan(step, state, (jnp.arange(steps), order, weights))
    return state


@jax.jit
def evaluate(params: model.Params, data: Data) -> Metrics:
    """Loss and accuracy over all of ``data``: sums over padded batches, divided once."""
    n = data.labels.shape[0]
    batch_size = min(EVALUATION_BATCH, n)
    batches = -(-n // batch_size)
    rows = jnp.minimum(jnp.arange(batches * batch_size), n - 1).reshape(batches, batch_size)
    weights = (jnp.arange(batches * batch_size) < n).astype(jnp.float32).reshape(rows.shape)

    def add(sums: Metrics, batch: tuple[Array, Array]) -> tuple[Metrics, None]:
        rows, weight = batch
        logits, labels = model.logits(params, data.images[rows]), data.labels[rows]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        right = (logits.argmax(-1) == labels).astype(jnp.float32)
        return Metrics(sums.loss + losses @ weight, sums.accuracy + right @ weight), None

    zero = jnp.zeros((), jnp.float32)
    sums, _ = lax.scan(add, Metrics(zero, zero), (rows, weights))
    return Metrics(sums.loss / n, sums.accuracy / n)


def learning_rate(hypers: Hypers, done_epochs: ArrayLike) -> Float32[Array, ""]:
    """The learning rate after ``done_epochs`` (a fraction counts) of ``max_epochs``.

    Linear warm-up from 0, then constant, linear to 0 or a half cosine to 0
    (SGDR without restarts, Loshchilov & Hutter 2017, arXiv 1608.03983, equation 5).
    """
    done_epochs = jnp.asarray(done_epochs)
    warmup = jnp.asarray(hypers.warmup_epochs)
    max_epochs = jnp.asarray(hypers.max_epochs)
    rising = jnp.minimum(done_epochs / jnp.maximum(warmup, 1e-6), 1.0)
    after = jnp.maximum(done_epochs - warmup, 0.0)
    progress = jnp.clip(after / jnp.maximum(max_epochs - warmup, 1e-6), 0.0, 1.0)
    falling = jnp.stack(
        [jnp.ones_like(progress), 1.0 - progress, 0.5 * (1.0 + jnp.cos(jnp.pi * progress))]
    )
    factor = jnp.where(done_epochs < warmup, rising, falling[hypers.schedule])
    return jnp.asarray(hypers.learning_rate) * factor


def _momentum(hypers: Hypers, learning_rate: Array) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(hypers.weight_decay),
        optax.trace(hypers.beta),
        optax.scale_by_learning_rate(learning_rate),
    )


def _loss(params: model.Params, images: Array, labels: Array, weights: Array) -> Array:
    logits = model.logits(params, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    mean: Array = losses @ weights / weights.sum()
    return mean
