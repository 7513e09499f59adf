"""Symlog and the two-hot coding of scalars over bins: 255 in [-20, 20] (STORM; DreamerV3), or others (TD-MPC2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mow_jax.ops.precision import EXACT

BINS = 255
LIMIT = 20.0


def symlog(x: jax.Array) -> jax.Array:
    """sign(x) ln(1 + |x|)."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: jax.Array) -> jax.Array:
    """sign(x) (e^|x| - 1), the inverse of symlog."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def bins(count: int = BINS, limit: float = LIMIT) -> jax.Array:
    """[count] the values in symlog space that the bins stand for, from -limit to limit."""
    return jnp.linspace(-limit, limit, count)


def cross_entropy(logits: jax.Array, target: jax.Array, limit: float = LIMIT) -> jax.Array:
    """Cross-entropy [...] of the two-hot coding of symlog(target) [...] under logits [..., bins].

    Targets beyond the outermost bins count as those bins.
    """
    count = logits.shape[-1]
    position = jnp.clip((symlog(target) + limit) / (2 * limit / (count - 1)), 0.0, count - 1.0)
    lower = jnp.clip(jnp.floor(position), 0, count - 2).astype(jnp.int32)
    upper_weight = position - lower
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    # A one-hot product instead of a gather: gathers and their scatter gradients are slow on accelerators.
    index = jnp.arange(count)
    weight = jnp.where(index == lower[..., None], 1.0 - upper_weight[..., None], 0.0)
    weight = jnp.where(index == lower[..., None] + 1, upper_weight[..., None], weight)
    return -(weight * log_p).sum(-1)


def decode(logits: jax.Array, limit: float = LIMIT) -> jax.Array:
    """The scalar [...] that logits [..., bins] stand for: symexp of the mean bin (STORM).

    Of what is seldom and large it makes little: 100 with probability 0.01 is read as 0.05.
    """
    p = jax.nn.softmax(logits.astype(jnp.float32))
    return symexp(jnp.matmul(p, bins(logits.shape[-1], limit), precision=EXACT))


def read(how: str, logits: jax.Array) -> jax.Array:
    """The scalar [...] that logits [..., 255] say: "symlog", `decode`'s, or "mean", the expectation."""
    return mean(logits) if how == "mean" else decode(logits)


def mean(logits: jax.Array) -> jax.Array:
    """The expectation [...] of the scalars that the bins stand for, under logits [..., 255] (DreamerV3).

    Targets are split between neighbours in symlog space, so that one that lies between two bins is read as a little
    more: 1 as 1.006, 0.05 as 0.053.
    Bins of opposite sign are added up first, so that what a young head gives to the outermost ones cancels.
    """
    p, half = jax.nn.softmax(logits.astype(jnp.float32)), BINS // 2
    return jnp.matmul(p[..., half + 1 :] - p[..., :half][..., ::-1], symexp(bins()[half + 1 :]), precision=EXACT)
