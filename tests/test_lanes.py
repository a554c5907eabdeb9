"""A lane gives what its configuration gives alone, whatever the lanes beside it do."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training import BOUND, N, compilations, data_of, flat, small

from mnist_tune import lanes, training
from mnist_tune.datasets import load_dataset
from mnist_tune.hparams import Config, complete
from mnist_tune.lanes import Lane

__all__ = ["compilations"]  # a fixture

TRAIN, VALIDATION = data_of(N), data_of(20)
ON_CPU = jax.default_backend() == "cpu"
FORMS = pytest.mark.parametrize("abreast", [False, True], ids=["in turn", "abreast"])


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    """To the last bit on a CPU; a GPU adds up in an order of its own, even in the same program."""
    if ON_CPU:
        assert np.array_equal(ours, theirs)
    else:
        assert np.abs(ours - theirs).max() <= BOUND * np.abs(theirs).max()


def first_epoch(config: Config, max_epochs: int = 10) -> Lane:
    return Lane(training.initial_state(config), training.hypers(config, max_epochs), 1)


def together(
    configs: list[Config],
    epochs: int,
    abreast: bool,
    train: training.Data = TRAIN,
    validation: training.Data = VALIDATION,
    size: int | None = None,
) -> tuple[list[training.State], np.ndarray, np.ndarray]:
    """States after so many epochs in lanes; losses and accuracies ``[epochs, lanes]``."""
    running = [first_epoch(config) for config in configs]
    size = size or lanes.size_for(len(running), len(running), abreast)
    losses, accuracies = [], []
    for _ in range(epochs):
        states, metrics = lanes.next_epoch(
            running, train, validation, configs[0]["batch_size"], size, abreast
        )
        running = [
            Lane(state, lane.hypers, lane.epoch + 1)
            for state, lane in zip(states, running, strict=True)
        ]
        losses.append(np.asarray(metrics.loss)[: len(running)])
        accuracies.append(np.asarray(metrics.accuracy)[: len(running)])
    return [lane.state for lane in running], np.array(losses), np.array(accuracies)


def alone(
    config: Config,
    epochs: int,
    train: training.Data = TRAIN,
    validation: training.Data = VALIDATION,
) -> tuple[training.State, np.ndarray, np.ndarray]:
    state, hypers = training.initial_state(config), training.hypers(config, 10)
    losses, accuracies = [], []
    for epoch in range(1, epochs + 1):
        state = training.train_epoch(state, train, hypers, np.int32(epoch), config["batch_size"])
        metrics = training.evaluate(state.params, validation)
        losses.append(float(metrics.loss))
        accuracies.append(float(metrics.accuracy))
    return state, np.array(losses), np.array(accuracies)


configs = st.builds(
    small,
    learning_rate=st.floats(1e-3, 0.1),
    beta=st.floats(0.0, 0.9),
    weight_decay=st.floats(0.0, 0.01),
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
    warmup_epochs=st.sampled_from([0.0, 1.5]),
    seed=st.integers(0, 2**32 - 1),
)


@settings(deadline=None, max_examples=25)
@given(st.lists(configs, min_size=1, max_size=4))
def test_in_turn_every_lane_is_exactly_what_it_is_alone(configs: list[Config]) -> None:
    states, losses, accuracies = together(configs, 2, abreast=False, size=4)
    for i, config in enumerate(configs):
        state, loss, accuracy = alone(config, 2)
        assert_same(flat(states[i].params), flat(state.params))
        assert_same(flat(states[i].velocity), flat(state.velocity))
        assert_same(losses[:, i], loss)
        if ON_CPU:
            assert np.array_equal(accuracies[:, i], accuracy)


@settings(deadline=None, max_examples=25)
@given(st.lists(configs, min_size=1, max_size=4))
def test_abreast_every_lane_is_within_rounding_of_what_it_is_alone(configs: list[Config]) -> None:
    states, losses, _ = together(configs, 2, abreast=True)
    for i, config in enumerate(configs):
        state, loss, _ = alone(config, 2)
        change = np.abs(flat(state.params) - flat(training.initial_state(config).params)).max()
        # One ReLU that rounding turns on or off can cost 5e-4 of it, see test_training.
        assert np.abs(flat(states[i].params) - flat(state.params)).max() <= 2e-3 * change
        assert np.allclose(losses[:, i], loss, rtol=1e-4)


@pytest.mark.slow
@FORMS
def test_ten_mnist_configs_have_the_same_curves_and_the_same_best(
    mnist_data_dir: Path, abreast: bool
) -> None:
    data = load_dataset("mnist", mnist_data_dir, 5000, 4000)
    train, validation = training.device_data(data.train), training.device_data(data.validation)
    shapes = {"features": [8, 16], "dense_units": 32}
    configs = [
        complete({"learning_rate": 0.003 * 1.4**i, "beta": 0.08 * i, "seed": i, **shapes})
        for i in range(10)
    ]
    _, losses, accuracies = together(configs, 3, abreast, train, validation)
    curves = [alone(config, 3, train, validation) for config in configs]
    alone_losses = np.stack([loss for _, loss, _ in curves], 1)
    alone_accuracies = np.stack([accuracy for _, _, accuracy in curves], 1)
    if not abreast:
        assert_same(losses, alone_losses)
    assert np.abs(accuracies - alone_accuracies).max() <= 1e-3
    assert accuracies[-1].argmax() == alone_accuracies[-1].argmax()
    # They learn, and each differently: else they would be equal for nothing.
    assert accuracies[-1].max() > 0.8
    assert len(set(losses[-1])) == 10


@FORMS
def test_a_lane_that_diverges_leaves_its_neighbours_alone(abreast: bool) -> None:
    calm = [small(learning_rate=0.05, seed=1), small(learning_rate=0.02, seed=2)]
    wild = small(learning_rate=1000.0, beta=0.99, weight_decay=1000.0, seed=3)
    states, losses, _ = together([calm[0], wild, calm[1]], 4, abreast)
    without, losses_without, _ = together([calm[0], calm[1], calm[1]], 4, abreast)
    assert not np.isfinite(losses[-1, 1])
    assert_same(losses[:, [0, 2]], losses_without[:, [0, 2]])
    for lane in (0, 2):
        assert_same(flat(states[lane].params), flat(without[lane].params))


@FORMS
def test_lanes_at_different_epochs_run_together(abreast: bool) -> None:
    one, other = (small(seed=seed, schedule="cosine", warmup_epochs=1.0) for seed in (1, 2))
    state, _, _ = alone(one, 3)
    running = [
        Lane(state, training.hypers(one, 10), 4),
        first_epoch(other),
    ]
    states, _ = lanes.next_epoch(running, TRAIN, VALIDATION, one["batch_size"], 2, abreast)
    for after, expected in zip(states, (alone(one, 4)[0], alone(other, 1)[0]), strict=True):
        assert np.allclose(flat(after.params), flat(expected.params), atol=1e-5)
    # An epoch has its own order and its own learning rate.
    again = Lane(state, training.hypers(one, 10), 5)
    differently, _ = lanes.next_epoch([again], TRAIN, VALIDATION, one["batch_size"], 2, abreast)
    assert not np.allclose(flat(differently[0].params), flat(states[0].params), atol=1e-5)


@FORMS
def test_one_program_serves_all_configurations_of_its_shapes(
    abreast: bool, compilations: list[str]
) -> None:
    config = small()
    lowered = lanes.program(config, TRAIN, VALIDATION, 4, abreast)
    lowered.compile()
    running = [first_epoch(small(seed=seed, learning_rate=0.01 * seed)) for seed in (1, 2, 3)]
    compilations.clear()
    states, metrics = lanes.next_epoch(running, TRAIN, VALIDATION, config["batch_size"], 4, abreast)
    lanes.next_epoch(running[:2], TRAIN, VALIDATION, config["batch_size"], 4, abreast)
    jax.block_until_ready((states, metrics))
    assert compilations == []
    assert len(states) == 3


def test_sizes_abreast_are_powers_of_two_and_in_turn_there_is_one() -> None:
    live = range(1, 9)
    assert [lanes.size_for(n, 8, abreast=True) for n in live] == [1, 2, 4, 4, 8, 8, 8, 8]
    assert [lanes.size_for(n, 8, abreast=False) for n in live] == [8] * 8


def test_lanes_are_abreast_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lanes.are_abreast() == (jax.default_backend() != "cpu")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert lanes.are_abreast()
