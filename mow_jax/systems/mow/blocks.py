"""Layers shared by all networks: PyTorch-initialised linear maps, norms, the head MLP and STORM's Transformer.

Parameters are float32; `dtype` is the precision of the matrix products. Norms and softmax are taken in float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mow_jax.ops import convolution
from mow_jax.ops.linear import linear
from mow_jax.ops.norm import LayerNorm

Pool = Callable[[jax.Array], jax.Array]  # sums a statistic over the tasks that share this row of parameters
Cache = tuple[tuple[jax.Array, jax.Array], ...]  # keys and values [B, L, heads, D / heads] of every block

ACTIVATIONS = {"relu": nn.relu, "silu": nn.silu}


def uniform(bound: float) -> Callable[..., jax.Array]:
    """An initialiser that draws from [-bound, bound]."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class Linear(nn.Module):
    """[..., I] to [..., features]; weights and bias start uniform in +-scale / sqrt(I), at scale 1 as in PyTorch."""

    features: int
    bias: bool = True
    scale: float = 1.0
    dtype: Any = jnp.float32
    precision: jax.lax.Precision | None = None  # of the product; None: jax's default

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bound = self.scale / math.sqrt(x.shape[-1])
        kernel = self.param("kernel", uniform(bound), (x.shape[-1], self.features))
        bias = self.param("bias", uniform(bound), (self.features,)) if self.bias else None
        return linear(x, kernel, bias, self.dtype, self.precision)


class Convolution(nn.Module):
    """4x4, stride 2, padding 1, no bias: [N, H, W, C] to [N, H/2, W/2, features], or `transposed` to twice the size.

    `to_blocks`: of a transposed one, the image in blocks; see ops/convolution.py.
    """

    features: int
    transposed: bool = False
    dtype: Any = jnp.float32
    to_blocks: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fan = 16 * (self.features if self.transposed else x.shape[-1])  # PyTorch's rule for each kind
        kernel = self.param("kernel", uniform(1 / math.sqrt(fan)), (4, 4, x.shape[-1], self.features))
        enlarge = convolution.upsample_blocks if self.to_blocks else convolution.upsample
        convolve = enlarge if self.transposed else convolution.downsample
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype))


class BatchNorm(nn.Module):
    """Batch norm over all but the last axis, its batch statistics pooled over the tasks that share the row.

    Training normalises by the batch and moves the running statistics by `momentum` (variance unbiased, as in PyTorch);
    otherwise the running statistics are used. `activation` follows.
    """

    activation: str
    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, pool: Pool) -> jax.Array:
        shape = x.shape[-1:]
        scale, bias = self.param("scale", nn.initializers.ones, shape), self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        mean, var = running_mean.value, running_var.value
        if train:
            y = x.astype(jnp.float32)
            axes = tuple(range(x.ndim - 1))
            count = pool(jnp.float32(math.prod(x.shape[:-1])))
            mean, square = pool(y.sum(axes)) / count, pool((y * y).sum(axes)) / count
            var = jnp.maximum(square - mean**2, 0.0)
            if not self.is_initializing():
                unbiased = var * count / jnp.maximum(count - 1, 1)
                running_mean.value = (1 - self.momentum) * running_mean.value + self.momentum * mean
                running_var.value = (1 - self.momentum) * running_var.value + self.momentum * unbiased
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return scaled_activation(self.activation, x, factor, bias - mean * factor)


def _scaled(activation: str, x: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
    """activation(x factor + offset) of x [..., C], with factor and offset [C] and their gradients in float32."""
    return ACTIVATIONS[activation]((x.astype(jnp.float32) * factor + offset).astype(x.dtype))


def _scaled_forward(activation: str, *arguments: jax.Array) -> tuple:
    return _scaled(activation, *arguments), arguments


def _scaled_backward(activation: str, arguments: tuple, gradient: jax.Array) -> tuple:
    """As autodiff has it, but with x scaled anew for its own gradient and for the sums: XLA would otherwise write out
    what the two have in common, which takes longer."""
    x, *scaling = arguments
    once = jax.lax.optimization_barrier(scaling)
    twice = jax.lax.optimization_barrier(once)
    _, of_x = jax.vjp(lambda x: _scaled(activation, x, *once), x)
    _, of_scaling = jax.vjp(functools.partial(_scaled, activation, x), *twice)
    return *of_x(gradient), *of_scaling(gradient)


scaled_activation = jax.custom_vjp(_scaled, nondiff_argnums=(0,))
scaled_activation.defvjp(_scaled_forward, _scaled_backward)


class ConvolutionBlock(nn.Module):
    """Convolution, norm ("batch", "rms" or "none"), activation."""

    features: int
    transposed: bool
    norm: str
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, pool: Pool) -> jax.Array:
        x = Convolution(self.features, self.transposed, self.dtype)(x)
        return normalised_activation(x, self.norm, self.activation, self.dtype, train, pool)


