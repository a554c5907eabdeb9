"""The 3×3 convolution in the form that is fastest on a CPU: Winograd's F(2×2, 3×3).

A 2×2 tile of the output of a 3×3 convolution needs a 4×4 tile of the input: 36
multiplications a channel pair. Winograd's minimal filtering does it in 16:

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A

with d the 4×4 input tile, g the 3×3 kernel and the constant matrices G, B, A below. The
sum over input channels moves inside the brackets, where the elementwise product becomes 16
independent matrix products. Both gradients have the same form: the transposed transforms,
and the same 16 products.

Three more choices make it fast:

* Arrays are (channel, row, column, image) with the image innermost, so that every matrix
  product has the form that the CPU's library runs at its peak, and every transform is
  additions of long contiguous rows.
* A convolution returns its output as the four *phases* of the 2×2 pooling window, which is
  what the transform produces. Pooling is then three additions, with no data moved.
* The caller runs the convolutions over micro-batches of ``MICRO_BATCH`` images, so that
  the working set stays in the cache.

Reference: Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016
(arXiv 1509.09308), section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

MICRO_BATCH = 16
"""Images a micro-batch; 16 and 32 were fastest of 4, 8, 16, 32, 128 on a server core."""

_Row = list[Array]
_Tile = list[_Row]

_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)


def winograd_filter(
    kernel: Float[Array, "3 3 inputs outputs"],
) -> Float[Array, "16 outputs inputs"]:
    """Transforms a kernel: U = G g Gᵀ, once a step for all micro-batches.

    Args:
        kernel: float32 ``[3, 3, inputs, outputs]``, Flax's layout.

    Returns:
        float32 ``[16, outputs, inputs]``, the 4×4 transformed taps first.
    """
    u = jnp.einsum("ai,ijco,bj->aboc", _G, kernel, _G, precision="highest")
    return u.reshape(16, kernel.shape[3], kernel.shape[2])


@jax.custom_vjp
def conv3x3(
    x: Float[Array, "inputs height width batch"], u: Float[Array, "16 outputs inputs"]
) -> Float[Array, "4 outputs positions"]:
    """A 3×3 convolution, stride 1, zero padding 1, as the four phases of the 2×2 pool window.

    Args:
        x: float32 ``[inputs, height, width, batch]``, height and width even.
        u: float32 ``[16, outputs, inputs]`` from ``winograd_filter``.

    Returns:
        float32 ``[4, outputs, height/2 · width/2 · batch]``: phase 2i + j holds the output
        pixels at odd (i = 1) or even rows and odd (j = 1) or even columns.
    """
    m = jnp.einsum("toc,tcn->ton", u, _input_transform(x))
    tile = [[m[4 * i + j] for j in range(4)] for i in range(4)]
    return _stack(_both_ways(_a_transposed, tile))


def _conv3x3_forward(x: Array, u: Array) -> tuple[Array, tuple[Array, Array]]:
    return conv3x3(x, u), (x, u)


def _conv3x3_backward(residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, u = residuals
    # Without the barrier XLA recomputes dy's producers in each of the 16 fusions below.
    dy = lax.optimization_barrier(dy)
    dm = _stack(_both_ways(_a, [[dy[0], dy[1]], [dy[2], dy[3]]]))
    du = jnp.einsum("ton,tcn->toc", dm, _input_transform(x))
    dv = jnp.einsum("toc,ton->tcn", u, dm)
    return _input_transform_transposed(dv, x.shape), du


conv3x3.defvjp(_conv3x3_forward, _conv3x3_backward)


def first_conv3x3(
    x: Float[Array, "height width batch"], kernel: Float[Array, "3 3 1 outputs"]
) -> Float[Array, "4 outputs positions"]:
    """The same convolution of one input channel that needs no gradient, as one product.

    With one channel Winograd's products would be outer products; instead each 4×4 input tile
    (16 numbers) is multiplied by a [4 · outputs, 16] matrix that holds the kernel at its four
    places in the tile.

    Args:
        x: float32 ``[height, width, batch]``, height and width even.
        kernel: float32 ``[3, 3, 1, outputs]``.

    Returns:
        float32 ``[4, outputs, height/2 · width/2 · batch]``, phases as in ``conv3x3``.
    """
    patches = _stack(_tiles(x[None]))[:, 0].reshape(16, -1)
    taps = kernel[:, :, 0, :].transpose(2, 0, 1)
    placed = jnp.stack(
        [jnp.pad(taps, ((0, 0), (i, 1 - i), (j, 1 - j))) for i in (0, 1) for j in (0, 1)]
    )
    return jnp.einsum("pok,kn->pon", placed.reshape(4, -1, 16), patches)


def relu_pool(
    phases: Float[Array, "4 channels positions"], bias: Float[Array, " channels"]
) -> Float[Array, "channels positions"]:
    """Adds the bias, applies ReLU and averages the 2×2 window: over the four phases.

    Four additions and not ``.mean(0)``, which XLA's CPU compiler makes 37 times slower.
    """
    y = jax.nn.relu(phases + bias[:, None])
    return 0.25 * (y[0] + y[1] + y[2] + y[3])


def _tiles(x: Array) -> _Tile:
    """The overlapping 4×4 tiles of zero-padded x: a 4×4 list of [c, h/2, w/2, batch]."""
    c, h, w, b = x.shape
    t, s = h // 2, w // 2
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(c, t + 1, 2, s + 1, 2, b)
    return [
        [padded[:, i // 2 : i // 2 + t, i % 2, j // 2 : j // 2 + s, j % 2] for j in range(4)]
        for i in range(4)
    ]


def _input_transform(x: Array) -> Array:
    """V = Bᵀ d B of every tile: [c, h, w, batch] → [16, c, h/2 · w/2 · batch]."""
    return _stack(_both_ways(_b_transposed, _tiles(x))).reshape(16, x.shape[0], -1)


def _input_transform_transposed(dv: Array, shape: tuple[int, ...]) -> Array:
    """The transpose of ``_input_transform``: B dv Bᵀ, overlapping tiles added up."""
    c, h, w, b = shape
    t, s = h // 2, w // 2
    square = dv.reshape(4, 4, c, t, s, b)
    e = _both_ways(_b, [[square[i, j] for j in range(4)] for i in range(4)])

    def phase(i: int, j: int) -> Array:
        # Cropped phase by phase: a crop of the whole, fused into ReLU's mask, is 12× slower.
        parts = [
            jnp.pad(e[2 * q + i][2 * r + j], ((0, 0), (q, 1 - q), (r, 1 - r), (0, 0)))
            for q in (0, 1)
            for r in (0, 1)
        ]
        total = parts[0] + parts[1] + parts[2] + parts[3]
        return total[:, 1 - i : 1 - i + t, 1 - j : 1 - j + s]

    rows = [jnp.stack([phase(i, j) for j in (1, 0)], 3) for i in (1, 0)]
    return jnp.stack(rows, 2).reshape(shape)


def _both_ways(transform: Callable[[_Row], _Row], tile: _Tile) -> _Tile:
    """Applies a one-dimensional transform to the rows and to the columns of a tile."""
    columns = [transform([row[j] for row in tile]) for j in range(len(tile[0]))]
    return [transform([column[i] for column in columns]) for i in range(len(columns[0]))]


def _stack(tile: _Tile) -> Array:
    return jnp.stack([entry for row in tile for entry in row])


def _b_transposed(d: _Row) -> _Row:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _b(v: _Row) -> _Row:
    return [v[0], v[1] - v[2] + v[3], v[1] + v[2] - v[0], -v[3]]


def _a_transposed(m: _Row) -> _Row:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _a(y: _Row) -> _Row:
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]
