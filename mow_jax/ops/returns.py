"""Lambda returns and the percentile range that scales advantages (MoW's and STORM's; docs/equations.md); generalised
advantages (docs/m3po.md)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def lambda_return(
    reward: jax.Array, value: jax.Array, continuation: jax.Array, gamma: float, lambda_: float, bootstrap: str = "next"
) -> jax.Array:
    """R_t = r_t + gamma c_t [(1 - lambda) V(s_{t+1}) + lambda R_{t+1}], R_H = V(s_H).

    reward, continuation [..., H]; value [..., H + 1]; returns [..., H]. With bootstrap = "current" the inner value is
    V(s_t), as STORM's code has it.
    """
    inner = value[..., 1:] if bootstrap == "next" else value[..., :-1]
    base = reward + gamma * continuation * (1 - lambda_) * inner

    def step(following, now):
        current = now[0] + gamma * lambda_ * now[1] * following
        return current, current

    time_first = (jnp.moveaxis(base, -1, 0), jnp.moveaxis(continuation, -1, 0))
    _, returns = jax.lax.scan(step, value[..., -1], time_first, reverse=True)
    return jnp.moveaxis(returns, 0, -1)


def advantages(
    reward: jax.Array,
    value: jax.Array,
    following: jax.Array,
    termination: jax.Array,
    ended: jax.Array,
    gamma: jax.Array | float,
    lambda_: float,
) -> jax.Array:
    """A_t = delta_t + gamma lambda A_{t+1}, delta_t = r_t + gamma (1 - termination_t) V(s_{t+1}) - V(s_t) (Schulman et
    al. 2016), everything [..., T].

    `following` is V(s_{t+1}), also where an episode was cut: there A_{t+1} belongs to another one. `ended`: the last
    row of an episode, for whatever reason.
    """
    delta = reward + gamma * (1.0 - termination) * following - value

    def step(later, now):
        current = now[0] + gamma * lambda_ * (1.0 - now[1]) * later
        return current, current

    time_first = (jnp.moveaxis(delta, -1, 0), jnp.moveaxis(ended.astype(delta.dtype), -1, 0))
    _, result = jax.lax.scan(step, jnp.zeros_like(delta[..., 0]), time_first, reverse=True)
    return jnp.moveaxis(result, 0, -1)


def percentile_range(x: jax.Array, weight: jax.Array, low: float = 0.05, high: float = 0.95) -> jax.Array:
    """The difference of two percentiles of x [N] where a value counts by its weight [N] in 0..1, not interpolated.

    At weights of one they are the k-th smallest values at k = floor(high N) and floor(low N), as STORM has them.
    """
    ordered, weight = jax.lax.sort((x, weight), num_keys=1)
    reached = jnp.cumsum(weight)
    # 1e-3: the product may miss a whole number by a rounding, and a value of no weight is none.
    at = lambda share: ordered[(reached > jnp.maximum(share * reached[-1] - 1, 0.0) + 1e-3).argmax()]
    return at(high) - at(low)
