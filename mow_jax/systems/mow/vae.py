"""The convolution stacks of one cluster's VAE: frames to features, latents to frames (STORM's stacks)."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mow_jax.ops import convolution
from mow_jax.systems.mow.blocks import Convolution, ConvolutionBlock, Linear, Pool, normalised_activation, uniform

MAP = 4  # every encoder ends, every decoder starts at 4 x 4


def blocks(image_size: int) -> int:
    """Convolution blocks between an image and the 4 x 4 map."""
    return int(math.log2(image_size // MAP))


class Encoder(nn.Module):
    """Frames [N, S, S, 3] in [0, 1] to the flattened 4 x 4 map [N, 16 * channels * 2^(blocks - 1)]."""

    image_size: int
    channels: int
    norm: str = "batch"
    activation: str = "relu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, pool: Pool) -> jax.Array:
        for i in range(blocks(self.image_size)):
            block = ConvolutionBlock(
                self.channels * 2**i, False, self.norm, self.activation, self.dtype, name=f"block_{i}"
            )
            x = block(x, train, pool)
        return x.reshape(x.shape[0], -1)


class Decoder(nn.Module):
    """Latents [N, Z] and embeddings [N, E] to frames in blocks [N, S/2 + 1, S/2 + 1, 12], no output nonlinearity.

    See ops/convolution.py; what lies outside of the frame has no meaning.
    """

    image_size: int
    channels: int
    norm: str = "batch"
    activation: str = "relu"
    dtype: Any = jnp.float32

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


def squared_error(blocks: jax.Array, frames: jax.Array) -> jax.Array:
    """[B * T] summed over the pixels of uint8 frames [B, T, S, S, 3] and of their reconstructions in blocks."""
    frames = frames.reshape(-1, *frames.shape[2:])
    inside = convolution.to_blocks(jnp.ones((1, *frames.shape[1:])))
    target = convolution.to_blocks(frames.astype(jnp.float32) / 255)
    return ((blocks * inside - target) ** 2).sum((-3, -2, -1))
