"""The two halves of one cluster's VAE, frames to features and latents to frames: STORM's convolutions, or patches.

Patches are plain matrix products: squares of an eighth of the image's height and width. On a CPU core they learn to see
Atari games in half the time of small convolutions or less (results/atari_cpu/search.md).
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mow_jax.ops import convolution
from mow_jax.ops.norm import LayerNorm
from mow_jax.systems.mow.blocks import (
    ACTIVATIONS,
    Convolution,
    ConvolutionBlock,
    Linear,
    Pool,
    normalised_activation,
    uniform,
)

MAP = 4  # every encoder ends, every decoder starts at 4 x 4
PATCHES = 8  # patches in a row of an image, whatever its size
CONTRAST = 4.0  # frames come in [-2, 2]: about unit variance
BRIGHTNESS = 5.0  # the background's unit: under Adam it is learned so many times faster


def blocks(image_size: int) -> int:
    """Convolution blocks between an image and the 4 x 4 map."""
    return int(math.log2(image_size // MAP))


class Half(nn.Module):
    """The sizes of an encoder or a decoder."""

    image_size: int
    channels: int  # of the first convolution, or of a patch
    norm: str = "batch"  # batch, rms or none; a decoder of patches has a layer norm instead
    activation: str = "relu"
    dtype: Any = jnp.float32


class Encoder(Half):
    """Frames [N, S, S, 3] in [0, 1] to the flattened 4 x 4 map [N, 16 * channels * 2^(blocks - 1)]."""

    @property
    def features(self) -> int:
        """The length of its output."""
        return MAP * MAP * self.channels * 2 ** (blocks(self.image_size) - 1)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, pool: Pool) -> jax.Array:
        for i in range(blocks(self.image_size)):
            block = ConvolutionBlock(
                self.channels * 2**i, False, self.norm, self.activation, self.dtype, name=f"block_{i}"
            )
            x = block(x, train, pool)
        return x.reshape(x.shape[0], -1)


class Decoder(Half):
    """Latents [N, Z] and embeddings [N, E] to frames in blocks [N, S/2 + 1, S/2 + 1, 12], no output nonlinearity.

    See ops/convolution.py; what lies outside of the frame has no meaning.
    """

    @nn.compact
    def __call__(self, z: jax.Array, embedding: jax.Array, train: bool, pool: Pool) -> jax.Array:
        count = blocks(self.image_size)
        top = self.channels * 2 ** (count - 1)
        x = jnp.concatenate([z.astype(self.dtype), embedding.astype(self.dtype)], axis=-1)
        x = Linear(MAP * MAP * top, bias=False, dtype=self.dtype, name="stem")(x).reshape(-1, MAP, MAP, top)
        x = normalised_activation(x, self.norm, self.activation, self.dtype, train, pool)
        for i in reversed(range(count - 1)):
            block = ConvolutionBlock(
                self.channels * 2**i, True, self.norm, self.activation, self.dtype, name=f"block_{i}"
            )
            x = block(x, train, pool)
        x = Convolution(3, True, self.dtype, to_blocks=True, name="out")(x)
        bias = self.param("bias", uniform(1 / math.sqrt(3 * 16)), (3,))
        return x.astype(jnp.float32) + jnp.tile(bias, 4)


class PatchEncoder(Half):
    """Frames [N, S, S, 3] in [0, 1] to features [N, 16 * channels]: a linear map for every patch, one for all of them.

    The norm over the batch takes away what all frames have in common. Without it the decoder learns the background
    before latents say anything, and they are given up as noise.
    """

    @property
    def features(self) -> int:
        """The length of its output."""
        return 16 * self.channels

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, pool: Pool) -> jax.Array:
        x = Linear(self.channels, dtype=self.dtype, name="patch")(CONTRAST * (to_patches(x) - 0.5))
        x = ACTIVATIONS[self.activation](x).reshape(x.shape[0], -1)
        x = Linear(self.features, bias=False, dtype=self.dtype, name="frame")(x)
        return normalised_activation(x, self.norm, self.activation, self.dtype, train, pool)


class PatchDecoder(Half):
    """The same way back, added to a learned background: latents [N, Z] and embeddings [N, E] to frames in patches."""

    @nn.compact
    def __call__(self, z: jax.Array, embedding: jax.Array, train: bool, pool: Pool) -> jax.Array:
        size = 3 * (self.image_size // PATCHES) ** 2
        x = jnp.concatenate([z.astype(self.dtype), embedding.astype(self.dtype)], axis=-1)
        x = Linear(16 * self.channels, bias=False, dtype=self.dtype, name="frame")(x)
        x = ACTIVATIONS[self.activation](LayerNorm(epsilon=1e-5, dtype=self.dtype)(x))
        x = ACTIVATIONS[self.activation](Linear(PATCHES**2 * self.channels, dtype=self.dtype, name="patches")(x))
        x = x.reshape(-1, PATCHES**2, self.channels)
        x = Linear(size, bias=False, scale=0.1, dtype=self.dtype, name="patch")(x).astype(jnp.float32)
        return x + BRIGHTNESS * self.param("background", nn.initializers.zeros, (PATCHES**2, size))


def to_patches(x: jax.Array) -> jax.Array:
    """Images [N, S, S, C] as patches [N, 64, C (S / 8)^2], row by row."""
    n, s, _, c = x.shape
    size = s // PATCHES
    x = x.reshape(n, PATCHES, size, PATCHES, size * c).swapaxes(2, 3)
    return x.reshape(n, PATCHES**2, size * size * c)


def from_patches(x: jax.Array) -> jax.Array:
    """The images [N, S, S, 3] of patches [N, 64, 3 (S / 8)^2]."""
    size = math.isqrt(x.shape[-1] // 3)
    x = x.reshape(-1, PATCHES, PATCHES, size, size * 3).swapaxes(2, 3)
    return x.reshape(-1, PATCHES * size, PATCHES * size, 3)


MODULES = {"convolutions": (Encoder, Decoder), "patches": (PatchEncoder, PatchDecoder)}


def to_frames(decoded: jax.Array) -> jax.Array:
    """The frames [N, S, S, 3] of what a decoder gives: patches [N, 64, 3 (S / 8)^2], or blocks [N, S/2 + 1, ...]."""
    return from_patches(decoded) if decoded.ndim == 3 else convolution.from_blocks(decoded)


def squared_error(decoded: jax.Array, frames: jax.Array) -> jax.Array:
    """[B * T] summed over the pixels of uint8 frames [B, T, S, S, 3] and of what a decoder gives for them."""
    frames = frames.reshape(-1, *frames.shape[2:])
    if decoded.ndim == 3:
        return ((decoded - to_patches(frames).astype(jnp.float32) / 255) ** 2).sum((-2, -1))
    inside = convolution.to_blocks(jnp.ones((1, *frames.shape[1:])))
    target = convolution.to_blocks(frames.astype(jnp.float32) / 255)
    return ((decoded * inside - target) ** 2).sum((-3, -2, -1))
