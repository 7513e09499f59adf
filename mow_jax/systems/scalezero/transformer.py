"""The token Transformer: pre-norm blocks of biased attention and a feed-forward layer, one batch for all tasks.

Its parameters are shared by all tasks and it never sees which task a sequence is of. Used by world_model.py and, for
`drop`, encoder.py.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mow_jax.ops.norm import LayerNorm
from mow_jax.systems.scalezero.mixture import Dense

Cache = tuple[tuple[jax.Array, jax.Array], ...]  # keys and values [N, T, heads, D / heads] of every block


def drop(x: jax.Array, keys: jax.Array | None, rate: float, place: tuple[str, ...]) -> jax.Array:
    """Dropout of x [K' B, ...] by one key a task [K'] and the name of the place: the same on any number of devices."""
    if keys is None or not rate:
        return x
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, zlib.crc32("/".join(place).encode()))
    shape = (len(x) // len(keys), *x.shape[1:])
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(keys).reshape(x.shape)
    return jnp.where(keep, x / (1 - rate), 0)


class Attention(nn.Module):
    """Multi-head self-attention with biases, to a cache's tokens and to each other as mask [N, T, L + T] allows."""

    heads: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x, mask, cache, keys):
        width = x.shape[-1]
        dense = lambda name: Dense(width, dtype=self.dtype, name=name)
        split = lambda y: y.reshape(*y.shape[:-1], self.heads, width // self.heads)
        query, key, value = (split(dense(name)(x)) for name in ("query", "key", "value"))
        if cache is not None:
            key, value = (jnp.concatenate(pair, axis=1) for pair in zip(cache, (key, value), strict=True))
        score = jnp.einsum("bqhd,bkhd->bhqk", query / math.sqrt(query.shape[-1]), key).astype(jnp.float32)
        weight = jax.nn.softmax(jnp.where(mask[:, None], score, -1e9)).astype(self.dtype)
        weight = drop(weight, keys, self.dropout, (*self.path, "weight"))
        y = jnp.einsum("bhqk,bkhd->bqhd", weight, value).reshape(x.shape)
        return drop(dense("out")(y), keys, self.dropout, self.path), (key, value)


class Transformer(nn.Module):
    """Blocks x + attention(norm x), x + feed-forward(norm x), and a last norm.

    Tokens x [N, T, D] without positions; mask [N, T, L + T], L the length of the cache (0 without one). Returns
    [N, T, D] and the cache with these tokens in it. Dropout is on when one key a task [K'] is given; valid [K']: of
    which tasks the layers' own words are.
    """

    layers: int
    heads: int
    feed_forward: Callable[..., nn.Module]  # makes the layer of a block
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, mask, cache: Cache | None = None, keys=None, valid=None):
        norm = lambda name: LayerNorm(epsilon=1e-5, dtype=self.dtype, name=name)
        x, new_cache = drop(x.astype(self.dtype), keys, self.dropout, self.path), []
        for i in range(self.layers):
            attention = Attention(self.heads, self.dropout, self.dtype, name=f"attention_{i}")
            y, seen = attention(norm(f"norm_{i}")(x), mask, None if cache is None else cache[i], keys)
            x, name = x + y, f"feed_forward_{i}"
            y = self.feed_forward(dtype=self.dtype, name=name)(norm(f"second_norm_{i}")(x), valid)
            x = x + drop(y, keys, self.dropout, (*self.path, name))
            new_cache.append(seen)
        return norm("last_norm")(x), tuple(new_cache)
