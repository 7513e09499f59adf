"""Distributions of latents and actions: unimix categoricals, masked categorical and bounded Gaussian policies."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def unimix(logits: jax.Array, share: float) -> jax.Array:
    """Log-probabilities [..., C] of softmax(logits) mixed with a `share` of the uniform distribution."""
    p = jax.nn.softmax(logits.astype(jnp.float32))
    return jnp.log(p * (1 - share) + share / logits.shape[-1])


def sample_index(key: jax.Array, log_p: jax.Array) -> jax.Array:
    """Draws class indices [...] from log-probabilities [..., C] by inverting the distribution function.

    One uniform number a draw: Gumbel noise would take C of them, which shows on the clock of imagination.
    """
    cumulative = jnp.cumsum(jnp.exp(log_p), axis=-1)
    u = jax.random.uniform(key, (*log_p.shape[:-1], 1)) * cumulative[..., -1:]  # rounding must not reach past the end
    return (cumulative[..., :-1] <= u).sum(-1)


def sample_latent(key: jax.Array, log_p: jax.Array) -> jax.Array:
    """One-hot draws [..., G * C] from G categoricals [..., G, C] with the probabilities' straight-through gradient."""
    p = jnp.exp(log_p)
    one_hot = jax.nn.one_hot(sample_index(key, jax.lax.stop_gradient(log_p)), log_p.shape[-1])
    z = one_hot + p - jax.lax.stop_gradient(p)
    return z.reshape(*z.shape[:-2], -1)


def kl(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """KL(p || q) [...] summed over the G categoricals of log-probabilities [..., G, C]."""
    return (jnp.exp(log_p) * (log_p - log_q)).sum((-2, -1))


def masked(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Logits with the forbidden choices at -1e9: minus infinity would make the entropy NaN."""
    return jnp.where(mask, logits.astype(jnp.float32), -1e9)


def mixed(log_p: jax.Array, mask: jax.Array, share: float) -> jax.Array:
    """Log-probabilities [..., A] with a `share` of the uniform distribution over the choices that mask [A] allows, so
    that none of them is ever given up (DreamerV3's policy)."""
    if not share:
        return log_p
    return masked(jnp.log((1 - share) * jnp.exp(log_p) + share / mask.sum(-1)), mask)


def categorical_log_prob(logits: jax.Array, action: jax.Array) -> jax.Array:
    """log pi(a) [...] of integer actions [...] under logits [..., A]."""
    log_p = jax.nn.log_softmax(logits)
    return (jax.nn.one_hot(action, logits.shape[-1]) * log_p).sum(-1)


def categorical_entropy(logits: jax.Array) -> jax.Array:
    """Entropy [...] of logits [..., A]."""
    log_p = jax.nn.log_softmax(logits)
    return -(jnp.exp(log_p) * log_p).sum(-1)


def gaussian(output: jax.Array, low: float = 0.1, high: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """Mean in (-1, 1) and deviation in [low, high], each [..., A], from the actor's output [..., 2A]."""
    mean, spread = jnp.split(output.astype(jnp.float32), 2, axis=-1)
    return jnp.tanh(mean), low + (high - low) * jax.nn.sigmoid(spread)


def gaussian_log_prob(mean: jax.Array, deviation: jax.Array, action: jax.Array, mask: jax.Array) -> jax.Array:
    """log-density [...] of actions [..., A], over the dimensions that mask [..., A] allows."""
    each = -0.5 * ((action - mean) / deviation) ** 2 - jnp.log(deviation) - 0.5 * math.log(2 * math.pi)
    return (each * mask).sum(-1)


def gaussian_entropy(deviation: jax.Array, mask: jax.Array) -> jax.Array:
    """Entropy [...] of a diagonal Gaussian, over the dimensions that mask [..., A] allows."""
    return ((jnp.log(deviation) + 0.5 * math.log(2 * math.pi * math.e)) * mask).sum(-1)
