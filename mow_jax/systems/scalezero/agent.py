"""THE ALGORITHM: pure init, update, act, after_evaluation.

`update` and `act` run inside a program with the named axis "device": parameters are replicated, tasks are sharded. A
device holds the tasks `shard.ids`; the heads and `solved` have all K rows everywhere.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from mow_jax.ops import routing, updates
from mow_jax.ops.keys import named_key, task_keys
from mow_jax.systems.scalezero import search, stages, targets, world_model
from mow_jax.systems.scalezero.mixture import Activity
from mow_jax.systems.scalezero.search import Search
from mow_jax.systems.scalezero.stages import Stages
from mow_jax.systems.scalezero.types import ActState, Context, State
from mow_jax.systems.scalezero.world_model import WorldModel
from mow_jax.types import Acted, Batch, Shard


@dataclasses.dataclass(frozen=True)
class Agent:
    """Sizes and settings; one instance is closed over by every compiled function."""

    world: WorldModel
    search: Search
    stages: Stages
    scales: tuple[tuple[str, float], ...]  # of the loss terms, by name
    steps: int  # n of the value target
    smoothing: float  # of the categories of value and reward
    lr: float
    decay: float  # of matrices, decoupled from the gradient
    clip: float
    target_rate: float  # of the target parameters' moving average
    sampled: bool = False  # whether actions are drawn when they are scored, too

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam behind the global-norm clip, on all parameters as one vector."""
        return optax.chain(optax.clip_by_global_norm(self.clip), optax.adam(self.lr, b1=0.9, b2=0.95))


# --- Beginning --------------------------------------------------------------------------------------------------------


def init(agent: Agent, seed: jax.Array | int) -> State:
    """The state before the first update."""
    key_params, key_adapters = jax.random.split(named_key(seed, 0, "init"))
    params = world_model.init(agent.world, key_params)
    tasks, reached = agent.world.tasks, {}
    if agent.stages.count > 1:
        params["adapters"] = stages.init(agent.stages, params["backbone"], key_adapters)
        reached = {"steps": jnp.zeros(tasks), "score": jnp.zeros(tasks)}
    return State(
        update=jnp.int32(0),
        params=params,
        target=jax.tree.map(jnp.copy, params),
        optimizer=agent.optimizer.init(ravel_pytree(params)[0]),
        stage=jnp.int32(0),
        switched=jnp.int32(0),
        solved_then=jnp.int32(0),
        solved=jnp.zeros(tasks, bool),
        reached=reached,
        skipped=jnp.zeros(2, jnp.int32),
    )


# --- One update -------------------------------------------------------------------------------------------------------


def update(agent: Agent, state: State, batch: Batch, policy, shard: Shard) -> tuple[State, dict]:
    """One step from windows [K', B, H + n] and the searched policies [K', B, H + n, A] stored with their rows, all zero
    where none was stored; metrics are scalars, [K] or [N_e] arrays."""
    chex.assert_rank([batch.observation, batch.reward, policy], [6, 3, 4])
    grad = jax.grad(loss, argnums=1, has_aux=True)
    gradient, metrics = grad(agent, state.params, state, batch, policy, shard)
    learns = stages.trainable(agent.stages, state.params, state.stage, state.solved)
    # One flat vector: a single reduction over the devices, and a tenth of the operations in the optimiser.
    flat, unravel = ravel_pytree(jax.tree.map(jnp.multiply, gradient, learns))
    flat = jax.lax.psum(flat, "device")
    step, optimizer = agent.optimizer.update(flat, state.optimizer)
    decay = jax.tree_util.tree_map_with_path(functools.partial(_decay, agent), state.params)
    move = lambda p, s, d, on: p + on * (s - d * p)
    params = jax.tree.map(move, state.params, unravel(step), decay, learns)
    target = optax.incremental_update(params, state.target, agent.target_rate)
    metrics["world/gradient_norm"] = jnp.linalg.norm(flat)
    new = state._replace(params=params, target=target, optimizer=optimizer)
    return keep_finite(agent, state, new, metrics)


def _decay(agent: Agent, path: tuple, leaf: jax.Array) -> float:
    """The share of a leaf that a step takes away: only of matrices, however many are stacked in a leaf."""
    stacked = path[0].key == "heads"
    matrix = leaf.ndim - stacked > 1 and path[-1].key != "scale"
    return agent.lr * agent.decay * matrix


