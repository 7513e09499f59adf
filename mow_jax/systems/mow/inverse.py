"""What was done, from the latents before and after: a term that makes the encoder keep what actions move.

Summed squared pixels ask for a small figure last, and a latent without the player cannot be steered in imagination.
Ours, not the paper's (`loss.inverse`, 0 by default). Multi-step inverse models: AC-State (arXiv 2207.08229), SGI
(arXiv 2106.04799). Called by world_model.losses.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mow_jax.types import Batch

STEPS = 4  # between the two latents at most: what an action does may show late


def loss(discrete: bool, head: Callable[[jax.Array], jax.Array], z: jax.Array, batch: Batch) -> jax.Array:
    """The mean error of a_t [] by `head` of [z_t, z_{t+j}, j] over j in 1..STEPS and pairs inside an episode:
    cross-entropy in nats, or half the squared error of continuous actions. Latents z [B, T, Z]."""
    segment, errors, weights = jnp.cumsum(batch.is_first, axis=-1), [], []
    for j in range(1, min(STEPS, z.shape[1] - 1) + 1):
        between = jnp.broadcast_to(jax.nn.one_hot(j - 1, STEPS, dtype=z.dtype), (*z[:, j:].shape[:2], STEPS))
        said = head(jnp.concatenate([z[:, :-j], z[:, j:], between], axis=-1)).astype(jnp.float32)
        errors.append(_error(said, batch.action[:, :-j], discrete))
        weights.append((segment[:, j:] == segment[:, :-j]).astype(jnp.float32))
    error, weight = jnp.concatenate(errors, axis=1), jnp.concatenate(weights, axis=1)
    return (error * weight).sum() / jnp.maximum(weight.sum(), 1.0)


def _error(said: jax.Array, action: jax.Array, discrete: bool) -> jax.Array:
    if not discrete:
        return 0.5 * ((said - action) ** 2).sum(-1)
    return -jnp.take_along_axis(jax.nn.log_softmax(said), action[..., None], axis=-1)[..., 0]
