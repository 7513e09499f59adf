"""Frames to latents, shared by all tasks: a vision Transformer, or the convolution stack of MoW's encoder with norms.

Both end in a linear map to D and a LayerNorm. Used by world_model.py.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mow_jax.ops.convolution import downsample
from mow_jax.ops.linear import added
from mow_jax.ops.norm import LayerNorm
from mow_jax.systems.scalezero.mixture import Dense
from mow_jax.systems.scalezero.transformer import drop

MAP = 4  # the convolution stack ends at 4 x 4


class VisionTransformer(nn.Module):
    """Frames [N, S, S, 3] in [0, 1] to latents [N, D]: the class token of pre-norm blocks over square patches."""

    features: int  # D
    patch: int  # pixels of a patch's side
    width: int
    layers: int
    heads: int
    head_width: int
    hidden: int  # of the feed-forward layers
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frames: jax.Array, keys=None) -> jax.Array:
        norm = lambda name: LayerNorm(epsilon=1e-5, dtype=self.dtype, name=name)
        dense = lambda features, name: Dense(features, dtype=self.dtype, name=name)
        x = norm("patch_norm")(patches(frames.astype(self.dtype), self.patch))
        x = norm("token_norm")(dense(self.width, "patches")(x))
        first = self.param("class_token", nn.initializers.normal(1.0), (1, self.width))
        first = added(jnp.zeros((len(x), 1, self.width)), first, x.dtype)
        x = jnp.concatenate([first, x], axis=1)
        x = added(x, self.param("positions", nn.initializers.normal(1.0), x.shape[1:]), x.dtype)
        x = self._drop(x, keys)
        for i in range(self.layers):
            x = x + self._attention(norm(f"norm_{i}")(x), keys, f"attention_{i}")
            y = nn.gelu(dense(self.hidden, f"in_{i}")(norm(f"second_norm_{i}")(x)), approximate=False)
            y = dense(self.width, f"out_{i}")(self._drop(y, keys, f"in_{i}"))
            x = x + self._drop(y, keys, f"out_{i}")
        x = dense(self.features, "last")(norm("last_norm")(x)[:, 0])
        return norm("latent_norm")(x)

    def _attention(self, x: jax.Array, keys, name: str) -> jax.Array:
        """Attention of all tokens [N, P, width] to all, its projections without biases but the last."""
        shape = (*x.shape[:-1], 3, self.heads, self.head_width)
        project = Dense(math.prod(shape[2:]), False, self.dtype, name=f"{name}_qkv")
        query, key, value = jnp.moveaxis(project(x).reshape(shape), 2, 0)
        score = jnp.einsum("bqhd,bkhd->bhqk", query / math.sqrt(self.head_width), key).astype(jnp.float32)
        weight = self._drop(jax.nn.softmax(score).astype(self.dtype), keys, name, "weight")
        y = jnp.einsum("bhqk,bkhd->bqhd", weight, value).reshape(*x.shape[:-1], -1)
        y = Dense(self.width, dtype=self.dtype, name=f"{name}_out")(y)
        return self._drop(y, keys, name)

    def _drop(self, x: jax.Array, keys, *place: str) -> jax.Array:
        """Dropout at a place whose name the token Transformer has not: its draws would be the same."""
        return drop(x, keys, self.dropout, ("encoder", *self.path, *place))


def patches(frames: jax.Array, size: int) -> jax.Array:
    """[N, S, S, C] as rows of square patches [N, (S / size)^2, size^2 C], pixels row by row, channels last."""
    n, side, _, channels = frames.shape
    x = frames.reshape(n, side // size, size, side // size, size, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, (side // size) ** 2, size * size * channels)


class Convolutions(nn.Module):
    """Frames [N, S, S, 3] in [0, 1] to latents [N, D]: 4 x 4 convolutions of stride 2, each with norm and GELU."""

    features: int  # D
    channels: int  # of the first block; twice as many in every further one
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frames: jax.Array, keys=None) -> jax.Array:
        del keys  # no dropout here
        x = frames.astype(self.dtype)
        for i in range(int(math.log2(frames.shape[1] // MAP))):
            shape = (4, 4, x.shape[-1], self.channels * 2**i)
            kernel = self.param(f"kernel_{i}", nn.initializers.he_normal(), shape)
            x = downsample(x, kernel.astype(self.dtype))
            x = nn.gelu(LayerNorm(epsilon=1e-5, dtype=self.dtype, name=f"norm_{i}")(x))
        x = Dense(self.features, dtype=self.dtype, name="last")(x.reshape(len(x), -1))
        return LayerNorm(epsilon=1e-5, dtype=self.dtype, name="latent_norm")(x)
