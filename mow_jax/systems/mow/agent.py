"""THE ALGORITHM in the paper's order: pure init, end_warmup, update, warmup_update, act.

Everything but `init` and `end_warmup` runs inside a program with the named axis "device" (see learner.py): parameters
are replicated, tasks are sharded. A device holds the tasks `shard.ids`; per-task state has all K rows everywhere.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from mow_jax.ops import precision, routing, updates
from mow_jax.ops.keys import named_key, task_keys
from mow_jax.systems.mow import actor_critic, imagination, router, world_model
from mow_jax.systems.mow.actor_critic import ActorCritic
from mow_jax.systems.mow.imagination import Imagination
from mow_jax.systems.mow.types import ActState, Dream, Table, TrainState
from mow_jax.systems.mow.world_model import ROW_AXES, Rows, WorldModel
from mow_jax.types import Batch, Shard


@dataclasses.dataclass(frozen=True)
class Agent:
    """Sizes and settings; one instance is closed over by every compiled function."""

    world: WorldModel
    behaviour: ActorCritic
    imagination: Imagination
    scales: tuple[tuple[str, float], ...]  # of the world model's loss terms, by name
    balance: float
    harmony: str  # start of s_k: "optimum", "zero"; "off": unweighted
    return_init: str  # "first" or "zero"
    world_lr: float
    world_eps: float
    world_clip: float
    world_update_clip: float
    router_lr: float
    harmony_lr: float
    agent_lr: float
    agent_eps: float
    agent_clip: float
    slow_decay: float

    @functools.cached_property
    def world_optimizer(self) -> optax.GradientTransformation:
        """Adam behind the global-norm clip, for all of the world model."""
        return updates.adam(self.world_lr, self.world_eps, self.world_clip, self.world_update_clip)

    @functools.cached_property
    def harmony_optimizer(self) -> optax.GradientTransformation:
        """Adam for s_k, outside the clip."""
        return optax.adam(self.harmony_lr)

    @functools.cached_property
    def agent_optimizer(self) -> optax.GradientTransformation:
        """One Adam behind the clip, for actor and critics."""
        return optax.chain(optax.clip_by_global_norm(self.agent_clip), optax.adam(self.agent_lr, eps=self.agent_eps))


# --- Beginning, and the end of the warm-up ----------------------------------------------------------------------------


def init(agent: Agent, seed: jax.Array | int) -> TrainState:
    """The state before the first update: every task on cluster row 0, experts by the router's first scores, evenly."""
    key_world, key_behaviour = jax.random.split(named_key(seed, 0, "init"))
    params, statistics = world_model.init(agent.world, key_world)
    actor, critic = actor_critic.init(agent.behaviour, key_behaviour)
    rules, zeros = agent.world.routing, jnp.zeros(agent.world.routing.tasks)
    experts = router.first_selection(router.scores(rules, params["shared"], 0), rules.active, rules.first)
    experts = jnp.zeros_like(experts) if rules.mode == "table" else experts
    return TrainState(
        update=jnp.int32(0),
        params=params,
        statistics=statistics,
        harmony=zeros,
        actor=actor,
        critic=critic,
        slow_critic=jax.tree.map(jnp.copy, critic),
        return_scale=zeros if agent.return_init == "zero" else jnp.full_like(zeros, jnp.nan),
        table=Table(zeros.astype(jnp.int32), experts),
        world_optimizer=agent.world_optimizer.init(ravel_pytree(params)[0]),
        harmony_optimizer=agent.harmony_optimizer.init(zeros),
        agent_optimizer=agent.agent_optimizer.init(ravel_pytree((actor, critic))[0]),
        skipped=jnp.zeros(2, jnp.int32),
    )


def end_warmup(agent: Agent, state: TrainState, table: Table, copy_rows: bool) -> TrainState:
    """The state that training proper starts from: the table set, warm rows copied to all rows, optimisers afresh.

    Rows are copied only where a warm-up has trained row 0 (`copy_rows`); experts only in table mode, where all tasks
    used row 0. The harmonious weights and their optimiser carry on.
    """
    copy = functools.partial(jax.tree.map, lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape))
    params, statistics = dict(state.params), state.statistics
    if copy_rows:
        params["cluster"], statistics = copy(params["cluster"]), copy(statistics)
        if agent.world.routing.mode == "table":
            params["expert"] = copy(params["expert"])
    optimizer = agent.world_optimizer.init(ravel_pytree(params)[0])
    return state._replace(params=params, statistics=statistics, table=table, world_optimizer=optimizer)


# --- One update: world model, imagination, actor and critics ----------------------------------------------------------


def update(agent: Agent, state: TrainState, batch: Batch, contexts: Batch, shard: Shard) -> tuple[TrainState, dict]:
    """One whole update from windows [K', B, T] and contexts [K', N, C]; metrics are scalars, [K] or [N_e] arrays."""
    learned, world_metrics = learn_world(agent, state, batch, shard)
    fixed = cast_once(agent, learned)
    rows = gather(agent, fixed, shard)
    dream = imagine(agent, fixed, rows, contexts, shard)
    learned, agent_metrics = learn_behaviour(agent, learned, rows, dream, shard, world_metrics["world/gradient_norm"])
    return count(learned, world_metrics | agent_metrics)


