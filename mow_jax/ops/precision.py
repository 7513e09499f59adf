"""The precision of matrix products, by its name in a config."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def compute_dtype(name: str) -> Any:
    """The scalar type called `name`; "auto": float32 on CPUs, else bfloat16."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name).type
