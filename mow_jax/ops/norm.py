"""Layer norm with a gradient of its own: from the input and two numbers a row, where autodiff of flax's writes out what
is as large as the input several times (on CPUs that took ten times as long). Used by systems."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class LayerNorm(nn.Module):
    """flax's LayerNorm over the last axis: the same parameters, sums in float32, the result [..., D] in `dtype`."""

    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = x.shape[-1:]
        scale, bias = self.param("scale", nn.initializers.ones, shape), self.param("bias", nn.initializers.zeros, shape)
        return layer_norm(self.epsilon, self.dtype, x, scale, bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def layer_norm(epsilon: float, dtype: Any, x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """(x - mean) / deviation * scale + bias of x [..., D], with scale and bias [D] in float32."""
    return _forward(epsilon, dtype, x, scale, bias)[0]


def _forward(epsilon: float, dtype: Any, x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple:
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    variance = jnp.maximum((wide * wide).mean(-1, keepdims=True) - mean * mean, 0.0)
    inverse = jax.lax.rsqrt(variance + epsilon)
    return ((wide - mean) * inverse * scale + bias).astype(dtype), (x, scale, mean, inverse)


def _backward(epsilon: float, dtype: Any, saved: tuple, gradient: jax.Array) -> tuple:
    x, scale, mean, inverse = saved
    gradient = gradient.astype(jnp.float32)
    unit = (x.astype(jnp.float32) - mean) * inverse
    scaled, rows = gradient * scale, tuple(range(x.ndim - 1))
    along, across = scaled.mean(-1, keepdims=True), (scaled * unit).mean(-1, keepdims=True)
    of_x = inverse * (scaled - along - unit * across)
    return of_x.astype(x.dtype), (gradient * unit).sum(rows), gradient.sum(rows)


layer_norm.defvjp(_forward, _backward)