def warmup_update(agent: Agent, state: TrainState, batch: Batch, shard: Shard) -> tuple[TrainState, dict]:
    """An update of the world model alone."""
    return count(*learn_world(agent, state, batch, shard))


def count(state: TrainState, metrics: dict) -> tuple[TrainState, dict]:
    """Counts the update, and that it was skipped where a gradient was not finite."""
    finite = jnp.isfinite(metrics["world/gradient_norm"]) & jnp.isfinite(metrics.get("agent/gradient_norm", 0.0))
    skipped, counts = updates.counted(finite, state.skipped)
    return state._replace(update=state.update + 1, skipped=skipped), metrics | counts


# --- The world model --------------------------------------------------------------------------------------------------


def learn_world(agent: Agent, state: TrainState, batch: Batch, shard: Shard) -> tuple[TrainState, dict]:
    """Re-selects the experts, then one Adam step on L_H + 0.1 L_bal."""
    chex.assert_rank([batch.observation, batch.reward, batch.is_first], [6, 3, 3])
    rules, old = agent.world.routing, state.table.experts
    scores = router.scores(rules, state.params["shared"], state.update)
    experts = router.select(rules, scores, old, state.update, named_key(shard.seed[0], state.update, "router"))
    experts = routing.of_first_device(experts)  # scores may differ in their last bits from one machine to another
    before, state = state, state._replace(table=state.table._replace(experts=experts))

    grad = jax.grad(world_loss, argnums=(1, 2), has_aux=True)
    gradients, (harmony, statistics, metrics) = grad(agent, state.params, state.harmony, state, batch, shard)
    # One flat vector each: a single reduction over the devices, and a tenth of the operations in the optimiser.
    gradient, unravel = ravel_pytree(gradients[0])
    gradient, harmony_gradient = jax.lax.psum((gradient, gradients[1]), "device")
    step, world_optimizer = agent.world_optimizer.update(gradient, state.world_optimizer)
    step = unravel(jax.lax.optimization_barrier(step))  # else each leaf would compute its step anew
    if "router" in step["shared"]:
        step["shared"]["router"] = optax.tree.scale(agent.router_lr / agent.world_lr, step["shared"]["router"])
    harmony_step, harmony_optimizer = agent.harmony_optimizer.update(harmony_gradient, state.harmony_optimizer)
    metrics |= {
        "world/gradient_norm": jnp.linalg.norm(gradient),
        "router/switches": (experts != old).sum(),
        "router/load": router.load(experts, rules.experts) / rules.tasks,
        "router/tau": router.temperature(rules, state.update),
    }
    state = state._replace(
        params=optax.apply_updates(state.params, step),
        statistics=statistics,
        harmony=harmony + harmony_step,
        world_optimizer=world_optimizer,
        harmony_optimizer=harmony_optimizer,
    )
    state = updates.kept(jnp.isfinite(metrics["world/gradient_norm"]), state, before)
    return state, metrics | {"harmony": jnp.exp(state.harmony)}


def world_loss(agent: Agent, params: Any, harmony: jax.Array, state: TrainState, batch: Batch, shard: Shard):
    """This device's share of the loss; auxiliary: s [K] as used, new batch-norm statistics, metrics."""
    rows = gather(agent, state._replace(params=params), shard)
    keys = task_keys(state.update, "world", shard)
    terms, (statistics, kl) = task_losses(agent, rows, batch, shard, state, keys, train=True)
    total = sum(scale * terms[name] for name, scale in agent.scales)
    spread = functools.partial(routing.everywhere, shard=shard, tasks=agent.world.routing.tasks)

    # Harmonious weighting: sum_k L_k / sigma_k + ln(1 + sigma_k).
    if agent.harmony == "optimum":
        optimum = jnp.log((total + jnp.sqrt(total**2 + 4 * total)) / 2)
        harmony += jnp.where(state.update == state.skipped[0], jax.lax.stop_gradient(spread(optimum) - harmony), 0.0)
    sigma = jnp.exp(harmony[shard.ids])
    weighted = total if agent.harmony == "off" else total / sigma + jnp.log1p(sigma)

    # The balance loss sees all tasks on every device: each contributes its share to the sum over devices.
    scores = router.scores(agent.world.routing, params["shared"], state.update)
    balance = router.balance_loss(agent.world.routing, scores, state.table.experts, state.update)
    loss = (weighted * shard.valid).sum() + agent.balance * balance / jax.lax.psum(1, "device")

    statistics = routing.merge_rows(state.statistics, statistics, state.table.cluster[shard.ids], shard.valid)
    metrics = {f"world/{name}": spread(value) for name, value in (terms | {"kl": kl, "total": total}).items()}
    return loss, (harmony, statistics, metrics | {"router/balance": balance})


