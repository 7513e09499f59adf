"""Convolutions of 4x4 kernels with stride 2 and padding 1, each written as one matrix product.

Equal to `lax.conv` and its transpose, but under vmap over parameter rows they become batched matrix products instead of
grouped convolutions. Used by models/vae.py; docs/performance.md holds the measurement.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def downsample(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution, kernel 4x4, stride 2, padding 1: [N, H, W, C] and [4, 4, C, O] to [N, H/2, W/2, O]."""
    n, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = x.reshape(n, h // 2 + 1, 2, w // 2 + 1, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // 2 + 1, w // 2 + 1, 4 * c)
    x = jnp.concatenate(_corners(x), axis=-1)
    # Row 2a + p of the kernel is row p of block a.
    kernel = kernel.reshape(2, 2, 2, 2, c, -1).transpose(0, 2, 1, 3, 4, 5).reshape(16 * c, -1)
    return x @ kernel


def upsample(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution, kernel 4x4, stride 2, padding 1: [N, H, W, C] and [4, 4, C, O] to [N, 2H, 2W, O].

    Output pixel 2i - 1 + k receives x[i] kernel[k], as in PyTorch's ConvTranspose2d.
    """
    n, h, w, c = x.shape
    o = kernel.shape[-1]
    x = jnp.concatenate(_corners(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))), axis=-1)
    # The corner between x[m-1] and x[m] yields the outputs 2m - 1 (taps 2 and 0) and 2m (taps 3 and 1).
    taps = jnp.array([[2, 3], [0, 1]])  # [neighbour, output]
    kernel = kernel[taps][:, :, taps].transpose(0, 2, 4, 1, 3, 5).reshape(4 * c, 4 * o)
    y = (x @ kernel).reshape(n, h + 1, w + 1, 2, 2, o).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(n, 2 * h + 2, 2 * w + 2, o)[:, 1:-1, 1:-1]


def _corners(x: jax.Array) -> list[jax.Array]:
    """The four shifted views [N, H-1, W-1, C] of the 2x2 neighbourhoods of x [N, H, W, C], row by row."""
    return [x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]]
