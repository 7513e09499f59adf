"""What an update that was not finite leaves behind: the state before it, and a count. Used by all systems' updates."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def kept(finite: jax.Array, new: Any, old: Any) -> Any:
    """The new state where `finite` (a scalar), else the old: chosen on the optimiser's own way over the leaves."""
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)


def counted(finite: jax.Array, skipped: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`skipped` [2], updates skipped in all and in a row, after one more, and its metrics."""
    skipped = jnp.where(finite, skipped * jnp.array([1, 0]), skipped + 1)
    return skipped, {"train/skipped": skipped[0], "train/skipped_in_row": skipped[1]}
