"""Disagreement of model-based and model-free values, and the bonus for it (M3PO's idea; the rules are POME's and ours).

Of one task, on the rows of a round on fresh data, before anything is learned from them. Used by fresh.py.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mow_jax.systems.m3po.types import Dream


class Outcome(NamedTuple):
    """What came of steps."""

    reward: Any  # [N]
    termination: Any  # [N] bool or 0 and 1
    z: Any  # [N, D] the latent that was reached


def disagreement(
    dream: Dream, z: jax.Array, action: jax.Array, after: Outcome, gamma: jax.Array, steps: int, places: jax.Array
) -> jax.Array:
    """|Q_MB - Q_MF| [N] of steps (z [N, D], action [N, A]) and what came of them.

    Q_MF = r + gamma (1 - d) W(z'), Q_MB = r~ + gamma (1 - d~) W(z~'), with ~ what the model says instead. W is the same
    on both sides (POME), so that the two differ by the model's errors alone, however wrong the values are: the value of
    a latent from which the model goes on for `steps` - 1 steps of the policy's mean, by the mean of the value functions
    at `places`.
    """
    worth = functools.partial(_worth, dream, gamma=gamma, steps=steps - 1, places=places, still=jnp.zeros_like(action))
    own, gain, end = dream.follow(z, action)
    based = gain + gamma * (1.0 - end) * worth(own)
    return jnp.abs(based - after.reward - gamma * (1.0 - after.termination) * worth(after.z))


def _worth(dream: Dream, z: jax.Array, gamma: jax.Array, steps: int, places: jax.Array, still: jax.Array) -> jax.Array:
    """sum_{i < n} gamma^i c_i r_i + gamma^n c_n Q(z_n, pi(z_n)) [N], n = `steps`, c_i the chance that the task goes on;
    noise `still` [N, A] of zeros makes pi the policy's mean."""

    def step(carry, _):
        z, total, discount = carry
        z, gain, end = dream.follow(z, dream.choose(z, still))
        return (z, total + discount * gain, discount * gamma * (1.0 - end)), None

    (z, total, discount), _ = jax.lax.scan(step, (z, jnp.zeros(len(z)), jnp.ones(len(z))), length=steps)
    return total + discount * dream.value(z, dream.choose(z, still), places)


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
