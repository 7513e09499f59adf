"""The feed-forward layer of the token Transformer: experts chosen token by token, or one dense layer.

No task id, noise, capacity or balance loss enters the choice. Used by transformer.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mow_jax.ops.precision import EXACT

XAVIER = nn.initializers.xavier_uniform()


def select(logits: jax.Array, active: int, gate_norm: str) -> tuple[jax.Array, jax.Array]:
    """Weights and indices [N, k] of the k experts with the largest gate logits [N, N_e].

    gate_norm "topk" takes the softmax over the chosen ones: with k = 1 it is 1, and no gradient reaches the gate (the
    released code). "all" takes it over all experts before choosing.
    """
    top, index = jax.lax.top_k(logits, active)
    if gate_norm == "topk":
        return jax.nn.softmax(top), index
    return jnp.take_along_axis(jax.nn.softmax(logits), index, axis=-1), index


class Activity(NamedTuple):
    """How strongly hidden units have reacted, of M experts with F units each."""

    total: jax.Array  # [M, F] sums of |h| over an expert's tokens
    tokens: jax.Array  # [M]


def activity(hidden: jax.Array, chosen: jax.Array, experts: int) -> Activity:
    """Of hidden units [T, F] of tokens whose experts are `chosen` [T]. A product: a scatter would add in any order."""
    one_hot = jax.nn.one_hot(chosen, experts)
    size = jax.lax.stop_gradient(jnp.abs(hidden.astype(jnp.float32)))
    return Activity(jnp.matmul(one_hot.T, size, precision=EXACT), one_hot.sum(0))


def mix(x: jax.Array, weight: jax.Array, index: jax.Array, w1: jax.Array, w2: jax.Array, w3: jax.Array):
    """y[i] = sum_j weight[i, j] E_index[i, j](x[i]), E(x) = W2 (SiLU(W1 x) * W3 x), and the experts' Activity.

    x [N, D]; weight, index [N, k]; w1, w3 [N_e, D, F]; w2 [N_e, F, D]. The N k pairs are sorted by expert, so that each
    expert multiplies its own tokens alone. Not for use under vmap: `ragged_dot` has none with shared weights.
    """
    count, active = index.shape
    chosen = index.reshape(-1)
    order = jnp.argsort(chosen, stable=True)
    sizes = (chosen[:, None] == jnp.arange(len(w1))).sum(0, dtype=jnp.int32)
    rows = x[order // active]
    hidden = nn.silu(jax.lax.ragged_dot(rows, w1, sizes)) * jax.lax.ragged_dot(rows, w3, sizes)
    y = jax.lax.ragged_dot(hidden, w2, sizes)
    y = jnp.zeros_like(y).at[order].set(y, unique_indices=True).reshape(count, active, -1)
    return (y * weight[..., None].astype(y.dtype)).sum(1), activity(hidden, chosen[order], len(w1))


class Mixture(nn.Module):
    """Top-k of N_e SwiGLU experts a token plus an expert that is always on: [N, T, D] to [N, T, D].

    Leaves in "intermediates" the share of tokens that each expert takes, [N_e], as "load", and every expert's Activity.
    """

    experts: int  # N_e
    active: int  # k
    shared: int  # width of the expert that is always on, in units of 4 D; 0: none
    gate_norm: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width, hidden = x.shape[-1], 4 * x.shape[-1]
        gate = self.param("gate", XAVIER, (width, self.experts))
        stacked = nn.initializers.xavier_uniform(batch_axis=(0,))
        shapes = {"w1": (width, hidden), "w2": (hidden, width), "w3": (width, hidden)}
        experts = {name: self.param(name, stacked, (self.experts, *shape)) for name, shape in shapes.items()}
        flat = x.reshape(-1, width)
        # In float32: a rounding would send a token to another expert.
        weight, index = select(jnp.matmul(flat.astype(jnp.float32), gate, precision=EXACT), self.active, self.gate_norm)
        self.sow("intermediates", "load", (index[..., None] == jnp.arange(self.experts)).mean((0, 1)))
        experts = {name: leaf.astype(self.dtype) for name, leaf in experts.items()}
        y, reacted = mix(flat.astype(self.dtype), weight, index, **experts)
        self.sow("intermediates", "activity", reacted)
        if not self.shared:
            return y.reshape(x.shape)
        dense = lambda features, name: nn.Dense(features, dtype=self.dtype, kernel_init=XAVIER, name=name)
        h = nn.gelu(dense(self.shared * hidden, "shared_in")(x), approximate=False)
        self.sow("intermediates", "activity", _of_all(h))
        return y.reshape(x.shape) + dense(width, "shared_out")(h)


def _of_all(hidden: jax.Array) -> Activity:
    """Of units [N, T, F] that every token goes through."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    return activity(flat, jnp.zeros(len(flat), jnp.int32), 1)


class FeedForward(nn.Module):
    """Linear to `shared` 4 D, GELU, linear to D: with one 4 D the dense backbone of multi-task UniZero."""

    shared: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = lambda features, name: nn.Dense(features, dtype=self.dtype, kernel_init=XAVIER, name=name)
        h = nn.gelu(dense(self.shared * 4 * x.shape[-1], "in")(x), approximate=True)
        self.sow("intermediates", "activity", _of_all(h))
        return dense(x.shape[-1], "out")(h)
