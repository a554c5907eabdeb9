"""An epoch is momentum SGD as it is written down; evaluation is plain NumPy; nothing recompiles.

The reference is a Python loop over the batches, short ones included, with NumPy's float64 for
the update and Flax's own network for the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_tune import model, training
from mnist_tune.datasets import Split, load_dataset
from mnist_tune.hparams import SCHEDULES, Config, complete

N = 40
BATCH = 16  # N is not a multiple of it
SMALL = {"features": [2, 3], "dense_units": 8, "batch_size": BATCH}
BOUND = 2e-3
"""Relative to the largest change: one ReLU that rounding turns on or off can cost 5e-4."""

COMPILED = "/jax/core/compile/backend_compile_duration"

Tree = dict[str, dict[str, np.ndarray]]


def small(**changes: Any) -> Config:
    return complete({**SMALL, **changes})


@cache
def data_of(n: int) -> training.Data:
    rng = np.random.default_rng(n)
    images = rng.integers(0, 256, (n, 28, 28, 1), np.uint8)
    return training.device_data(Split(images, rng.integers(0, 10, n, np.int32)))


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """Grows by one entry with every program that JAX compiles."""
    seen: list[str] = []

    def listen(event: str, _duration_s: float, **details: Any) -> None:
        if event == COMPILED:
            seen.append(str(details.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


def run_epochs(
    config: Config, epochs: range, max_epochs: int = 10, data: training.Data | None = None
) -> training.State:
    """Trains from the initial state over the given epochs, on ``N`` images by default."""
    data = data or data_of(N)
    state = training.initial_state(config)
    hypers = training.hypers(config, max_epochs)
    for epoch in epochs:
        state = training.train_epoch(state, data, hypers, np.int32(epoch), config["batch_size"])
    return state


def flat(tree: model.Params | Tree) -> np.ndarray:
    """All entries of a tree in one vector."""
    return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)])


def mean_nll(params: model.Params, images: jax.Array, labels: jax.Array) -> jax.Array:
    log_p = jax.nn.log_softmax(model.logits_flax(params, images))
    return -log_p[jnp.arange(len(labels)), labels].mean()


gradient_of = jax.jit(jax.grad(mean_nll))


def reference_learning_rate(config: Config, done_epochs: float, max_epochs: int) -> float:
    eta, warmup = config["learning_rate"], config["warmup_epochs"]
    if done_epochs < warmup:
        return float(eta * done_epochs / warmup)
    if config["schedule"] == "constant":
        return float(eta)
    whole = max_epochs - warmup
    progress = min(1.0, (done_epochs - warmup) / whole) if whole > 0 else 1.0
    if config["schedule"] == "linear":
        return float(eta * (1 - progress))
    return float(eta * (1 + math.cos(math.pi * progress)) / 2)


def reference_epochs(config: Config, epochs: range, max_epochs: int) -> tuple[Tree, Tree]:
    """Parameters and velocity after v ← βv + (g + λθ), θ ← θ − ηv for every batch."""
    params = jax.tree.map(
        lambda x: np.asarray(x, np.float64), training.initial_state(config).params
    )
    velocity = jax.tree.map(np.zeros_like, params)
    beta, decay, batch = config["beta"], config["weight_decay"], config["batch_size"]
    data = data_of(N)
    starts = range(0, N, batch)
    for epoch in epochs:
        key = jax.random.fold_in(jax.random.key(config["seed"]), epoch)
        order = np.asarray(jax.random.permutation(key, N))
        for i, start in enumerate(starts):
            rows = order[start : start + batch]
            single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
            with jax.numpy_dtype_promotion("standard"):  # for Flax's avg_pool
                gradient = gradient_of(single, data.images[rows], data.labels[rows])
            eta = reference_learning_rate(config, epoch - 1 + i / len(starts), max_epochs)
            velocity = jax.tree.map(
                lambda v, g, p: beta * v + np.float64(g) + decay * p, velocity, gradient, params
            )
            params = jax.tree.map(lambda p, v, eta=eta: p - eta * v, params, velocity)
    return params, velocity


def assert_matches_reference(config: Config, epochs: range, max_epochs: int) -> None:
    before = flat(training.initial_state(config).params)
    state = run_epochs(config, epochs, max_epochs)
    params, velocity = (flat(tree) for tree in reference_epochs(config, epochs, max_epochs))
    change = np.abs(params - before).max()
    assert np.abs(flat(state.params) - params).max() <= BOUND * change + 1e-6
    assert np.abs(flat(state.velocity) - velocity).max() <= BOUND * np.abs(velocity).max()


@settings(max_examples=15, deadline=None)
@given(
    learning_rate=st.floats(1e-3, 0.03),
    beta=st.floats(0, 0.95),
    weight_decay=st.floats(0, 0.1),
    schedule=st.sampled_from(SCHEDULES),
    warmup_epochs=st.floats(0, 3, width=32, allow_subnormal=False),
    seed=st.integers(0, 2**32 - 1),
    first=st.integers(1, 4),
    max_epochs=st.integers(1, 6),
)
def test_two_epochs_are_those_of_the_reference(
    first: int, max_epochs: int, **hyperparameters: Any
) -> None:
    epochs = range(first, first + 2)
    assert_matches_reference(small(**hyperparameters), epochs, max_epochs)


@pytest.mark.parametrize("batch_size", [8, 65_536])
def test_batches_that_fit_exactly_or_hold_all_the_data(batch_size: int) -> None:
    assert_matches_reference(small(batch_size=batch_size, schedule="linear"), range(1, 3), 10)


def test_every_image_counts_once_an_epoch() -> None:
    config = small(batch_size=N, beta=0.0, learning_rate=1.0)
    before = flat(training.initial_state(config).params)
    with jax.numpy_dtype_promotion("standard"):
        gradient = flat(gradient_of(training.initial_state(config).params, *data_of(N)))
    for epoch in (1, 2):
        after = flat(run_epochs(config, range(epoch, epoch + 1)).params)
        assert np.allclose(before - after, gradient, rtol=1e-4, atol=1e-6)


def test_the_order_changes_with_the_epoch_and_with_the_seed() -> None:
    def after(seed: int, epoch: int) -> np.ndarray:
        state = training.initial_state(small())
        hypers = training.hypers(small(seed=seed), 10)
        return flat(training.train_epoch(state, data_of(N), hypers, np.int32(epoch), BATCH).params)

    results = [after(seed, epoch) for seed in (0, 1) for epoch in (1, 2)]
    for i, one in enumerate(results):
        for other in results[:i]:
            assert not np.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    one, same, other = (run_epochs(small(seed=seed), range(1, 3)) for seed in (7, 7, 8))
    assert np.array_equal(flat(one.params), flat(same.params))
    assert np.array_equal(flat(one.velocity), flat(same.velocity))
    assert not np.isclose(flat(one.params), flat(other.params)).all()


def test_the_largest_seed_is_a_seed_of_its_own() -> None:
    first, last = (flat(training.initial_state(small(seed=s)).params) for s in (0, 2**32 - 1))
    assert not np.isclose(first, last).all()


def test_going_on_from_a_checkpoint_s_arrays_gives_the_same_bits() -> None:
    config = small()
    half = jax.device_get(run_epochs(config, range(1, 2)))
    state = training.state_from({"params": half.params, "velocity": half.velocity})
    state = training.train_epoch(
        state, data_of(N), training.hypers(config, 10), np.int32(2), config["batch_size"]
    )
    whole = run_epochs(config, range(1, 3))
    assert np.array_equal(flat(state.params), flat(whole.params))
    assert np.array_equal(flat(state.velocity), flat(whole.velocity))


@pytest.mark.parametrize(
    ("schedule", "warmup_epochs", "expected"),
    [
        ("constant", 0, {0: 0.5, 3: 0.5, 10: 0.5, 99: 0.5}),
        ("linear", 0, {0: 0.5, 2.5: 0.375, 5: 0.25, 10: 0, 11: 0}),
        ("cosine", 0, {0: 0.5, 2.5: 0.25 * (1 + math.sqrt(0.5)), 5: 0.25, 10: 0, 11: 0}),
        ("constant", 2, {0: 0, 0.5: 0.125, 1: 0.25, 2: 0.5, 10: 0.5}),
        ("linear", 2, {0: 0, 1: 0.25, 2: 0.5, 4: 0.375, 6: 0.25, 10: 0}),
        ("cosine", 2, {0: 0, 1: 0.25, 2: 0.5, 6: 0.25, 10: 0}),
        ("linear", 20, {0: 0, 5: 0.125, 10: 0.25}),
        ("constant", 20, {10: 0.25, 20: 0.5}),
    ],
)
def test_the_schedule_at_its_key_points(
    schedule: str, warmup_epochs: float, expected: dict[float, float]
) -> None:
    config = small(learning_rate=0.5, schedule=schedule, warmup_epochs=warmup_epochs)
    hypers = training.hypers(config, max_epochs=10)
    for done_epochs, eta in expected.items():
        got = training.learning_rate(hypers, np.float32(done_epochs))
        assert got == pytest.approx(eta, abs=1e-6)


def test_traced_hyperparameters_compile_nothing_anew(compilations: list[str]) -> None:
    def whole_run(max_epochs: int, **hyperparameters: Any) -> None:
        config = small(dense_units=9, **hyperparameters)  # a shape that no other test compiles
        state = run_epochs(config, range(1, 3), max_epochs)
        assert math.isfinite(training.evaluate(state.params, data_of(N)).loss)
        training.state_from(jax.device_get(state)._asdict())

    whole_run(10)
    assert compilations
    compilations.clear()
    whole_run(
        3,
        learning_rate=0.01,
        beta=0,
        weight_decay=1e-3,
        schedule="cosine",
        warmup_epochs=1,
        seed=2**32 - 1,
    )
    assert compilations == []


def test_a_batch_size_compiles_once(compilations: list[str]) -> None:
    run_epochs(small(), range(1, 2))
    compilations.clear()
    for seed in (0, 1):
        run_epochs(small(batch_size=7, seed=seed), range(1, 3))
    assert len(compilations) == 1


def reference_logits(params: model.Params, images: jax.Array) -> np.ndarray:
    with jax.numpy_dtype_promotion("standard"):
        return np.asarray(jax.jit(model.logits_flax)(params, images), np.float64)


@pytest.mark.parametrize("n", [1, 512, 700])
def test_evaluate_is_the_mean_over_all_images(n: int) -> None:
    data, params = data_of(n), training.initial_state(small()).params
    metrics = training.evaluate(params, data)
    logits, labels = reference_logits(params, data.images), np.asarray(data.labels)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert metrics.loss == pytest.approx(-log_p[np.arange(n), labels].mean(), rel=1e-5)
    assert metrics.accuracy == pytest.approx((logits.argmax(1) == labels).mean(), rel=1e-6)


def test_accuracy_goes_from_0_to_1() -> None:
    data, params = data_of(700), training.initial_state(small()).params
    right = reference_logits(params, data.images).argmax(1).astype(np.int32)
    for labels, accuracy in ((right, 1), ((right + 1) % 10, 0)):
        assert (
            training.evaluate(params, data._replace(labels=jnp.asarray(labels))).accuracy
            == accuracy
        )


def test_parameters_that_are_nan_give_a_loss_that_is_nan() -> None:
    params = training.initial_state(small()).params
    params["conv1"]["bias"] = params["conv1"]["bias"].at[0].set(jnp.nan)
    assert math.isnan(training.evaluate(params, data_of(N)).loss)


@pytest.mark.slow
def test_the_network_learns_the_digits(digits_data_dir: Path) -> None:
    digits = load_dataset("digits", digits_data_dir)
    config = complete({"learning_rate": 0.05, "beta": 0.9, "batch_size": 32})
    state = run_epochs(config, range(1, 6), data=training.device_data(digits.train))
    assert training.evaluate(state.params, training.device_data(digits.test)).accuracy >= 0.9


def test_what_is_compiled_ahead_is_all_that_a_trial_runs(compilations: list[str]) -> None:
    config, data = small(features=[3, 5]), data_of(37)
    for program in training.programs(config, data, data):
        program.compile()
    assert compilations == ["jit(init_state)", "jit(train_epoch)", "jit(evaluate)"]
    state = training.initial_state(config)
    hypers = training.hypers(config, 4)
    state = training.train_epoch(state, data, hypers, np.int32(1), config["batch_size"])
    training.evaluate(state.params, data)
    assert len(compilations) == 3
