"""A linear map whose product is in a lower precision, its bias not."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def linear(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    dtype: Any,
    precision: jax.lax.Precision | None = None,
) -> jax.Array:
    """x W + b in `dtype`, of x [..., I], kernel [I, O] and bias [O]; `precision` of the product, None: jax's default.

    The bias is added in float32: its gradient is a sum over all rows, which in bfloat16 loses whole per cents of
    thousands of them.
    """
    y = jnp.matmul(x.astype(dtype), kernel.astype(dtype), precision=precision)
    return y if bias is None else added(y, bias, dtype)


def added(x: jax.Array, parameter: jax.Array, dtype: Any) -> jax.Array:
    """x [..., *D] + parameter [*D] in `dtype`, summed in float32 for the parameter's gradient."""
    return (x.astype(jnp.float32) + parameter).astype(dtype)
