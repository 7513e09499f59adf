"""Convolutions of 4x4 kernels with stride 2 and padding 1, each written as one matrix product.

Equal to `lax.conv` and its transpose, but under vmap over parameter rows they become batched matrix products instead of
grouped convolutions. Each is the other's derivative, which spares the slow scatter that autodiff would write. Used
by models/blocks.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


@jax.custom_vjp
def downsample(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution, kernel 4x4, stride 2, padding 1: [N, H, W, C] and [4, 4, C, O] to [N, H/2, W/2, O]."""
    # Row 2a + p of the kernel is row p of the 2x2 block a.
    blocks = kernel.reshape(2, 2, 2, 2, *kernel.shape[2:]).transpose(0, 2, 1, 3, 4, 5)
    return _patches(x) @ blocks.reshape(-1, kernel.shape[-1])


@jax.custom_vjp
def upsample(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution, kernel 4x4, stride 2, padding 1: [N, H, W, C] and [4, 4, C, O] to [N, 2H, 2W, O].

    Output pixel 2i - 1 + k receives x[i] kernel[k], as in PyTorch's ConvTranspose2d.
    """
    (n, h, w, c), o = x.shape, kernel.shape[-1]
    x = jnp.concatenate(_corners(_pad(x)), axis=-1)
    # The corner between x[m-1] and x[m] yields the outputs 2m - 1 (taps 2 and 0) and 2m (taps 3 and 1).
    taps = jnp.array([[2, 3], [0, 1]])  # [neighbour, output]
    kernel = kernel[taps][:, :, taps].transpose(0, 2, 4, 1, 3, 5).reshape(4 * c, 4 * o)
    y = (x @ kernel).reshape(n, h + 1, w + 1, 2, 2, o).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(n, 2 * h + 2, 2 * w + 2, o)[:, 1:-1, 1:-1]


def _patches(x: jax.Array) -> jax.Array:
    """[N, H, W, C] to the 4x4 patches [N, H/2, W/2, 16 C] that a stride of 2 meets: space-to-depth, shifted views."""
    n, h, w, c = x.shape
    x = _pad(x).reshape(n, h // 2 + 1, 2, w // 2 + 1, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return jnp.concatenate(_corners(x.reshape(n, h // 2 + 1, w // 2 + 1, 4 * c)), axis=-1)


def _pad(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _corners(x: jax.Array) -> list[jax.Array]:
    """The four shifted views [N, H-1, W-1, C] of the 2x2 neighbourhoods of x [N, H, W, C], row by row."""
    return [x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]]


def _kernel_gradient(large: jax.Array, small: jax.Array) -> jax.Array:
    """[4, 4, C, O]: correlation of the 4x4 patches of large [N, 2H, 2W, C] with small [N, H, W, O]."""
    c, o = large.shape[-1], small.shape[-1]
    blocks = _patches(large).reshape(-1, 16 * c).T @ small.reshape(-1, o)
    return blocks.reshape(2, 2, 2, 2, c, o).transpose(0, 2, 1, 3, 4, 5).reshape(4, 4, c, o)


def _downsample_backward(saved, gradient):
    x, kernel = saved
    return upsample(gradient, kernel.swapaxes(-1, -2)), _kernel_gradient(x, gradient)


def _upsample_backward(saved, gradient):
    x, kernel = saved
    return downsample(gradient, kernel.swapaxes(-1, -2)), _kernel_gradient(gradient, x).swapaxes(-1, -2)


downsample.defvjp(lambda x, kernel: (downsample(x, kernel), (x, kernel)), _downsample_backward)
upsample.defvjp(lambda x, kernel: (upsample(x, kernel), (x, kernel)), _upsample_backward)
