"""The precision of matrix products: by its name in a config, and exact where numbers are kept."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

# Of float32 products that carry statistics, scores or decoded numbers: GPUs otherwise round their factors to 10 bits of
# mantissa and TPUs to 7, at which a moving average stops moving. On CPUs it is what products are anyway.
EXACT = jax.lax.Precision.HIGHEST


def compute_dtype(name: str) -> Any:
    """The scalar type called `name`; "auto": float32 on CPUs, else bfloat16."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name).type
