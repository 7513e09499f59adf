"""Planning by MPPI in latent space, of one environment (TD-MPC2's): draw action sequences, keep the best, narrow down.

What the model is, the planner does not know: it is given a Dream. agent.py maps it over environments and tasks.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mow_jax.ops.precision import EXACT
from mow_jax.systems.m3po.types import Dream


@dataclasses.dataclass(frozen=True)
class Planner:
    """Settings."""

    horizon: int  # H
    iterations: int
    samples: int  # N, action sequences of an iteration
    policy_samples: int  # of them the policy's
    elites: int  # that the next mean and deviation are made of
    temperature: float  # an elite weighs exp(temperature (its value - the best))
    std_min: float
    std_max: float  # also where every search starts


class Noise(NamedTuple):
    """All chance of one search, standard normal where nothing else is said; I iterations."""

    policy: jax.Array  # [H, P, A]
    samples: jax.Array  # [I, H, N - P, A]
    last: jax.Array  # [I, N, A] of the policy's action behind the horizon
    pair: jax.Array  # [I, 2] value functions that are asked there
    pick: jax.Array  # [elites] Gumbel
    action: jax.Array  # [A]


def draw(planner: Planner, action_size: int, values: int, key: jax.Array) -> Noise:
    """Noise for actions [A] and a model with `values` value functions."""
    p, iterations, horizon = planner, planner.iterations, planner.horizon
    keys = jax.random.split(key, 6)
    pairs = jax.vmap(lambda key: two_of(key, values))(jax.random.split(keys[3], iterations))
    return Noise(
        policy=jax.random.normal(keys[0], (horizon, p.policy_samples, action_size)),
        samples=jax.random.normal(keys[1], (iterations, horizon, p.samples - p.policy_samples, action_size)),
        last=jax.random.normal(keys[2], (iterations, p.samples, action_size)),
        pair=pairs,
        pick=jax.random.gumbel(keys[4], (p.elites,)),
        action=jax.random.normal(keys[5], (action_size,)),
    )


def two_of(key: jax.Array, count: int) -> jax.Array:
    """Two different numbers below `count`, [2]; twice the same where there is but one."""
    first, other = jax.random.randint(key, (2,), 0, jnp.array([count, max(count - 1, 1)]))
    return jnp.stack([first, (first + 1 + other) % count])


def plan(
    planner: Planner, dream: Dream, z: jax.Array, mean: jax.Array, mask: jax.Array, gamma: jax.Array, noise: Noise
) -> tuple[jax.Array, jax.Array]:
    """From a latent z [D] and the mean [H, A] to start from: an action [A] to learn with, and the plan's mean [H, A],
    whose first row is the best guess. Dimensions outside of mask [A] are zero in both."""
    p = planner
    own = policy_sequences(planner, dream, z, noise.policy)
    many = jnp.broadcast_to(z, (p.samples, *z.shape))

    def iterate(carry, noise):
        mean, std, _, _ = carry
        samples, last, pair = noise
        drawn = jnp.clip(mean[:, None] + std[:, None] * samples, -1, 1)
        actions = jnp.concatenate([own, drawn], axis=1) * mask
        value = jnp.nan_to_num(score(dream, many, actions, gamma, last, pair))
        best, place = jax.lax.top_k(value, p.elites)
        elites = actions[:, place]
        weight = jnp.exp(p.temperature * (best - best[0]))
        weight = weight / weight.sum()
        mean = jnp.einsum("n,hna->ha", weight, elites, precision=EXACT)
        mean = jnp.clip(mean, -1, 1)  # rounding must not lead out of the bounds
        std = jnp.sqrt(jnp.einsum("n,hna->ha", weight, (elites - mean[:, None]) ** 2, precision=EXACT))
        std = jnp.clip(std, p.std_min, p.std_max)
        return (mean * mask, std * mask, elites[0], weight), None

    shape = mean.shape
    start = (mean, jnp.full(shape, p.std_max), jnp.zeros((p.elites, shape[1])), jnp.ones(p.elites) / p.elites)
    (mean, std, elites, weight), _ = jax.lax.scan(iterate, start, (noise.samples, noise.last, noise.pair))
    action = elites[(jnp.log(weight) + noise.pick).argmax()] + std[0] * noise.action
    return jnp.clip(action, -1, 1) * mask, mean


def shifted(mean: jax.Array) -> jax.Array:
    """The plan [..., H, A] one step later: its first row is done, nothing is known of the new last one."""
    return jnp.concatenate([mean[..., 1:, :], jnp.zeros_like(mean[..., :1, :])], axis=-2)


def policy_sequences(planner: Planner, dream: Dream, z: jax.Array, noise: jax.Array) -> jax.Array:
    """Action sequences [H, P, A] of the policy in the model, from noise [H, P, A]."""
    many = jnp.broadcast_to(z, (planner.policy_samples, *z.shape))

    def step(z, noise):
        action = dream.choose(z, noise)
        return dream.follow(z, action)[0], action

    return jax.lax.scan(step, many, noise)[1]


def score(dream: Dream, z: jax.Array, actions: jax.Array, gamma: jax.Array, last: jax.Array, pair: jax.Array):
    """sum_h gamma^h c_h r_h + gamma^H c_H Q(z_H, pi(z_H)) [N] of action sequences [H, N, A], c_h = 0 once the task is
    more likely to have ended than not."""

    def step(carry, action):
        z, total, discount = carry
        z, gain, end = dream.follow(z, action)
        return (z, total + discount * gain, discount * gamma * (end <= 0.5)), None

    start = (z, jnp.zeros(len(z)), jnp.ones(len(z)))
    (z, total, discount), _ = jax.lax.scan(step, start, actions)
    return total + discount * dream.value(z, dream.choose(z, last), pair)