def keep_finite(agent: Agent, old: State, new: State, metrics: dict) -> tuple[State, dict]:
    """The new state, or the old one with the skip counted where the gradient was not finite; then the stage."""
    finite = jnp.isfinite(metrics["world/gradient_norm"])
    skipped, counts = updates.counted(finite, old.skipped)
    done = old.update + 1
    at = stages.switch(agent.stages, old.stage, old.switched, old.solved_then, old.solved, done)
    kept = updates.kept(finite, new, old)
    kept = kept._replace(update=done, skipped=skipped, stage=at[0], switched=at[1], solved_then=at[2])
    return kept, metrics | counts | {"stages/stage": at[0], "stages/solved": old.solved.sum()}


def loss(agent: Agent, params: Any, state: State, batch: Batch, policy, shard: Shard) -> tuple[jax.Array, dict]:
    """This device's share of sum_k L_k, solved tasks at the weight that they keep, and metrics."""
    model, length = agent.world, agent.world.unroll
    online = stages.merge(agent.stages, params, state.stage)
    target = stages.merge(agent.stages, state.target, state.stage)
    window = lambda x, start=0: x[:, :, start : start + length]
    keys = task_keys(state.update, "dropout", shard) if model.dropout else None

    # Targets: next latents and bootstrap values of the moving average.
    latent = jax.lax.stop_gradient(world_model.encode(model, target, batch.observation[:, :, 1:]))
    begin = agent.steps - 1  # `latent` is without the first row
    ahead, _ = unroll(agent, target, latent[:, :, begin:], jax.tree.map(lambda x: window(x, agent.steps), batch), shard)
    value = jax.lax.stop_gradient(targets.scalar(ahead.prediction.value))
    rows = (batch.reward, value, batch.termination, batch.is_first)
    value, weight = targets.n_step(*rows, agent.search.gamma, agent.steps)

    # What the online parameters say.
    z = world_model.encode(model, online, window(batch.observation), keys)
    outputs, watched = unroll(agent, online, z, jax.tree.map(window, batch), shard, keys)
    is_first = batch.is_first[:, :, : length + 1]
    learned = (latent[:, :, :length], window(batch.reward), value, weight, window(policy), is_first)
    terms = world_model.losses(outputs, *learned, window(batch.termination), agent.smoothing)
    assert {name for name, _ in agent.scales} == set(terms), (agent.scales, world_model.TERMS)
    total = sum(scale * terms[name] for name, scale in agent.scales)

    spread = functools.partial(routing.everywhere, shard=shard, tasks=model.tasks)
    metrics = {f"world/{name}": spread(x) for name, x in (terms | {"total": total}).items()}
    told = search_metrics(outputs.prediction.policy, window(policy))
    metrics |= {f"search/{name}": spread(x) for name, x in told.items()}
    metrics["world/latent_norm"] = spread(jnp.linalg.norm(z.astype(jnp.float32), axis=-1).mean((1, 2)))
    weights = shard.valid * jnp.where(state.solved[shard.ids], agent.stages.keep, 1.0)
    return (total * weights).sum(), metrics | layer_metrics(watched)


def unroll(agent: Agent, params: Any, z, batch: Batch, shard: Shard, keys=None):
    """The world model's outputs [K', B, H, ...] on latents and rows [K', B, H], and its layers' own words."""
    fold = lambda x: x.reshape(-1, *x.shape[2:])
    mask = jnp.repeat(shard.mask, z.shape[1], axis=0)
    rows = world_model.task_heads(params, shard.ids)
    inputs = (fold(z), fold(batch.action), fold(batch.is_first), mask)
    outputs, watched = world_model.unroll(agent.world, params, rows, *inputs, keys, shard.valid)
    return jax.tree.map(lambda x: x.reshape(*z.shape[:2], *x.shape[1:]), outputs), watched


def layer_metrics(watched: dict[str, Any]) -> dict[str, jax.Array]:
    """Of all devices: "router/layers" [layers, N_e], "router/load" [N_e], their mean, and "world/dormant" [].

    Dormant, the paper's measure of lost plasticity, is the share of hidden units whose mean |h| over the tokens that
    they see is at most 0.025; those of an expert without tokens do not count.
    """
    layers = [watched[name] for name in sorted(watched, key=lambda name: int(name.rpartition("_")[2]))]
    reacted = jax.lax.psum([layer["activity"] for layer in layers], "device")
    metrics = {"world/dormant": jnp.stack(list(map(dormant, reacted))).mean()}
    loads = [layer["load"][0] for layer in layers if "load" in layer]
    if loads:
        load = jax.lax.psum(jnp.stack(loads), "device")  # in tokens: devices with few tasks have few
        metrics["router/layers"] = load / load.sum(-1, keepdims=True)
        metrics["router/load"] = metrics["router/layers"].mean(0)
    return metrics