def task_losses(agent: Agent, rows: Rows, batch: Batch, shard: Shard, state: TrainState, keys, train: bool):
    """The loss terms of the device's tasks, each [K'], with the new batch-norm statistics and the raw KL."""
    model = agent.world

    def one_task(task_rows, task_batch, task, valid, cluster, key):
        pool = lambda x: routing.pool_by_row(x * valid, cluster, model.clusters)  # padding does not count
        return world_model.losses(model, task_rows, task_batch, task, key, train, pool)

    run = jax.vmap(one_task, in_axes=(ROW_AXES, 0, 0, 0, 0, 0), axis_name="task")
    terms, rest = run(rows, batch, shard.ids, shard.valid, state.table.cluster[shard.ids], keys)
    assert {name for name, _ in agent.scales} == set(terms), (agent.scales, set(terms))
    return terms, rest


def gather(agent: Agent, state: TrainState, shard: Shard) -> Rows:
    """The rows of the device's tasks."""
    scores = router.scores(agent.world.routing, state.params["shared"], state.update)
    return world_model.gather(agent.world, state.params, state.statistics, state.table, shard.ids, scores)


def cast_once(agent: Agent, state: TrainState) -> TrainState:
    """The state to imagine and act with: without gradients, so that weights can be in the products' precision."""
    params, actor = precision.cast_once((state.params, state.actor), agent.world.dtype)
    return state._replace(params=params, actor=actor)


# --- Imagination ------------------------------------------------------------------------------------------------------


def imagine(agent: Agent, state: TrainState, rows: Rows, contexts: Batch, shard: Shard) -> Dream:
    """Rollouts [K', N, ...] of the actor from real contexts [K', N, C]."""
    run = functools.partial(imagination.imagine, agent.imagination, agent.world, agent.behaviour, state.actor)
    keys = task_keys(state.update, "imagine", shard)
    return jax.vmap(run, in_axes=(ROW_AXES, 0, 0, 0))(rows, contexts, shard.mask, keys)


# --- Actor and critics ------------------------------------------------------------------------------------------------


def learn_behaviour(agent: Agent, state: TrainState, rows: Rows, dream: Dream, shard: Shard, world_norm=0.0):
    """One Adam step of actor and critics on the dream, then the slow critic's average; if both norms are finite."""
    grad = jax.grad(behaviour_loss, argnums=1, has_aux=True)
    gradient, (scale, metrics) = grad(agent, (state.actor, state.critic), state, rows, dream, shard)
    gradient, unravel = ravel_pytree(gradient)
    gradient = jax.lax.psum(gradient, "device")
    step, agent_optimizer = agent.agent_optimizer.update(gradient, state.agent_optimizer)
    actor, critic = optax.apply_updates((state.actor, state.critic), unravel(jax.lax.optimization_barrier(step)))
    slow = optax.incremental_update(critic, state.slow_critic, 1 - agent.slow_decay)
    new = dict(actor=actor, critic=critic, slow_critic=slow, return_scale=scale, agent_optimizer=agent_optimizer)
    norm = jnp.linalg.norm(gradient)
    state = updates.kept(jnp.isfinite(norm + world_norm), state._replace(**new), state)
    return state, metrics | {"agent/gradient_norm": norm}


def behaviour_loss(agent: Agent, params: tuple, state: TrainState, rows: Rows, dream: Dream, shard: Shard):
    """This device's share of the loss, summed over tasks; auxiliary: the return scales P [K], metrics."""
    (actor, critic), cluster = params, state.table.cluster[shard.ids]
    critics = routing.take_rows(critic, cluster), routing.take_rows(state.slow_critic, cluster)
    run = jax.vmap(functools.partial(actor_critic.losses, agent.behaviour, actor), axis_name="task")
    terms, scale, metrics = run(*critics, dream, rows.embedding, state.return_scale[shard.ids], shard.mask, shard.valid)
    loss = terms["policy"] + terms["critic"] + terms["slow"] - agent.behaviour.entropy * terms["entropy"]
    spread = functools.partial(routing.everywhere, shard=shard, tasks=agent.world.routing.tasks)
    metrics = {f"agent/{name}": spread(value) for name, value in (terms | metrics).items()}
    return (loss * shard.valid).sum(), (spread(scale), metrics)


# --- Acting -----------------------------------------------------------------------------------------------------------


def act(agent: Agent, state: TrainState, acting: ActState, observation, is_first, step, shard: Shard, best=False):
    """Actions [K', E] (or [K', E, A]), sampled or the `best`, for frames [K', E, S, S, 3] at joint step `step`; the new
    contexts."""
    state = cast_once(agent, state)
    run = functools.partial(imagination.act, agent.imagination, agent.world, agent.behaviour, state.actor, best=best)
    keys = task_keys(step, "act", shard)
    vmapped = jax.vmap(run, in_axes=(ROW_AXES, 0, 0, 0, 0, 0))
    return vmapped(gather(agent, state, shard), acting, observation, is_first, shard.mask, keys)
