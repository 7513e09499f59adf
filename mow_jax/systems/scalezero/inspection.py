"""How far the tasks pull what they share into the same direction: the cosine of their gradients, now and then.

It costs as much as the forward and backward pass of an update, and a compilation. Called as the System's
update "inspection", before evaluations.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mow_jax.ops.gradients import layer_vectors
from mow_jax.ops.precision import EXACT
from mow_jax.systems.scalezero import agent as algorithm
from mow_jax.systems.scalezero import stages
from mow_jax.systems.scalezero.agent import Agent
from mow_jax.systems.scalezero.types import State
from mow_jax.types import Batch, Shard

SKETCH = 4096  # numbers that stand for a gradient: cosines are off by about 1 / 64


def conflict(agent: Agent, state: State, batch: Batch, shard: Shard) -> tuple[State, dict[str, jax.Array]]:
    """The state as it was, the mean cosine of each task's gradient with every other's, "gradients/cosine" [K], and the
    share of pairs that point apart, "gradients/opposed" []; from windows [K', B, H + n, ...].

    Of encoder, tokens and what of the backbone learns at this stage, solved tasks too. One task at a time, each through
    a random projection (count sketch), so that no two gradients need be in memory.
    """
    nobody = jnp.zeros_like(state.solved)
    all_tasks = state._replace(solved=nobody)
    learns = stages.trainable(agent.stages, state.params, state.stage, nobody)

    def sketch(task):
        batch, shard = jax.tree.map(lambda x: x[None], task)
        grad = jax.grad(algorithm.loss, argnums=1, has_aux=True)
        gradient, _ = grad(agent, state.params, all_tasks, batch, batch.extras["policy"], shard)
        shared = {name: part for name, part in gradient.items() if name != "heads"}
        kept = jax.tree.map(lambda g, on: (g * on)[None], shared, {name: learns[name] for name in shared})
        return layer_vectors(kept, "projection", SKETCH, shard.seed[0])["projection"][0]

    own = jax.lax.map(sketch, (batch, shard))  # [K', SKETCH]
    spread = jnp.zeros((agent.world.tasks, SKETCH)).at[shard.ids].add(own * shard.valid[:, None])
    return state, cosines(jax.lax.psum(spread, "device"))


def cosines(vectors: jax.Array) -> dict[str, jax.Array]:
    """Those of the rows of [K, V]; 0 where there is but one."""
    unit = vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    tasks, cosine = len(vectors), jnp.matmul(unit, unit.T, precision=EXACT)
    others, pairs = ~jnp.eye(tasks, dtype=bool), max(tasks - 1, 1)
    opposed = (others & (cosine < 0)).sum() / (tasks * pairs)
    return {"gradients/cosine": jnp.where(others, cosine, 0.0).sum(-1) / pairs, "gradients/opposed": opposed}
