"""Lambda returns and the percentile range that scales advantages (MoW's and STORM's; docs/equations.md)."""

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


def percentile_range(x: jax.Array, low: float = 0.05, high: float = 0.95) -> jax.Array:
    """The difference of the k-th smallest values of x [N] at k = floor(high N) and floor(low N), not interpolated."""
    n = x.shape[0]
    ordered = jnp.sort(x)
    return ordered[max(int(high * n), 1) - 1] - ordered[max(int(low * n), 1) - 1]
