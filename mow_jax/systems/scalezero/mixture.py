"""The feed-forward layer of the token Transformer: experts chosen token by token, or one dense layer.

No task id, noise, capacity or balance loss enters the choice. Used by transformer.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mow_jax.ops.linear import linear
from mow_jax.ops.precision import EXACT

BLOCK = 32  # the least rows of a block: smaller ones read more weights than they save products
XAVIER = nn.initializers.xavier_uniform()


class Dense(nn.Module):
    """[..., I] to [..., features]; the bias starts at 0."""

    features: int
    bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Any = XAVIER
    precision: jax.lax.Precision | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.bias else None
        return linear(x, kernel, bias, self.dtype, self.precision)


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

    total: jax.Array  # [M, F] sums of |h| over an expert's tokens that count
    tokens: jax.Array  # [M] how many of them


def counts(valid: jax.Array | None, tokens: int) -> jax.Array:
    """Which of the tokens of tasks in order count [N], 1 or 0, by the tasks' valid [K']: not those of places that only
    fill up a device. None: all."""
    return jnp.ones(tokens) if valid is None else jnp.repeat(valid, tokens // len(valid))


def activity(hidden: jax.Array, counted: jax.Array, owner: jax.Array) -> Activity:
    """Of hidden units [N, B, F] of blocks whose experts are `owner` [N, M], one-hot; counted [N, B]: 0 for tokens that
    do not count and where a block has none."""
    owner = owner.T.astype(jnp.float32)
    size = jax.lax.stop_gradient((jnp.abs(hidden.astype(jnp.float32)) * counted[..., None]).sum(1))
    return Activity(jnp.matmul(owner, size, precision=EXACT), (owner * counted.sum(1)).sum(1))


def mix(
    x: jax.Array, weight: jax.Array, index: jax.Array, counted: jax.Array, w1: jax.Array, w2: jax.Array, w3: jax.Array
):
    """y[i] = sum_j weight[i, j] E_index[i, j](x[i]), E(x) = W2 (SiLU(W1 x) * W3 x), and the experts' Activity over the
    counted.

    x [N, D]; weight, index [N, k]; counted [N]; w1, w3 [N_e, D, F]; w2 [N_e, F, D]. The N k pairs go in blocks of one
    expert each, filled up with zeros: fewer than 3 N_e blocks, one batched product. (`lax.ragged_dot` multiplies all
    pairs with all experts where no kernel of the device's own does better.)
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
    copies = jnp.repeat(x.astype(jnp.float32), active, axis=0).astype(x.dtype)  # their gradients' sum is in float32
    rows = rows.at[place].set(copies, unique_indices=True).reshape(number, size, -1)
    hidden = nn.silu(rows @ of_block(w1)) * (rows @ of_block(w3))
    y = (hidden @ of_block(w2)).reshape(number * size, -1)
    y = y.at[place].get(unique_indices=True).reshape(count, active, -1)
    counted = jnp.zeros(number * size).at[place].set(jnp.repeat(counted, active), unique_indices=True)
    reacted = activity(hidden, counted.reshape(number, size), owner)
    # In float32: a gate's gradient is a sum over D.
    return (y.astype(jnp.float32) * weight[..., None]).sum(1).astype(x.dtype), reacted


class Mixture(nn.Module):
    """Top-k of N_e SwiGLU experts a token plus an expert that is always on: [N, T, D] to [N, T, D].

    Leaves in "intermediates" how many tokens each expert takes, [N_e], as "load", and every expert's Activity; both of
    the tokens that count by the tasks' valid [K'].
    """

    experts: int  # N_e
    active: int  # k
    shared: int  # width of the expert that is always on, in units of 4 D; 0: none
    gate_norm: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        width, hidden = x.shape[-1], 4 * x.shape[-1]
        gate = self.param("gate", XAVIER, (width, self.experts))
        stacked = nn.initializers.xavier_uniform(batch_axis=(0,))
        shapes = {"w1": (width, hidden), "w2": (hidden, width), "w3": (width, hidden)}
        experts = {name: self.param(name, stacked, (self.experts, *shape)) for name, shape in shapes.items()}
        flat = x.reshape(-1, width)
        # In float32: a rounding would send a token to another expert.
        weight, index = select(jnp.matmul(flat.astype(jnp.float32), gate, precision=EXACT), self.active, self.gate_norm)
        experts = {name: leaf.astype(self.dtype) for name, leaf in experts.items()}
        counted = counts(valid, len(flat))
        y, reacted = mix(flat.astype(self.dtype), weight, index, counted, **experts)
        self.sow("intermediates", "load", reacted.tokens)
        self.sow("intermediates", "activity", reacted)
        if not self.shared:
            return y.reshape(x.shape)
        dense = lambda features, name: Dense(features, dtype=self.dtype, name=name)
        h = nn.gelu(dense(self.shared * hidden, "shared_in")(x), approximate=False)
        self.sow("intermediates", "activity", _of_all(h, counted))
        return y.reshape(x.shape) + dense(width, "shared_out")(h)


def _of_all(hidden: jax.Array, counted: jax.Array) -> Activity:
    """Of units [N, T, F] that every token goes through; counted [N T]."""
    return activity(hidden.reshape(1, -1, hidden.shape[-1]), counted[None], jnp.ones((1, 1)))


class FeedForward(nn.Module):
    """Linear to `shared` 4 D, GELU, linear to D: with one 4 D the dense backbone of multi-task UniZero."""

    shared: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        dense = lambda features, name: Dense(features, dtype=self.dtype, name=name)
        h = nn.gelu(dense(self.shared * 4 * x.shape[-1], "in")(x), approximate=True)
        self.sow("intermediates", "activity", _of_all(h, counts(valid, h[..., 0].size)))
        return dense(x.shape[-1], "out")(h)