def search_metrics(logits: jax.Array, policy: jax.Array) -> dict[str, jax.Array]:
    """What the searched policies [K', B, H, A], all zero where none was stored, say beside the head's logits: means
    [K'] over the rows that have one, 0 without such rows, and "share", that of such rows."""
    searched = policy.any(-1).astype(jnp.float32)
    mean = lambda x: (x * searched).sum((1, 2)) / jnp.maximum(searched.sum((1, 2)), 1.0)
    entropy = jax.scipy.special.entr(policy).sum(-1)
    return {
        "entropy": mean(entropy),
        "kl": mean(targets.cross_entropy(logits, policy) - entropy),
        "agreement": mean(logits.argmax(-1) == policy.argmax(-1)),
        "share": searched.mean((1, 2)),
    }


def dormant(parts: Sequence[Activity]) -> jax.Array:
    """The share [] of a layer's hidden units that sleep, by how its experts' have reacted."""
    asleep, units = jnp.zeros(()), jnp.zeros(())
    for part in parts:
        used = part.tokens > 0
        asleep += (used[:, None] & (part.total <= 0.025 * part.tokens[:, None])).sum()
        units += used.sum() * part.total.shape[1]
    return asleep / units


# --- Acting -----------------------------------------------------------------------------------------------------------


def init_acting(agent: Agent, tasks: int, envs: int) -> ActState:
    """Empty contexts for `envs` environments of each of `tasks` tasks."""
    shape, size = (tasks, envs, agent.world.context), agent.world.image_size
    frames = jnp.zeros((*shape, size, size, 3), jnp.uint8)
    return ActState(frames, jnp.zeros(shape, jnp.int32), jnp.zeros(shape[:-1], jnp.int32))


def act(
    agent: Agent, state: State, acting: ActState, observation, is_first, step, shard: Shard, explore: bool = True
) -> Acted:
    """Actions [K', E] for frames [K', E, S, S, 3] at joint step `step`, the policies [K', E, A] to store with the rows,
    and the new contexts. Without `explore` the search is of the plain policy; the best action is taken, or, if such are
    to be scored, one drawn: by visits, or for "gumbel" by the noise at the root, which is that search's only draw.
    """
    model, envs = agent.world, observation.shape[1]
    params = stages.merge(agent.stages, state.params, state.stage)
    rows = world_model.task_heads(params, shard.ids)
    acting = acting._replace(length=jnp.where(is_first, 0, acting.length))
    fold = lambda x: x.reshape(-1, *x.shape[2:])
    unfold = lambda x: x.reshape(-1, envs, *x.shape[1:])
    mask = jnp.repeat(shard.mask, envs, axis=0)
    z = fold(world_model.encode(model, params, jnp.concatenate([acting.frame, observation[:, :, None]], axis=2)))
    context = Context(z[:, :-1], fold(acting.action), fold(acting.length))
    root, node = world_model.start(model, params, rows, context, z[:, -1], mask)

    def follow(action, node):
        reward, on, prediction, node = world_model.follow(model, params, rows, node, action, mask)
        return reward, on, prediction.policy, targets.scalar(prediction.value), node

    draw = jax.vmap(functools.partial(search.noise, agent.search, envs=envs))
    drawn = explore or agent.sampled
    noise = jax.tree.map(fold, draw(task_keys(step, "act", shard), shard.mask)) if drawn else None
    setup = agent.search if explore else dataclasses.replace(agent.search, fraction=0.0)
    warmth = search.temperature(agent.search, state.update)
    value = targets.scalar(root.value)
    found = search.search(setup, follow, root.policy, value, node, mask, noise, warmth)
    action = unfold(found.action)
    return Acted(action, {"policy": unfold(found.policy)}, world_model.push(acting, observation, action))


# --- After an evaluation ----------------------------------------------------------------------------------------------


def after_evaluation(agent: Agent, state: State, normalised: jax.Array, step: jax.Array | int) -> State:
    """The state with the tasks marked solved whose normalised score [K] has reached the target; NaN: not known. What
    they had then, after `step` agent steps a task, is kept.

    A solved task leaves the loss or keeps a share of it; at the next update the stage follows.
    """
    now = (jnp.asarray(normalised) >= agent.stages.target) & ~state.solved
    found = {"steps": jnp.float32(step), "score": normalised}
    reached = {name: jnp.where(now, found[name], old) for name, old in state.reached.items()}
    return state._replace(solved=state.solved | now, reached=reached)
