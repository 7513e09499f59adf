"""What the world model has learned, for whoever asks: its predictions on real windows, the tasks' gradients and losses
for the table, and films it makes up.

Pure functions like those of agent.py, on the tasks of one device; nothing here trains.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from mow_jax.ops.distributions import kl, sample_latent
from mow_jax.ops.gradients import layer_vectors
from mow_jax.ops.keys import task_keys
from mow_jax.systems.mow import router, world_model
from mow_jax.systems.mow.agent import Agent, gather, task_losses
from mow_jax.systems.mow.blocks import causal_mask
from mow_jax.systems.mow.types import TrainState
from mow_jax.systems.mow.world_model import ROW_AXES, Rows, WorldModel
from mow_jax.types import Batch, Shard


def predictions(agent: Agent, state: TrainState, batch: Batch, shard: Shard) -> dict[str, jax.Array]:
    """What is said of every row of windows [K', B, T], each [K', B, T] float32: "reward", "termination" (probability),
    "error" (squared error of the reconstructed frame, summed over its pixels in [0, 1]), and "action" (nats that the
    actions tell of the next latent: how much worse it is foreseen under other actions of the same window; NaN in the
    last row of a window or an episode).

    As in training, row t's predictions come from h_t, which has seen z_t and a_t, and no earlier episode.
    """
    keys = task_keys(0, "predictions", shard)
    run = jax.vmap(functools.partial(_predictions, agent.world), in_axes=(ROW_AXES, 0, 0))
    return run(gather(agent, state, shard), batch, keys)


def _predictions(model: WorldModel, rows: Rows, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
    key_latent, _ = jax.random.split(key)  # under the same key world_model.losses draws the same latents
    posterior, _ = world_model.encode(model, rows, batch.observation, key_latent, in_turn=True)
    segment = world_model.segments(model, batch.is_first)
    think = lambda action: world_model.transition(model, rows, posterior.z, action, causal_mask(segment))[0]
    hidden = think(batch.action)

    def error(step):
        z, real = step
        frames = world_model.decode(model, rows, z)
        return ((frames - real.astype(jnp.float32) / 255) ** 2).sum((-3, -2, -1))

    def surprise(hidden):
        return kl(posterior.log_p[:, 1:], world_model.prior(model, rows, hidden[:, :-1]))

    other = think(jnp.roll(batch.action, batch.action.shape[1] // 2, axis=1))
    told = jnp.where(batch.is_first[:, 1:], jnp.nan, surprise(other) - surprise(hidden))
    # One time step of all windows after the other: the decoder's memory would be that of a training batch else.
    steps = (posterior.z.swapaxes(0, 1), batch.observation.swapaxes(0, 1))
    return {
        "reward": world_model.predicted_reward(model, rows, hidden),
        "termination": jax.nn.sigmoid(world_model.termination_logit(model, rows, hidden)),
        "error": jax.lax.map(error, steps).swapaxes(0, 1),
        "action": jnp.pad(told, ((0, 0), (0, 1)), constant_values=jnp.nan),
    }


def row_losses(agent: Agent, state: TrainState, batch: Batch, draw: jax.Array, shard: Shard) -> jax.Array:
    """L_k [K', N_m] that each task would have on every cluster row, on windows [K', B, T]; `draw` [] numbers them."""
    keys = task_keys(draw, "row_losses", shard)

    def on_row(row):
        here = state._replace(table=state.table._replace(cluster=jnp.full_like(state.table.cluster, row)))
        terms, _ = task_losses(agent, gather(agent, here, shard), batch, shard, here, keys, train=False)
        return sum(scale * terms[name] for name, scale in agent.scales)

    return jax.lax.map(on_row, jnp.arange(agent.world.clusters)).T


def without_noise(agent: Agent, state: TrainState) -> TrainState:
    """The state with the experts that the router's scores alone choose."""
    rules, chosen = agent.world.routing, state.table.experts
    scores = router.scores(rules, state.params["shared"], state.update)
    return state._replace(table=state.table._replace(experts=router.without_noise(rules, scores, chosen, state.update)))


