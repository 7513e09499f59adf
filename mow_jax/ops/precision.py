"""The precision of matrix products: by its name in a config, exact where numbers are kept, weights cast once."""

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


def cast_once(params: Any, dtype: Any) -> Any:
    """Parameters with the weights that only products read ("kernel", "positions") in the products' `dtype`.

    For whoever uses them again and again without gradients, to the same results: otherwise each use casts them anew,
    and XLA leaves that inside of loops. The router's stay, as its products are in float32.
    """

    def cast(path, leaf):
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        return leaf.astype(dtype) if names[-1] in ("kernel", "positions") and "router" not in names else leaf

    return jax.tree_util.tree_map_with_path(cast, params)
