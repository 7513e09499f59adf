"""The temporal module of one task: mixers and expert Transformers of its n_k rows, then the shared Transformer.

h_t = f(z_0..z_t, a_0..a_t). Change how experts are mixed here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mow_jax.ops.norm import LayerNorm
from mow_jax.systems.mow.blocks import Cache, Linear, Transformer


class Mixer(nn.Module):
    """m_j: tokens [..., Z + A + E] to width D (STORM's stem)."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Linear(self.width, bias=False, dtype=self.dtype)(x)
        x = nn.relu(LayerNorm(epsilon=1e-5, dtype=self.dtype)(x))
        x = Linear(self.width, bias=False, dtype=self.dtype)(x)
        return LayerNorm(epsilon=1e-5, dtype=self.dtype)(x)


class Expert(nn.Module):
    """Mixer m_j followed by the expert Transformer f_j; without blocks the mixer alone."""

    width: int
    transformer: Transformer | None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, token, mask, cache=None, place=0, deterministic: bool = True):
        x = Mixer(self.width, self.dtype, name="mixer")(token)
        return (x, ()) if self.transformer is None else self.transformer(x, mask, cache, place, deterministic)


class Shared(nn.Module):
    """Bias-free linear of [l_k, e_k] to D and the shared Transformer F; without blocks just the linear or identity."""

    width: int
    transformer: Transformer | None
    experts: int  # n_k
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, outputs, embedding, mask, cache=None, place=0, deterministic: bool = True):
        if self.transformer is None and self.experts == 1:
            return outputs, ()
        x = jnp.concatenate([outputs, embedding.astype(outputs.dtype)], axis=-1)
        x = Linear(self.width, bias=False, dtype=self.dtype, name="combine")(x)
        if self.transformer is None:
            return x, ()
        return self.transformer(x, mask, cache, place, deterministic)


class DynamicsCache(NamedTuple):
    """Keys and values of the n_k experts (a leading axis [n_k]) and of the shared Transformer."""

    experts: Cache
    shared: Cache


class Dynamics(NamedTuple):
    """The two stages as modules, applied to one task's rows."""

    expert: Expert
    shared: Shared

    def init(self, key: jax.Array, experts: int, token_size: int, embedding_size: int) -> tuple[Any, Any]:
        """Stacked expert rows [N_e, ...] and the shared parameters."""
        token, mask = jnp.zeros((1, 1, token_size)), jnp.ones((1, 1, 1), bool)
        keys = jax.random.split(key, experts + 1)
        rows = jax.vmap(lambda k: self.expert.init(k, token, mask)["params"])(keys[1:])
        outputs = jnp.zeros((1, 1, self.shared.experts * self.expert.width))
        shared = self.shared.init(keys[0], outputs, jnp.zeros((1, 1, embedding_size)), mask)
        return rows, shared.get("params", {})

    def apply(self, rows, shared, gate, token, embedding, mask, cache=None, place=0, dropout_key=None):
        """Hidden states [B, T, D] and the new cache.

        rows: the task's expert rows [n_k, ...]; gate [n_k] factors on their outputs; token [B, T, Z + A + E];
        embedding [E]; mask [B, T, L]. Dropout is on when a `dropout_key` is given.
        """
        deterministic = dropout_key is None
        keys = None if deterministic else jax.random.split(dropout_key, self.shared.experts + 1)

        def run(row, expert_cache, key):
            rngs = None if key is None else {"dropout": key}
            return self.expert.apply({"params": row}, token, mask, expert_cache, place, deterministic, rngs=rngs)

        expert_cache = None if cache is None else cache.experts
        in_axes = (0, None if cache is None else 0, None if keys is None else 0)
        outputs, expert_cache = jax.vmap(run, in_axes)(rows, expert_cache, None if keys is None else keys[1:])
        outputs = jnp.moveaxis((outputs * gate[:, None, None, None]).astype(self.expert.dtype), 0, -2)
        outputs = outputs.reshape(*outputs.shape[:-2], -1)
        embedding = jnp.broadcast_to(embedding, (*outputs.shape[:-1], embedding.shape[-1]))
        rngs = None if keys is None else {"dropout": keys[0]}
        shared_cache = None if cache is None else cache.shared
        hidden, shared_cache = self.shared.apply(
            {"params": shared}, outputs, embedding, mask, shared_cache, place, deterministic, rngs=rngs
        )
        return hidden, DynamicsCache(expert_cache, shared_cache)

    def empty_cache(self, batch: int, length: int) -> DynamicsCache:
        """Zeroed keys and values for `batch` rollouts of at most `length` tokens."""

        def make(transformer: Transformer | None, lead: tuple[int, ...]) -> Cache:
            if transformer is None:
                return ()
            heads = transformer.heads
            shape = (*lead, batch, length, heads, self.expert.width // heads)
            zeros = jnp.zeros(shape, transformer.dtype)
            return tuple((zeros, zeros) for _ in range(transformer.layers))

        return DynamicsCache(make(self.expert.transformer, (self.shared.experts,)), make(self.shared.transformer, ()))
