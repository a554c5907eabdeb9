"""The Winograd convolution is the textbook one, with both gradients, in any shape and under vmap.

The reference is the definition, in float64: a sum over the nine shifts of the padded input.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mnist_tune.conv import conv3x3, first_conv3x3, relu_pool, winograd_filter

BOUND = 5e-6
"""Largest error relative to the largest entry; float32 rounding leaves about 1e-6."""

SHIFTS = [(i, j) for i in range(3) for j in range(3)]

Array = NDArray[np.floating]

channels = st.integers(1, 6)
even = st.integers(1, 5).map(lambda half: 2 * half)
batches = st.integers(2, 17)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=6, deadline=None)  # every shape is compiled anew


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def padded(x: Array) -> Array:
    return np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))


def reference(x: Array, kernel: Array) -> Array:
    """The convolution's output, ``[outputs, height, width, batch]``."""
    _, h, w, _ = x.shape
    wide, kernel = padded(x), kernel.astype(np.float64)
    return np.sum(
        [
            np.einsum("co,chwb->ohwb", kernel[i, j], wide[:, i : i + h, j : j + w])
            for i, j in SHIFTS
        ],
        axis=0,
    )


def reference_gradients(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
    """The gradients of ``sum(output * dy)`` with respect to x and the kernel."""
    _, h, w, _ = x.shape
    wide, kernel, dy = padded(x), kernel.astype(np.float64), dy.astype(np.float64)
    dx, dkernel = np.zeros_like(wide), np.zeros_like(kernel)
    for i, j in SHIFTS:
        dkernel[i, j] = np.einsum("chwb,ohwb->co", wide[:, i : i + h, j : j + w], dy)
        dx[:, i : i + h, j : j + w] += np.einsum("co,ohwb->chwb", kernel[i, j], dy)
    return dx[:, 1:-1, 1:-1], dkernel


def phases(y: Array) -> Array:
    """``[outputs, height, width, batch]`` as the four pixels of every 2×2 window."""
    return np.stack([y[:, i::2, j::2].reshape(y.shape[0], -1) for i in (0, 1) for j in (0, 1)])


def assert_close(got: jax.Array, want: Array) -> None:
    got = np.asarray(got)
    assert got.dtype == np.float32
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= BOUND * np.abs(want).max()


def compiled(function: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, ...]]:
    """The function's value and the gradients of ``sum(value * dy)``, dy being the last argument."""

    def value_and_gradients(*arguments: jax.Array) -> tuple[jax.Array, ...]:
        *inputs, dy = arguments
        value, gradients = jax.vjp(function, *inputs)
        return value, *gradients(dy)

    return jax.jit(value_and_gradients)


conv = compiled(lambda x, kernel: conv3x3(x, winograd_filter(kernel)))
first_conv = compiled(first_conv3x3)
pool = compiled(relu_pool)


@few
@given(channels, channels, even, even, batches, seeds)
def test_conv3x3_and_its_gradients_match_float64(
    inputs: int, outputs: int, height: int, width: int, batch: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(3):
        x = normal(rng, inputs, height, width, batch)
        kernel, dy = normal(rng, 3, 3, inputs, outputs), normal(rng, outputs, height, width, batch)
        y, dx, dkernel = conv(x, kernel, phases(dy))
        want_dx, want_dkernel = reference_gradients(x, kernel, dy)
        assert_close(y, phases(reference(x, kernel)))
        assert_close(dx, want_dx)
        assert_close(dkernel, want_dkernel)


def test_conv3x3_matches_float64_in_the_network_s_own_shape() -> None:
    rng = np.random.default_rng(0)
    x, kernel, dy = (
        normal(rng, 32, 14, 14, 16),
        normal(rng, 3, 3, 32, 64),
        normal(rng, 64, 14, 14, 16),
    )
    y, dx, dkernel = conv(x, kernel, phases(dy))
    want_dx, want_dkernel = reference_gradients(x, kernel, dy)
    assert_close(y, phases(reference(x, kernel)))
    assert_close(dx, want_dx)
    assert_close(dkernel, want_dkernel)


@few
@given(channels, even, even, batches, seeds)
def test_first_conv3x3_and_its_gradient_match_float64(
    outputs: int, height: int, width: int, batch: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, kernel = normal(rng, height, width, batch), normal(rng, 3, 3, 1, outputs)
    dy = normal(rng, outputs, height, width, batch)
    y, _, dkernel = first_conv(x, kernel, phases(dy))
    assert_close(y, phases(reference(x[None], kernel)))
    assert_close(dkernel, reference_gradients(x[None], kernel, dy)[1])


@few
@given(channels, st.integers(1, 60), seeds)
def test_relu_pool_and_its_gradients_match_float64(
    channel_count: int, positions: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, bias = normal(rng, 4, channel_count, positions), normal(rng, channel_count)
    dy = normal(rng, channel_count, positions)
    y, dx, dbias = pool(x, bias, dy)
    before = x.astype(np.float64) + bias[:, None]
    want_dx = np.where(before > 0, dy.astype(np.float64) / 4, 0.0)
    assert np.allclose(y, np.maximum(before, 0).mean(0), rtol=0, atol=BOUND)
    assert np.allclose(dx, want_dx, rtol=0, atol=BOUND)
    assert np.allclose(dbias, want_dx.sum((0, 2)), rtol=0, atol=BOUND * positions)


def test_pooled_phases_are_the_average_of_every_2_by_2_window() -> None:
    rng = np.random.default_rng(1)
    x, kernel = normal(rng, 2, 6, 8, 3), normal(rng, 3, 3, 2, 5)
    pooled = relu_pool(conv3x3(jnp.asarray(x), winograd_filter(jnp.asarray(kernel))), jnp.zeros(5))
    windows = np.maximum(reference(x, kernel), 0).reshape(5, 3, 2, 4, 2, 3)
    assert np.allclose(pooled.reshape(5, 3, 4, 3), windows.mean((2, 4)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shared_input", [False, True])
def test_vmap_over_models_is_a_loop_over_models(shared_input: bool) -> None:
    rng = np.random.default_rng(2)
    kernels, dy = normal(rng, 3, 3, 3, 2, 4), normal(rng, 3, 4, 4, 3 * 2 * 6)
    x = normal(rng, 2, 6, 4, 6) if shared_input else normal(rng, 3, 2, 6, 4, 6)
    axes = (None if shared_input else 0, 0, 0)
    together = jax.vmap(conv, in_axes=axes)(x, kernels, dy)
    for model in range(3):
        alone = conv(x if shared_input else x[model], kernels[model], dy[model])
        for got, want in zip(together, alone, strict=True):
            assert_close(got[model], np.asarray(want))
