"""Convolutions of 4x4 kernels with stride 2 and padding 1, each written as matrix products.

Equal to `lax.conv` and its transpose, but under vmap over parameter rows they become batched matrix products instead of
grouped convolutions. Each is the other's derivative, which spares the slow scatter that autodiff would write. The large
side of a product is an image in blocks of 2x2 pixels: block (i, j) holds the pixels 2i - 1 and 2i of the columns 2j - 1
and 2j, row by row. What they cost is memory traffic, so that shifted copies are made of whichever side of a product is
narrower. Used by systems.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

GROUP = 4096  # positions of a group of images, about


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
        return _in_groups(lambda part: jnp.concatenate(_corners(part), axis=-1) @ kernel.reshape(-1, o), blocks)
    kernel = kernel.swapaxes(0, 1).reshape(-1, 4 * o)
    corners = lambda y: [_corners(part)[i] for i, part in enumerate(jnp.split(y, 4, axis=-1))]
    return _in_groups(lambda part: sum(corners(part @ kernel)), blocks)


@jax.custom_vjp
def upsample_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`upsample` to images in blocks: [N, H, W, C] to [N, H + 1, W + 1, 4 O], with what falls outside of the image."""
    c, o = kernel.shape[-2:]
    # The block between x[m-1] and x[m] holds the pixels 2m - 1 (taps 2 and 0) and 2m (taps 3 and 1).
    taps = jnp.array([[2, 3], [0, 1]])  # [neighbour, pixel]
    kernel = kernel[taps][:, :, taps].transpose(0, 2, 4, 1, 3, 5)
    if _input_is_narrower(c, 4 * o):
        kernel = kernel.reshape(4 * c, 4 * o)
        return _in_groups(lambda part: jnp.concatenate(_corners(_pad(part)), axis=-1) @ kernel, x)
    kernel = kernel.reshape(4, c, 4 * o).swapaxes(0, 1).reshape(c, 16 * o)
    corners = lambda y: [_corners(_pad(part))[i] for i, part in enumerate(jnp.split(y, 4, axis=-1))]
    return _in_groups(lambda part: sum(corners(part @ kernel)), x)


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
        kernel = _contract(lambda x: jnp.concatenate(_corners(x), axis=-1), lambda y: y, blocks, small)
    else:  # corner i of the blocks at a position is the block itself at the position shifted the other way
        kernel = _contract(lambda x: x, lambda y: jnp.concatenate(_corners(_pad(y)), axis=-1), blocks, small)
        kernel = kernel.reshape(block, 4, o).swapaxes(0, 1)[::-1]
    kernel = kernel.reshape(2, 2, 2, 2, block // 4, o).transpose(0, 2, 1, 3, 4, 5)
    return kernel.reshape(4, 4, block // 4, o)


def _contract(left: Callable, right: Callable, x: jax.Array, y: jax.Array) -> jax.Array:
    """[I, O], the product of left(x) [N, H, W, I] and right(y) [N, H, W, O] summed over all positions.

    In groups of images: a group is transposed inside the cache; all positions at once took twice as long.
    """
    size = _group(x)

    def product(x: jax.Array, y: jax.Array) -> jax.Array:
        grouped = lambda z: z.reshape(-1, size * math.prod(z.shape[1:3]), z.shape[-1])
        return jnp.einsum("gri,gro->gio", grouped(left(x)), grouped(right(y))).sum(0, dtype=jnp.float32)

    if not _one_by_one(x):
        return product(x, y).astype(x.dtype)
    part = lambda i: product(*(jax.lax.dynamic_slice_in_dim(z, i * size, size) for z in (x, y)))
    return jax.lax.fori_loop(1, x.shape[0] // size, lambda i, total: total + part(i), part(0)).astype(x.dtype)


def _in_groups(function: Callable, x: jax.Array) -> jax.Array:
    """function(x) [N, ...] of images [N, ...], on CPUs a group of them at a time."""
    if not _one_by_one(x):
        return function(x)
    size = _group(x)
    part = lambda i: function(jax.lax.dynamic_slice_in_dim(x, i * size, size))
    shape = jax.eval_shape(part, 0)
    write = lambda i, y: jax.lax.dynamic_update_slice_in_dim(y, part(i), i * size, 0)
    return jax.lax.fori_loop(0, x.shape[0] // size, write, jnp.zeros((x.shape[0], *shape.shape[1:]), shape.dtype))


def _group(x: jax.Array) -> int:
    """Images of x [N, H, W, C] in a group, at most some GROUP positions: a divisor of N."""
    most = 2 ** max(round(math.log2(GROUP / math.prod(x.shape[1:3]))), 0)
    return max(size for size in range(1, min(most, x.shape[0]) + 1) if x.shape[0] % size == 0)


def _one_by_one(x: jax.Array) -> bool:
    """Whether groups come one after the other: on CPUs, where shifted copies of all images at once are fresh memory
    that the system has to zero, and leave the cache before they are used."""
    return jax.default_backend() == "cpu" and _group(x) < x.shape[0]


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