def task_gradients(
    agent: Agent, state: TrainState, batch: Batch, draw: jax.Array, shard: Shard, vector: str, size: int
) -> dict[str, dict[str, jax.Array]]:
    """Each task's gradient of L_k, as a vector a layer: {"cluster": {layer: [K', V]}, "experts": the same}."""
    return reduced_gradients(agent, state, batch, draw, shard, (vector,), size)[vector]


def reduced_gradients(
    agent: Agent, state: TrainState, batch: Batch, draw: jax.Array, shard: Shard, vectors: tuple[str, ...], size: int
) -> dict[str, dict[str, dict[str, jax.Array]]]:
    """The same in several reductions, {vector: {"cluster": ..., "experts": ...}}, of one backward pass.

    `draw` [] numbers the batch, so that each has latent samples of its own.

    Taken with respect to the gathered rows, so that one backward pass keeps the tasks' gradients apart. "cluster" are
    the perceptual and predictor parameters, "experts" the mean over slots of the temporal ones. No dropout, no noise in
    the router, and batch norm on its running statistics.
    """
    state = without_noise(agent, state)
    rows, keys = gather(agent, state, shard), task_keys(draw, "gradients", shard)

    def total(cluster, experts):
        here = rows._replace(cluster=cluster, experts=experts)
        terms, _ = task_losses(agent, here, batch, shard, state, keys, train=False)
        return sum(scale * terms[name] for name, scale in agent.scales).sum()

    cluster, experts = jax.grad(total, argnums=(0, 1))(rows.cluster, rows.experts)
    experts = jax.tree.map(lambda leaf: leaf.mean(1), experts)
    parts = {"cluster": cluster, "experts": experts}
    return {
        vector: {name: layer_vectors(part, vector, size, shard.seed[0]) for name, part in parts.items()}
        for vector in vectors
    }


def open_loop(agent: Agent, state: TrainState, batch: Batch, shard: Shard, context: int) -> tuple[jax.Array, jax.Array]:
    """Frames [K', B, T, S, S, 3] uint8 of windows inside an episode: each reconstructed from its own posterior, and
    from `context` on imagined from the prior under the real actions (before it: reconstructed)."""
    keys = task_keys(0, "open_loop", shard)
    run = jax.vmap(functools.partial(_open_loop, agent.world, context=context), in_axes=(ROW_AXES, 0, 0))
    return run(gather(agent, state, shard), batch, keys)


def _open_loop(model: WorldModel, rows: Rows, batch: Batch, key: jax.Array, context: int):
    key_latent, key_steps = jax.random.split(key)
    posterior, _ = world_model.encode(model, rows, batch.observation, key_latent)
    count, time = batch.reward.shape
    cache = model.dynamics.empty_cache(count, time)

    def step(carry, inputs):
        imagined, cache = carry
        i, z, action, key_step = inputs
        z = jnp.where(i < context, z, imagined)
        visible = jnp.broadcast_to(jnp.arange(time) <= i, (count, 1, time))
        out, cache = world_model.transition(model, rows, z[:, None], action[:, None], visible, cache, i)
        return (sample_latent(key_step, world_model.prior(model, rows, out[:, 0])), cache), z

    inputs = (
        jnp.arange(time),
        posterior.z.swapaxes(0, 1),
        batch.action.swapaxes(0, 1),
        jax.random.split(key_steps, time),
    )
    _, zs = jax.lax.scan(step, (jnp.zeros_like(posterior.z[:, 0]), cache), inputs)
    frames = [world_model.decode(model, rows, z) for z in (posterior.z, zs.swapaxes(0, 1))]
    reconstructed, imagined = [(jnp.clip(f, 0, 1) * 255).round().astype(jnp.uint8) for f in frames]
    return reconstructed, imagined
