"""The chance of an update from replay, by keys of the tasks, so that it depends on no device. Used by agent.py."""

from __future__ import annotations

import jax

from mow_jax.ops.keys import named_key, task_keys
from mow_jax.systems.m3po import planner
from mow_jax.systems.m3po.types import Draws
from mow_jax.systems.m3po.world_model import WorldModel
from mow_jax.types import Batch, Shard

ONE = Draws(0, 0, None, None, 0, 0)  # the axis of tasks in a Draws, for vmap


def drawn(model: WorldModel, count: jax.Array, batch: Batch, shard: Shard) -> Draws:
    """That of update number `count`, [K', ...]; the pairs of value functions are the same for all tasks."""
    _, windows, rows = batch.reward.shape
    pairs = jax.random.split(named_key(shard.seed[0], count, "pairs"))

    def one(key):
        keys = jax.random.split(key, 4)
        normal = lambda key, time: jax.random.normal(key, (windows, time, model.action_size))
        shape = (model.values, windows, rows - 1, model.hidden)
        kept = jax.random.bernoulli(keys[2], 1 - model.dropout, shape) / (1 - model.dropout) if model.dropout else None
        offset = jax.random.randint(keys[3], (windows, 2), 0, 2 * model.shift + 1) if model.shift else None
        return normal(keys[0], rows - 1), normal(keys[1], rows), kept, offset

    ahead, policy, kept, offset = jax.vmap(one)(task_keys(count, "update", shard))
    pair, policy_pair = (planner.two_of(key, model.values) for key in pairs)
    return Draws(ahead, policy, pair, policy_pair, kept, offset)
