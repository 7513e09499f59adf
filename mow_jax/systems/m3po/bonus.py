"""Disagreement of model-based and model-free values, and the bonus for it (M3PO's idea; the rules are POME's and ours).

Of one task, on the rows of a round on fresh data, before anything is learned from them. Used by fresh.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mow_jax.systems.m3po.types import Dream

KINDS = ("none", "clipped", "reward")


def disagreement(
    dream: Dream, z: jax.Array, action: jax.Array, free: jax.Array, gamma: jax.Array, steps: int, places: jax.Array
) -> jax.Array:
    """|Q_MB - Q_MF| of steps (z [N, D], action [N, A]) whose model-free value is `free` [N].

    Q_MB = sum_{i < k} gamma^i c_i r_i + gamma^k c_k Q(z_k, pi(z_k)), k = `steps`: the first action is the one that was
    taken, later ones are the policy's mean; c_i is the chance that the task goes on; Q is the mean of the value
    functions at `places`.
    """
    zero = jnp.zeros_like(action)

    def step(carry, place):
        z, total, discount = carry
        taken = jnp.where(place == 0, action, dream.choose(z, zero))
        z, gain, end = dream.follow(z, taken)
        return (z, total + discount * gain, discount * gamma * (1.0 - end)), None

    (z, total, discount), _ = jax.lax.scan(step, (z, jnp.zeros(len(z)), jnp.ones(len(z))), jnp.arange(steps))
    return jnp.abs(total + discount * dream.value(z, dream.choose(z, zero), places) - free)


def whitened(x: jax.Array) -> jax.Array:
    """x [N] with mean 0 and deviation 1."""
    return (x - x.mean()) / (x.std() + 1e-6)


def clipped(advantage: jax.Array, delta: jax.Array, known: jax.Array, beta: jax.Array) -> jax.Array:
    """A + beta clip((delta - median) / std, -|A|, |A|) [N]: with beta up to 1 no advantage changes its sign (POME's
    bound). Only rows with `known` [N] get any."""
    centre, spread = _of_known(delta, known, jnp.nanmedian)
    bonus = (delta - centre) / spread
    size = jnp.abs(advantage)
    return advantage + beta * known * jnp.clip(bonus, -size, size)


def reward(gain: jax.Array, delta: jax.Array, known: jax.Array, beta: jax.Array) -> jax.Array:
    """r + beta clip((delta - mean) / std, 0, 2) [N]: rewards to learn the advantages of; replay keeps the raw ones."""
    centre, spread = _of_known(delta, known, jnp.nanmean)
    return gain + beta * known * jnp.clip((delta - centre) / spread, 0.0, 2.0)


def _of_known(delta: jax.Array, known: jax.Array, middle) -> tuple[jax.Array, jax.Array]:
    """Centre and deviation of the known ones; 0 and about 0 where there is none."""
    held = jnp.where(known > 0, delta, jnp.nan)
    return jnp.nan_to_num(middle(held)), jnp.nan_to_num(jnp.nanstd(held)) + 1e-6
