"""The CNN: 3×3×32, ReLU, pool, 3×3×64, ReLU, pool, dense 256, ReLU, dense 10."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from mnist_tune import conv

CLASSES = 10

Params = dict[str, dict[str, Array]]
"""Layer → ``kernel`` and ``bias``, in Flax's shapes (convolutions ``[3, 3, inputs, outputs]``)."""


class CNN(nnx.Module):
    """The network as Flax writes it: what defines the parameters and the right answer.

    Args:
        features: channels of the two convolutions.
        dense_units: units of the hidden dense layer.
        rngs: where the initial weights come from (LeCun normal, zero biases).
    """

    def __init__(self, features: tuple[int, int], dense_units: int, *, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(1, features[0], (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(features[0], features[1], (3, 3), rngs=rngs)
        self.dense1 = nnx.Linear(7 * 7 * features[1], dense_units, rngs=rngs)
        self.dense2 = nnx.Linear(dense_units, CLASSES, rngs=rngs)

    def __call__(self, x: Float[Array, "batch 28 28 1"]) -> Float[Array, "batch 10"]:
        """Returns logits, float32 ``[batch, 10]``, of pixels in [0, 1]."""
        x = nnx.avg_pool(nnx.relu(self.conv1(x)), (2, 2), (2, 2))
        x = nnx.avg_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
        x = nnx.relu(self.dense1(x.reshape(x.shape[0], -1)))
        logits: Array = self.dense2(x)
        return logits


def init(key: PRNGKeyArray, features: tuple[int, int], dense_units: int) -> Params:
    """Draws initial parameters.

    Args:
        key: a JAX random key; may be traced.
        features: channels of the two convolutions.
        dense_units: units of the hidden dense layer.
    """
    model = CNN(features, dense_units, rngs=nnx.Rngs(key))
    params: Params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    return params


def logits(params: Params, images: UInt8[Array, "batch 28 28 1"]) -> Float[Array, "batch 10"]:
    """The network's logits, in the form that is fastest on the default device.

    Args:
        params: the parameters.
        images: uint8 ``[batch, 28, 28, 1]``.

    Returns:
        float32 ``[batch, 10]``.
    """
    on_cpu = jax.default_backend() == "cpu"
    return _logits_cpu(params, images) if on_cpu else logits_flax(params, images)


def logits_flax(params: Params, images: UInt8[Array, "batch 28 28 1"]) -> Float[Array, "batch 10"]:
    """The logits by the Flax module itself: the reference, and the fast way on a GPU."""
    kernel = params["conv2"]["kernel"]
    shape = (kernel.shape[2], kernel.shape[3])
    dense_units = params["dense1"]["bias"].shape[0]
    model = nnx.eval_shape(lambda: CNN(shape, dense_units, rngs=nnx.Rngs(0)))
    nnx.update(model, params)
    result: Array = model(images.astype(jnp.float32) / 255.0)
    return result


def _logits_cpu(params: Params, images: Array) -> Array:
    """The logits with Winograd convolutions over micro-batches, images innermost."""
    batch = images.shape[0]
    micro_batches = -(-batch // conv.MICRO_BATCH)
    padding = micro_batches * conv.MICRO_BATCH - batch
    x = jnp.pad(images[..., 0], ((0, padding), (0, 0), (0, 0)))
    x = x.reshape(micro_batches, conv.MICRO_BATCH, 28, 28).transpose(0, 2, 3, 1)
    x = x.astype(jnp.float32) / 255.0

    kernel1, bias1 = params["conv1"]["kernel"], params["conv1"]["bias"]
    u2, bias2 = conv.winograd_filter(params["conv2"]["kernel"]), params["conv2"]["bias"]

    def trunk(_: None, x: Array) -> tuple[None, Array]:
        x = conv.relu_pool(conv.first_conv3x3(x, kernel1), bias1)
        x = conv.conv3x3(x.reshape(-1, 14, 14, conv.MICRO_BATCH), u2)
        x = conv.relu_pool(x, bias2).reshape(-1, 7, 7, conv.MICRO_BATCH)
        return None, x.transpose(3, 1, 2, 0)

    _, x = lax.scan(trunk, None, x)
    x = x.reshape(micro_batches * conv.MICRO_BATCH, -1)[:batch]
    x = jax.nn.relu(x @ params["dense1"]["kernel"] + params["dense1"]["bias"])
    return x @ params["dense2"]["kernel"] + params["dense2"]["bias"]
