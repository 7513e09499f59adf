"""What an update that was not finite leaves behind: the state before it, and a count; Adam with bounded steps. Used by
systems' updates."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax


def kept(finite: jax.Array, new: Any, old: Any) -> Any:
    """The new state where `finite` (a scalar), else the old: chosen on the optimiser's own way over the leaves."""
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)


def counted(finite: jax.Array, skipped: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`skipped` [2], updates skipped in all and in a row, after one more, and its metrics."""
    skipped = jnp.where(finite, skipped * jnp.array([1, 0]), skipped + 1)
    return skipped, {"train/skipped": skipped[0], "train/skipped_in_row": skipped[1]}


def adam(lr: float, eps: float, clip: float, update_clip: float) -> optax.GradientTransformation:
    """Adam behind a clip of the gradient's global norm; no parameter moves by more than `update_clip` learning rates in
    an update (0: by 7.3 at most, Adam's own bound).

    Where gradients have been next to nothing for long, sqrt(v) is too, and a first large one moves all that it reaches
    by 3.2 at once, several that agree by up to 7.3 (Molybog et al. 2023; clipped by root mean squares in Shazeer and
    Stern 2018, section 5).
    """
    scale = [optax.scale_by_adam(eps=eps), *[optax.clip(update_clip)] * (update_clip > 0)]
    return optax.chain(optax.clip_by_global_norm(clip), optax.chain(*scale, optax.scale_by_learning_rate(lr)))