def normalised_activation(x, norm: str, activation: str, dtype: Any, train: bool, pool: Pool) -> jax.Array:
    """Norm and activation of a feature map, inside the compact method of the calling module."""
    if norm == "batch":
        return BatchNorm(activation)(x, train, pool)
    if norm == "rms":
        x = nn.RMSNorm(epsilon=1e-5, dtype=dtype)(x)
    return ACTIVATIONS[activation](x)


class Head(nn.Module):
    """STORM's MLP head: `depth` times (linear without bias, LayerNorm, activation), then a linear map to `features`."""

    features: int
    width: int
    depth: int = 2
    activation: str = "relu"
    zero: bool = False  # start the output at zero
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(self.depth):
            x = Linear(self.width, bias=False, dtype=self.dtype)(x)
            x = ACTIVATIONS[self.activation](LayerNorm(epsilon=1e-5, dtype=self.dtype)(x))
        return Linear(self.features, scale=0.0 if self.zero else 1.0, dtype=self.dtype)(x)


class Attention(nn.Module):
    """Post-norm multi-head self-attention, all maps without bias."""

    heads: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x, mask, cache, place, deterministic: bool):
        width = x.shape[-1]
        project = lambda name: Linear(width, bias=False, dtype=self.dtype, name=name)(x).reshape(
            *x.shape[:-1], self.heads, width // self.heads
        )
        query, key, value = project("query"), project("key"), project("value")
        if cache is not None:
            start = (0, place, 0, 0)
            key = jax.lax.dynamic_update_slice(cache[0], key, start)
            value = jax.lax.dynamic_update_slice(cache[1], value, start)
        written, reach = (key, value), mask.shape[-1]
        key, value = key[:, :reach], value[:, :reach]
        score = jnp.einsum("bqhd,bkhd->bhqk", query / math.sqrt(query.shape[-1]), key).astype(jnp.float32)
        weight = jax.nn.softmax(jnp.where(mask[:, None], score, -1e9))
        weight = nn.Dropout(self.dropout)(weight.astype(self.dtype), deterministic=deterministic)
        y = jnp.einsum("bhqk,bkhd->bqhd", weight, value).reshape(x.shape)
        y = nn.Dropout(self.dropout)(
            Linear(width, bias=False, dtype=self.dtype, name="out")(y), deterministic=deterministic
        )
        return LayerNorm(epsilon=1e-6, dtype=self.dtype)(x + y), written


class FeedForward(nn.Module):
    """Post-norm feed-forward block of twice the width."""

    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x, deterministic: bool):
        width = x.shape[-1]
        y = nn.relu(Linear(2 * width, dtype=self.dtype)(x))
        y = nn.Dropout(self.dropout)(Linear(width, dtype=self.dtype)(y), deterministic=deterministic)
        return LayerNorm(epsilon=1e-6, dtype=self.dtype)(x + y)


class Transformer(nn.Module):
    """STORM's Transformer without its stem: learned positions, LayerNorm, post-norm blocks.

    Tokens x [B, T, D] attend as mask [B, T, L] allows: to each other (L = T), or, with a cache of L places or more in
    which they are written from `place` on, to everything written to its first L places so far. A token's position is
    the number of tokens that it sees before it, so that training, imagination and acting agree wherever a window or an
    episode begins; beyond the last of `positions` it is that one, as imagination goes on behind the longest episode.
    Returns [B, T, D] and the new cache.
    """

    layers: int
    heads: int
    max_length: int
    positions: int  # that windows train, at most max_length
    dropout: float = 0.0
    position_scale: float = 1.0  # deviation of the initial position vectors
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, mask, cache: Cache | None = None, place=0, deterministic: bool = True):
        table = self.param("positions", nn.initializers.normal(self.position_scale), (self.max_length, x.shape[-1]))
        seen = mask.sum(-1)
        if self.positions < self.max_length:
            seen = jnp.minimum(seen, self.positions)
        # A product with one-hot rows: the gradient of a gather would be a scatter with repeated indices.
        position = jax.nn.one_hot(seen - 1, self.max_length, dtype=self.dtype)
        x = x + position @ table.astype(self.dtype)
        x = LayerNorm(epsilon=1e-6, dtype=self.dtype)(x)
        new_cache = []
        for layer in range(self.layers):
            block_cache = None if cache is None else cache[layer]
            attention = Attention(self.heads, self.dropout, self.dtype, name=f"attention_{layer}")
            x, written = attention(x, mask, block_cache, place, deterministic)
            x = FeedForward(self.dropout, self.dtype, name=f"feed_forward_{layer}")(x, deterministic)
            new_cache.append(written)
        return x, tuple(new_cache)


def causal_mask(segment: jax.Array) -> jax.Array:
    """Mask [B, T, T]: a token sees itself and earlier ones of its own episode, by segment numbers [B, T]."""
    time = jnp.arange(segment.shape[-1])
    return (time[:, None] >= time[None, :]) & (segment[:, :, None] == segment[:, None, :])
