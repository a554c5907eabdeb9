"""The network on a CPU is the network as Flax writes it: values, gradients, shapes, pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mnist_tune import model

Logits = Callable[[model.Params, jax.Array], jax.Array]

init = jax.jit(model.init, static_argnums=(1, 2))

SIZES = [  # batch, features, dense units; micro-batches hold 16 images
    (1, (32, 64), 256),
    (15, (1, 1), 1),
    (16, (5, 3), 7),
    (17, (4, 8), 16),
    (100, (8, 4), 32),
]


def images_of(batch: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (batch, 28, 28, 1), np.uint8))


def logits_flax(params: model.Params, images: jax.Array) -> jax.Array:
    with jax.numpy_dtype_promotion("standard"):  # Flax's avg_pool divides float32 by int32
        return model.logits_flax(params, images)


def params_of(features: tuple[int, int], dense_units: int) -> model.Params:
    """Parameters as they might be after training: biases too are not zero."""
    rng = np.random.default_rng(1)
    kinds = jax.eval_shape(lambda: model.init(jax.random.key(0), features, dense_units))

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        scale = max(1, leaf.size / leaf.shape[-1]) ** -0.5 / (1 if leaf.ndim > 1 else 10)
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree.map(draw, kinds)


def leaves(params: model.Params) -> dict[str, np.ndarray]:
    return {
        f"{layer}.{name}": np.asarray(leaf)
        for layer, arrays in params.items()
        for name, leaf in arrays.items()
    }


@partial(jax.jit, static_argnums=0)
def value_and_gradient(
    logits: Logits, params: model.Params, images: jax.Array, dlogits: jax.Array
) -> tuple[jax.Array, model.Params]:
    value, gradient = jax.vjp(lambda params: logits(params, images), params)
    return value, *gradient(dlogits)


@pytest.mark.parametrize(("batch", "features", "dense_units"), SIZES)
def test_logits_and_gradients_are_those_of_the_flax_module(
    batch: int, features: tuple[int, int], dense_units: int
) -> None:
    params, images = params_of(features, dense_units), images_of(batch)
    dlogits = jax.random.normal(jax.random.key(2), (batch, model.CLASSES))
    got, got_gradient = value_and_gradient(model.logits, params, images, dlogits)
    want, want_gradient = value_and_gradient(logits_flax, params, images, dlogits)
    assert got.shape == (batch, model.CLASSES)
    assert got.dtype == want.dtype == jnp.float32
    assert np.abs(got - want).max() <= 5e-6 * np.abs(want).max()
    want_leaves = leaves(want_gradient)
    for name, leaf in leaves(got_gradient).items():
        error = np.abs(leaf - want_leaves[name]).max()
        assert error <= 1e-5 * np.abs(want_leaves[name]).max(), name


def test_cpu_logits_are_not_flax_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "logits_flax", None)
    shape = jax.eval_shape(model.logits, params_of((2, 2), 4), images_of(3)).shape
    assert shape == (3, model.CLASSES)


def test_parameters_have_flax_s_names_and_shapes() -> None:
    params = leaves(init(jax.random.key(0), (32, 64), 256))
    assert {name: leaf.shape for name, leaf in params.items()} == {
        "conv1.kernel": (3, 3, 1, 32),
        "conv1.bias": (32,),
        "conv2.kernel": (3, 3, 32, 64),
        "conv2.bias": (64,),
        "dense1.kernel": (7 * 7 * 64, 256),
        "dense1.bias": (256,),
        "dense2.kernel": (256, 10),
        "dense2.bias": (10,),
    }
    assert {leaf.dtype for leaf in params.values()} == {np.dtype(np.float32)}
    assert sum(leaf.size for leaf in params.values()) == 824_458


def test_initial_weights_are_lecun_normal_and_drawn_from_the_key() -> None:
    params, same, other = (leaves(init(jax.random.key(key), (32, 64), 256)) for key in (0, 0, 1))
    for name, leaf in params.items():
        assert np.array_equal(leaf, same[name])
        if name.endswith("bias"):
            assert not leaf.any()
        else:
            assert not np.isclose(leaf, other[name]).all()
            inputs = leaf.size / leaf.shape[-1]
            assert leaf.std() == pytest.approx(inputs**-0.5, rel=0.15)


@pytest.mark.parametrize("logits", [model.logits, logits_flax])
def test_pixels_are_divided_by_255(logits: Logits) -> None:
    params, images = params_of((2, 3), 8), images_of(2)
    module = model.CNN((2, 3), 8, rngs=nnx.Rngs(0))
    nnx.update(module, params)
    with jax.numpy_dtype_promotion("standard"):
        want = module(jnp.asarray(np.asarray(images) / np.float32(255)))
    got = jax.jit(logits)(params, images)
    assert np.allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_pixels_that_are_not_uint8_are_refused() -> None:
    with pytest.raises(TypeError, match="images"):
        model.logits(params_of((2, 2), 4), images_of(3).astype(jnp.float32))
