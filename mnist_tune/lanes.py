"""Lanes: many models trained in one program, over the same data on one device.

Each lane has a model of the same shapes and its own hyperparameters, seed, epoch and data order,
and gives what it would give alone. On a GPU, which one small model leaves nearly idle, lanes run
*abreast*: every step is one step of all (``vmap``). On a CPU core one model is work enough, and
several at once fall out of its cache: there lanes run *in turn*, an epoch after the other.

A program is compiled for a number of lanes, its size; fewer are filled up with idle ones. Abreast
an idle lane costs as much as another, so sizes are powers of two. In turn it costs nothing.

Reference: Wang et al., Horizontally Fused Training Array, MLSys 2021 (arXiv 2102.02344).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Int32

from mnist_tune import training
from mnist_tune.hparams import Config
from mnist_tune.training import Data, Hypers, Metrics, State


class Lane(NamedTuple):
    """A model before an epoch.

    Attributes:
        state: what the epochs so far have made.
        hypers: its hyperparameters.
        epoch: which epoch comes next, from 1.
    """

    state: State
    hypers: Hypers
    epoch: int


def are_abreast() -> bool:
    """Whether lanes run abreast on the default device."""
    return jax.default_backend() != "cpu"


def size_for(lanes: int, most: int, abreast: bool) -> int:
    """The size of the program for so many lanes.

    Args:
        lanes: how many there are to run, ≥ 1, ≤ ``most``.
        most: how many there can be.
        abreast: how they run.
    """
    return 1 << (lanes - 1).bit_length() if abreast else most


def next_epoch(
    lanes: Sequence[Lane],
    train: Data,
    validation: Data,
    batch_size: int,
    size: int,
    abreast: bool,
) -> tuple[list[State], Metrics]:
    """Trains and evaluates one epoch of every lane.

    Args:
        lanes: models of the same shapes, 1 to ``size``.
        train: the training set.
        validation: the validation set.
        batch_size: images a step, the same in all lanes.
        size: the program's.
        abreast: whether all lanes take a step together, or one runs its epoch after the other.

    Returns:
        The states after the epoch, which may still be computed; and the metrics on the validation
        set, float32 ``[size]``, of which those of the first lanes count.
    """
    filled = [*lanes, *[lanes[0]] * (size - len(lanes))]
    states, metrics = _next_epoch(
        tuple(lane.state for lane in filled),
        _stacked([lane.hypers for lane in filled]),
        np.array([lane.epoch for lane in filled], np.int32),
        np.int32(len(lanes)),
        train,
        validation,
        batch_size,
        abreast,
    )
    return list(states[: len(lanes)]), metrics


def program(
    config: Config, train: Data, validation: Data, size: int, abreast: bool
) -> jax.stages.Lowered:
    """What ``next_epoch`` runs for this configuration's shapes, ready to be compiled."""
    state = jax.eval_shape(lambda: training.initial_state(config))
    return _next_epoch.lower(
        (state,) * size,
        _stacked([training.hypers(config, max_epochs=1)] * size),
        np.ones(size, np.int32),
        np.int32(1),
        train,
        validation,
        config["batch_size"],
        abreast,
    )


@partial(jax.jit, static_argnames=("batch_size", "abreast"))
def _next_epoch(
    states: tuple[State, ...],
    hypers: Hypers,
    epochs: Int32[Array, " lanes"],
    live: ArrayLike,
    train: Data,
    validation: Data,
    batch_size: int,
    abreast: bool,
) -> tuple[tuple[State, ...], Metrics]:
    def one(lane: tuple[State, Hypers, Array]) -> tuple[State, Metrics]:
        state = training.train_epoch(lane[0], train, lane[1], lane[2], batch_size)
        return state, training.evaluate(state.params, validation)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    inputs = (stacked, hypers, epochs)
    after, metrics = jax.vmap(one)(inputs) if abreast else _in_turn(one, inputs, live)
    return tuple(_lane(after, i) for i in range(len(states))), metrics


def _in_turn(one: Any, inputs: tuple[State, Hypers, Array], live: ArrayLike) -> Any:
    """The first ``live`` lanes, one after the other; the others stay as they are."""
    nothing = jnp.zeros(inputs[2].shape, jnp.float32)

    def run(i: Array, results: tuple[State, Metrics]) -> tuple[State, Metrics]:
        result = one(_lane(inputs, i))
        placed: tuple[State, Metrics] = jax.tree.map(
            lambda all_lanes, lane: all_lanes.at[i].set(lane), results, result
        )
        return placed

    return lax.fori_loop(0, live, run, (inputs[0], Metrics(nothing, nothing)))


def _lane(tree: Any, i: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[i], tree)


def _stacked(trees: Sequence[Hypers]) -> Hypers:
    stacked: Hypers = jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
    return stacked
