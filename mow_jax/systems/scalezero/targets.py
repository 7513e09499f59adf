"""What value and reward heads learn: n-step returns, and scalars as categories on MuZero's scale."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mow_jax.ops.precision import EXACT

_EPSILON = 1e-3


def squash(x: jax.Array) -> jax.Array:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + 0.001 x."""
    return jnp.sign(x) * (jnp.sqrt(jnp.abs(x) + 1) - 1) + _EPSILON * x


def expand(y: jax.Array) -> jax.Array:
    """The inverse of h."""
    # r = sqrt(|x| + 1) solves r + 0.001 r^2 = |y| + 1.001; in this form nothing large is subtracted.
    z = jnp.abs(y) + 1 + _EPSILON
    root = 2 * z / (1 + jnp.sqrt(1 + 4 * _EPSILON * z))
    return jnp.sign(y) * (root * root - 1)


def categories(x: jax.Array, bins: int, smoothing: float = 0.0) -> jax.Array:
    """Two neighbouring of `bins` integers around zero share h(x), [...] to [..., bins]; mixed with the uniform."""
    limit = (bins - 1) // 2
    distance = jnp.abs(jnp.clip(squash(x), -limit, limit)[..., None] - jnp.arange(-limit, limit + 1))
    return (1 - smoothing) * jnp.maximum(1 - distance, 0) + smoothing / bins


def scalar(logits: jax.Array) -> jax.Array:
    """What logits [..., bins] stand for: h^-1 of the mean bin."""
    limit = (logits.shape[-1] - 1) // 2
    p, bins = jax.nn.softmax(logits.astype(jnp.float32)), jnp.arange(-limit, limit + 1, dtype=jnp.float32)
    return expand(jnp.matmul(p, bins, precision=EXACT))


def cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Cross-entropy [...] of a distribution [..., C] under logits [..., C]; zero where the target is all zero."""
    return -(target * jax.nn.log_softmax(logits.astype(jnp.float32))).sum(-1)


def n_step(
    reward: jax.Array, value: jax.Array, termination: jax.Array, is_first: jax.Array, gamma: float, steps: int
) -> tuple[jax.Array, jax.Array]:
    """Targets and weights [..., H] of the values of the first H rows of windows of H + n rows.

    y_t = sum_{i < m} gamma^i r_{t+i} + gamma^m v_{t+m}, m = n or up to the last row of the episode. A termination ends
    the sum with its reward and without a value. A time limit is no end: the frame behind it is never seen, so that the
    sum stops before the episode's last row and takes that row's value.

    reward, termination, is_first [..., H + n]; value [..., H] of the rows n..n+H-1. The weight is 0 where a time limit
    leaves nothing to sum, or only a row whose value is not among those given; else 1.
    """
    length = value.shape[-1]
    last = jnp.concatenate([is_first[..., 1:], jnp.zeros_like(is_first[..., :1])], axis=-1)  # the next row is another's
    cut = last & ~termination
    known = jnp.concatenate([jnp.zeros((*value.shape[:-1], steps), value.dtype), value], axis=-1)
    has_value = jnp.arange(length + steps) >= steps
    target, weight = jnp.zeros_like(value), jnp.ones_like(value)
    going = jnp.ones(value.shape, bool)
    for i in range(steps + 1):
        now = lambda x, start=i: x[..., start : start + length]
        stop = going & (now(cut) if i < steps else True)  # here the value stands for what follows
        target += jnp.where(stop, gamma**i * now(known), 0)
        weight = jnp.where(stop & (~now(has_value) | (i == 0)), 0.0, weight)
        going &= ~stop
        target += jnp.where(going, gamma**i * now(reward), 0)
        going &= ~now(termination)
    return target, weight
