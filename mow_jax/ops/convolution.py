"""Convolutions of 4x4 kernels with stride 2 and padding 1, each written as matrix products.

Equal to `lax.conv` and its transpose, but under vmap over parameter rows they become batched matrix products instead of
grouped convolutions. Each is the other's derivative, which spares the slow scatter that autodiff would write. The large
side of a product is an image in blocks of 2x2 pixels: block (i, j) holds the pixels 2i - 1 and 2i of the columns 2j - 1
and 2j, row by row. What they cost is memory traffic, so that shifted copies are made of whichever side of a product is
narrower. Used by models.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

GROUP = 4096  # positions of a group, about, in a kernel's gradient


def downsample(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution, kernel 4x4, stride 2, padding 1: [N, H, W, C] and [4, 4, C, O] to [N, H/2, W/2, O]."""
    return downsample_blocks(to_blocks(x), kernel)


def upsample(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution, kernel 4x4, stride 2, padding 1: [N, H, W, C] and [4, 4, C, O] to [N, 2H, 2W, O].

    Output pixel 2i - 1 + k receives x[i] kernel[k], as in PyTorch's ConvTranspose2d.
    """
    return from_blocks(upsample_blocks(x, kernel))


@jax.custom_vjp
def to_blocks(x: jax.Array) -> jax.Array:
    """Images [N, H, W, C] as blocks [N, H/2 + 1, W/2 + 1, 4 C], zero around the image."""
    n, h, w, c = x.shape
    rows = _pad(x).reshape(n, h // 2 + 1, 2, w // 2 + 1, 2 * c)
    return jnp.concatenate([rows[:, :, 0], rows[:, :, 1]], axis=-1)  # on CPUs half the time of a transpose


@jax.custom_vjp
def from_blocks(blocks: jax.Array) -> jax.Array:
    """The images [N, H, W, C] inside blocks [N, H/2 + 1, W/2 + 1, 4 C]."""
    n, h, w, c = blocks.shape
    rows = blocks.reshape(n, h, w, 2, c // 2).swapaxes(2, 3)
    return rows.reshape(n, 2 * h, 2 * w, c // 4)[:, 1:-1, 1:-1]


@jax.custom_vjp
def downsample_blocks(blocks: jax.Array, kernel: jax.Array) -> jax.Array:
    """`downsample` of images in blocks: [N, H + 1, W + 1, 4 C] to [N, H, W, O]."""
    o = kernel.shape[-1]
    # Row 2a + p of the kernel is row p of the 2x2 block a.
    kernel = kernel.reshape(2, 2, 2, 2, -1, o).transpose(0, 2, 1, 3, 4, 5).reshape(4, -1, o)
    if _input_is_narrower(blocks.shape[-1], o):
        return jnp.concatenate(_corners(blocks), axis=-1) @ kernel.reshape(-1, o)
    y = blocks @ kernel.swapaxes(0, 1).reshape(-1, 4 * o)
    return sum(_corners(part)[i] for i, part in enumerate(jnp.split(y, 4, axis=-1)))


@jax.custom_vjp
def upsample_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`upsample` to images in blocks: [N, H, W, C] to [N, H + 1, W + 1, 4 O], with what falls outside of the image."""
    c, o = kernel.shape[-2:]
    # The block between x[m-1] and x[m] holds the pixels 2m - 1 (taps 2 and 0) and 2m (taps 3 and 1).
    taps = jnp.array([[2, 3], [0, 1]])  # [neighbour, pixel]
    kernel = kernel[taps][:, :, taps].transpose(0, 2, 4, 1, 3, 5).reshape(4 * c, 4 * o)
    return jnp.concatenate(_corners(_pad(x)), axis=-1) @ kernel


def _input_is_narrower(block: int, features: int) -> bool:
    """Whether four copies of the input's 2x2 blocks hold less than four of the output's features."""
    return block <= features


def _pad(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _corners(x: jax.Array) -> list[jax.Array]:
    """The four shifted views [N, H-1, W-1, C] of the 2x2 neighbourhoods of x [N, H, W, C], row by row."""
    return [x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]]


def _kernel_gradient(blocks: jax.Array, small: jax.Array) -> jax.Array:
    """[4, 4, C, O]: correlation of the 4x4 patches of blocks [N, H + 1, W + 1, 4 C] with small [N, H, W, O]."""
    block, o = blocks.shape[-1], small.shape[-1]
    if _input_is_narrower(block, o):
        kernel = _contract(jnp.concatenate(_corners(blocks), axis=-1), small)
    else:  # corner i of the blocks at a position is the block itself at the position shifted the other way
        kernel = _contract(blocks, jnp.concatenate(_corners(_pad(small)), axis=-1))
        kernel = kernel.reshape(block, 4, o).swapaxes(0, 1)[::-1]
    kernel = kernel.reshape(2, 2, 2, 2, block // 4, o).transpose(0, 2, 1, 3, 4, 5)
    return kernel.reshape(4, 4, block // 4, o)


def _contract(a: jax.Array, b: jax.Array) -> jax.Array:
    """[I, O], the product of a [N, H, W, I] and b [N, H, W, O] summed over all positions.

    In groups of images: a group is transposed inside the cache; all positions at once took twice as long.
    """
    images = 2 ** max(round(math.log2(GROUP / math.prod(a.shape[1:3]))), 0)
    groups = a.shape[0] // math.gcd(images, a.shape[0])
    a, b = a.reshape(groups, -1, a.shape[-1]), b.reshape(groups, -1, b.shape[-1])
    return jnp.einsum("gri,gro->gio", a, b).sum(0)


def _downsample_backward(saved, gradient):
    blocks, kernel = saved
    return upsample_blocks(gradient, kernel.swapaxes(-1, -2)), _kernel_gradient(blocks, gradient)


def _upsample_backward(saved, gradient):
    x, kernel = saved
    return downsample_blocks(gradient, kernel.swapaxes(-1, -2)), _kernel_gradient(gradient, x).swapaxes(-1, -2)


to_blocks.defvjp(lambda x: (to_blocks(x), None), lambda _, gradient: (from_blocks(gradient),))
from_blocks.defvjp(lambda blocks: (from_blocks(blocks), None), lambda _, gradient: (to_blocks(gradient),))
downsample_blocks.defvjp(
    lambda blocks, kernel: (downsample_blocks(blocks, kernel), (blocks, kernel)), _downsample_backward
)
upsample_blocks.defvjp(lambda x, kernel: (upsample_blocks(x, kernel), (x, kernel)), _upsample_backward)
