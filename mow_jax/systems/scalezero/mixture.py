"""The feed-forward layer of the token Transformer: experts chosen token by token, or one dense layer.

No task id, noise, capacity or balance loss enters the choice. Used by transformer.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mow_jax.ops.precision import EXACT

BLOCK = 32  # the least rows of a block: smaller ones read more weights than they save products
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


def activity(hidden: jax.Array, owner: jax.Array, tokens: jax.Array) -> Activity:
    """Of hidden units [N, B, F] of blocks whose experts are `owner` [N, M], one-hot; tokens [M], how many each has."""
    size = jax.lax.stop_gradient(jnp.abs(hidden.astype(jnp.float32)).sum(1))
    return Activity(jnp.matmul(owner.T.astype(jnp.float32), size, precision=EXACT), tokens)


def mix(x: jax.Array, weight: jax.Array, index: jax.Array, w1: jax.Array, w2: jax.Array, w3: jax.Array):
    """y[i] = sum_j weight[i, j] E_index[i, j](x[i]), E(x) = W2 (SiLU(W1 x) * W3 x), and the experts' Activity.

    x [N, D]; weight, index [N, k]; w1, w3 [N_e, D, F]; w2 [N_e, F, D]. The N k pairs go in blocks of one expert each,
    filled up with zeros: fewer than 3 N_e blocks, one batched product. (`lax.ragged_dot` multiplies all pairs with all
    experts where no kernel of the device's own does better.)
    """
    (count, active), experts = index.shape, len(w1)
    size = max(BLOCK, -(-count * active // (2 * experts)))
    chosen = (index.reshape(-1, 1) == jnp.arange(experts)).astype(jnp.int32)
    tokens = chosen.sum(0)
    blocks = -(-tokens // size)
    last = jnp.cumsum(blocks)
    place = (chosen * (jnp.cumsum(chosen, 0) - 1 + (last - blocks) * size)).sum(1)  # of each pair
    number = -(-count * active // size) + experts - 1  # no fewer, however the pairs fall
    owner = jax.nn.one_hot((jnp.arange(number)[:, None] >= last).sum(1), experts, dtype=x.dtype)
    of_block = lambda w: (owner @ w.reshape(experts, -1)).reshape(number, *w.shape[1:])

    rows = jnp.zeros((number * size, x.shape[1]), x.dtype)
    rows = rows.at[place].set(jnp.repeat(x, active, axis=0), unique_indices=True).reshape(number, size, -1)
    hidden = nn.silu(rows @ of_block(w1)) * (rows @ of_block(w3))
    y = (hidden @ of_block(w2)).reshape(number * size, -1)
    y = y.at[place].get(unique_indices=True).reshape(count, active, -1)
    return (y * weight[..., None].astype(y.dtype)).sum(1), activity(hidden, owner, tokens.astype(jnp.float32))


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
    flat = hidden.reshape(1, -1, hidden.shape[-1])
    return activity(flat, jnp.ones((1, 1)), jnp.full(1, float(flat.shape[1])))


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
