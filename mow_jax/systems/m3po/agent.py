"""THE ALGORITHM of the M3PO-style system (paper details unavailable): pure init, update, on_policy, act.

`update` is TD-MPC2's: model and value functions learn from replay, with raw rewards, then the policy climbs the new
values. `on_policy` is the trust region on fresh rows with the bonus for disagreement. All run inside a program with the
named axis "device": parameters are replicated, tasks are sharded; a device holds the tasks `shard.ids`.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from mow_jax.ops import routing, updates
from mow_jax.ops.keys import named_key, task_keys
from mow_jax.systems.m3po import chance, fresh, networks, planner, world_model
from mow_jax.systems.m3po.fresh import Trust
from mow_jax.systems.m3po.planner import Planner
from mow_jax.systems.m3po.types import ActState, Draws, State
from mow_jax.systems.m3po.world_model import WorldModel
from mow_jax.types import Acted, Batch, Shard


@dataclasses.dataclass(frozen=True)
class Agent:
    """Sizes and settings; one instance is closed over by every compiled function."""

    world: WorldModel
    planner: Planner
    trust: Trust | None  # None: no round on fresh rows, nobody acts by the bare policy: TD-MPC2
    gammas: tuple[float, ...]  # [K]
    scales: tuple[tuple[str, float], ...]  # of the model's loss terms, by name
    rho: float
    entropy: float
    climbs: bool  # the policy learns from replay
    updates: int  # in all, as first planned: what schedules refer to
    lr: float
    encoder_rate: float  # the encoder's share of it
    clip: float
    target_rate: float  # of the value functions' moving average

    @functools.cached_property
    def model_optimizer(self) -> optax.GradientTransformation:
        """Of all but the policy, as one vector."""
        return optax.chain(optax.clip_by_global_norm(self.clip), optax.adam(self.lr))

    @functools.cached_property
    def policy_optimizer(self) -> optax.GradientTransformation:
        """Of the policy, and of what learns in a round on fresh rows."""
        return optax.chain(optax.clip_by_global_norm(self.clip), optax.adam(self.lr, eps=1e-5))

    @property
    def critics(self) -> tuple[str, ...]:
        """Value functions of a latent alone: none without a trust region."""
        return self.trust.critics if self.trust else ()

    def by_policy(self, envs: int) -> int:
        """How many of a task's environments act by the bare policy while the system learns: the first ones."""
        return round(self.trust.share * envs) if self.trust else 0

    def rest(self, params: dict) -> dict:
        """The parameters that learn from replay with the model: all but policies and critics of fresh rows."""
        return {name: part for name, part in params.items() if name not in ("policy", *self.critics)}


# --- Beginning --------------------------------------------------------------------------------------------------------


def init(agent: Agent, seed: jax.Array | int) -> State:
    """The state before the first update."""
    params = world_model.init(agent.world, named_key(seed, 0, "init"), agent.critics)
    flat = lambda tree: ravel_pytree(tree)[0]
    optimizer = {"model": agent.model_optimizer.init(flat(agent.rest(params)))}
    optimizer["policy"] = agent.policy_optimizer.init(flat(learning(params, agent.critics[:1])))
    if agent.trust:
        optimizer["fresh"] = agent.policy_optimizer.init(flat(learning(params, agent.critics)))
    return State(
        update=jnp.int32(0),
        params=params,
        target=jax.tree.map(jnp.copy, params["q"]),
        optimizer=optimizer,
        anchor=jax.tree.map(jnp.copy, params["policy"]) if agent.trust else (),
        scale=jnp.ones(agent.world.tasks),
        skipped=jnp.zeros(2, jnp.int32),
    )


def learning(params: dict, critics: tuple[str, ...]) -> dict:
    """The policy and some critics: the first one learns from replay too, all do in a round on fresh rows."""
    return {name: params[name] for name in ("policy", *critics)}


# --- One update from replay -------------------------------------------------------------------------------------------


def update(agent: Agent, state: State, batch: Batch, shard: Shard) -> tuple[State, dict]:
    """One step from windows [K', B, H + 1]; metrics are scalars or [K] arrays."""
    draws = chance.drawn(agent.world, state.update, batch, shard)
    if agent.world.shift and not agent.world.numbers:
        moved = functools.partial(networks.shifted, most=agent.world.shift)
        batch = batch._replace(observation=jax.vmap(moved)(batch.observation, draws.offset))
    mean = shard.valid / agent.world.tasks  # a task's weight: losses are means over tasks

    # The model and its values.
    learns = agent.rest(state.params)
    grad = jax.grad(functools.partial(model_loss, agent), has_aux=True)
    gradient, (terms, z, alive) = grad(learns, state, batch, draws, shard, mean)
    flat, unravel = ravel_pytree(gradient)
    flat = jax.lax.psum(flat, "device")
    step, model_optimizer = agent.model_optimizer.update(flat, state.optimizer["model"])
    step = unravel(step)
    step["encoder"] = jax.tree.map(lambda leaf: agent.encoder_rate * leaf, step["encoder"])
    params = state.params | optax.apply_updates(learns, step)
    params["embedding"] = world_model.shortened(params["embedding"])
    optimizer = state.optimizer | {"model": model_optimizer}
    norms = {"world/gradient_norm": jnp.linalg.norm(flat)}

    # The policy, in the latents just unrolled, by the new values, and the critic that follows both.
    scale = new_scale(agent, state, params, z, draws, shard)
    grad = jax.grad(functools.partial(policy_loss, agent), has_aux=True)
    learns = learning(params, agent.critics[:1])
    gradient, said = grad(learns, params, scale, z, alive, draws, shard, mean)
    if not agent.climbs:  # only fresh rows teach the policy: the critic learns alone
        gradient["policy"] = jax.tree.map(jnp.zeros_like, gradient["policy"])
    flat, unravel = ravel_pytree(gradient)
    flat = jax.lax.psum(flat, "device")
    step, optimizer["policy"] = agent.policy_optimizer.update(flat, state.optimizer["policy"])
    params |= optax.apply_updates(learns, unravel(step))
    norms["policy/gradient_norm"] = jnp.linalg.norm(flat)
    said["scale"] = scale[shard.ids]

    target = optax.incremental_update(params["q"], state.target, agent.target_rate)
    new = state._replace(params=params, target=target, optimizer=optimizer, scale=scale)
    spread = functools.partial(routing.everywhere, shard=shard, tasks=agent.world.tasks)
    metrics = {f"world/{name}": spread(x) for name, x in terms.items()} | norms
    metrics |= {f"policy/{name}": spread(x) for name, x in said.items()}
    return keep_finite(state, new, metrics, norms)


def model_loss(agent: Agent, learns: dict, state: State, batch: Batch, draws: Draws, shard: Shard, mean):
    """This device's share of the mean over tasks; per task the terms, unrolled latents and which of them count."""
    model, params = agent.world, state.params | learns

    def one(e, fixed, mask, gamma, batch, draws):
        known = world_model.targets(model, state.params, state.target, fixed, mask, gamma, batch, draws)
        terms, z = world_model.losses(model, params, e, batch, known, agent.rho, draws.kept)
        return terms, z, known.alive

    embeddings = (p["embedding"][shard.ids] for p in (params, state.params))
    axes = (0, 0, 0, 0, 0, chance.ONE)
    terms, z, alive = jax.vmap(one, axes)(*embeddings, shard.mask, gammas(agent, shard), batch, draws)
    assert {name for name, _ in agent.scales} == set(terms), (agent.scales, world_model.TERMS)
    terms["total"] = sum(scale * terms[name] for name, scale in agent.scales)
    return (mean * terms["total"]).sum(), (terms, z, alive)


def policy_loss(agent: Agent, learns: dict, params: dict, scale, z, alive, draws: Draws, shard: Shard, mean):
    """This device's share of the mean over tasks, and metrics [K']. The critic follows the policy's value: by its few
    steps on fresh rows alone it stays far behind, and advantages are then little but returns."""
    model, policy, q = agent.world, learns["policy"], params["q"]

    def one(e, mask, z, alive, scale, draws):
        rows = (policy, q, e, mask, z, alive, scale, draws)
        loss, said = world_model.policy_loss(model, *rows, rho=agent.rho, entropy=agent.entropy)
        said["loss"] = loss
        if "value" in learns:
            value = world_model.policy_value(model, q, policy, e, mask, z[:, 0], draws)
            said["critic_loss"] = world_model.critic_loss(model, learns["value"], e, z[:, 0], value)
            loss = loss + said["critic_loss"]
        return loss, said

    rows = (params["embedding"][shard.ids], shard.mask, z, alive, scale[shard.ids], draws)
    loss, said = jax.vmap(one, (0, 0, 0, 0, 0, chance.ONE))(*rows)
    return (mean * loss).sum(), said


def new_scale(agent: Agent, state: State, params: dict, z, draws: Draws, shard: Shard) -> jax.Array:
    """The running range [K] of the tasks' values in first latents."""
    one = functools.partial(world_model.value_range, agent.world, params["q"], params["policy"])
    e = params["embedding"][shard.ids]
    found = jax.vmap(one, (0, 0, 0, chance.ONE))(e, shard.mask, z[:, :, 0], draws)
    found = routing.everywhere(found, shard, agent.world.tasks)
    return state.scale + agent.target_rate * (found - state.scale)


def gammas(agent: Agent, shard: Shard) -> jax.Array:
    """[K'] by the tasks' lengths."""
    return jnp.array(agent.gammas, jnp.float32)[shard.ids]


def keep_finite(old: State, new: State, metrics: dict, norms: dict) -> tuple[State, dict]:
    """The new state, or the old one with the skip counted where a gradient was not finite."""
    finite = jnp.isfinite(jnp.stack(list(norms.values()))).all()
    skipped, counts = updates.counted(finite, old.skipped)
    return updates.kept(finite, new, old)._replace(update=old.update + 1, skipped=skipped), metrics | counts


# --- One round on fresh rows ------------------------------------------------------------------------------------------


def on_policy(agent: Agent, state: State, batch: Batch, shard: Shard) -> tuple[State, dict]:
    """The trust region on the newest rows [K', E, T], of which those of the environments that acted by the bare policy
    teach; all that values and advantages need is computed first, with the parameters that acted."""
    assert agent.trust is not None
    trust, tasks = agent.trust, agent.world.tasks
    count = agent.by_policy(batch.reward.shape[1])
    mine = jax.tree.map(lambda x: x[:, :count], batch)
    e = state.params["embedding"][shard.ids]
    beta = trust.beta * jnp.maximum(0.0, 1.0 - state.update / max(agent.updates, 1))
    beta = beta * (trust.bonus != "none")
    prepare = functools.partial(fresh.prepare, agent.world, trust, state.params, beta=beta)
    rows, said = jax.vmap(lambda *x: prepare(*x))(e, shard.mask, gammas(agent, shard), mine)
    start = learning(state.params, agent.critics), state.optimizer["fresh"]
    given = (start, rows, e, shard, task_keys(state.update, "fresh", shard))
    learned, optimizer, moved, finite, going = fresh.epochs(agent.world, trust, agent.policy_optimizer, *given)

    params = state.params | updates.kept(finite, learned, start[0])
    optimizer = state.optimizer | {"fresh": updates.kept(finite, optimizer, start[1])}
    if count < batch.reward.shape[1]:
        said["acting/planner"] = batch.reward[:, count:].mean((1, 2))
    said |= {"acting/policy": mine.reward.mean((1, 2)), "fresh/first_moved": moved["fresh/moved"][0]}
    said |= {name: x.mean(0) for name, x in moved.items()}
    metrics = {name: routing.everywhere(x, shard, tasks) for name, x in said.items()}
    # Side by side, how far each way of learning moves the policy: a round, and the updates since the round before.
    metrics["fresh/step"] = fresh.distance(params["policy"], state.params["policy"])
    metrics["fresh/replay_step"] = fresh.distance(state.params["policy"], state.anchor)
    metrics |= {"bonus/weight": beta, "fresh/skipped": 1.0 - finite, "fresh/going": going}
    return state._replace(params=params, optimizer=optimizer, anchor=params["policy"]), metrics


# --- Acting -----------------------------------------------------------------------------------------------------------


def init_acting(agent: Agent, tasks: int, envs: int) -> ActState:
    """No plans yet, for `envs` environments of each of `tasks` tasks."""
    return ActState(jnp.zeros((tasks, envs, agent.planner.horizon, agent.world.action_size)))


def act(
    agent: Agent, state: State, acting: ActState, observation, is_first, step, shard: Shard, explore: bool = True
) -> Acted:
    """Actions [K', E, A] for frames [K', E, ...] at joint step `step`, what to store with the rows, and the plans.

    To learn, the first environments act by the bare policy, and the others take an elite of their plan with noise;
    without `explore` all plan and take the first action of the plan's mean.
    """
    model, params, envs = agent.world, state.params, is_first.shape[1]
    count = agent.by_policy(envs) if explore else 0
    e = params["embedding"][shard.ids]
    keys = jax.vmap(lambda key: jax.random.split(key, envs))(task_keys(step, "act", shard))
    z = jax.vmap(functools.partial(world_model.encode, model, params))(e, observation)
    start = planner.shifted(acting.mean) * ~is_first[..., None, None]

    def by_policy(e, mask, z, keys):
        noise = jax.vmap(lambda key: jax.random.normal(key, (model.action_size,)))(keys)
        choice = world_model.choose(model, params["policy"], e, mask, z, noise, exact=True)
        return choice.action, choice.raw, fresh.log_prob(choice, mask, choice.raw)

    def by_plan(e, mask, gamma, z, mean, keys):
        dream = world_model.dream(model, params, e, mask)

        def one(z, mean, key):
            noise = planner.draw(agent.planner, model.action_size, model.values, key)
            action, mean = planner.plan(agent.planner, dream, z, mean, mask, gamma, noise)
            return (action if explore else mean[0]), mean

        return jax.vmap(one)(z, mean, keys)

    action, mean, extras = jnp.zeros((*is_first.shape, model.action_size)), start, {}
    if count:
        first, raw, log_prob = jax.vmap(by_policy)(e, shard.mask, z[:, :count], keys[:, :count])
        action = action.at[:, :count].set(first)
    if count < envs:
        later = (z[:, count:], start[:, count:], keys[:, count:])
        planned, plans = jax.vmap(by_plan)(e, shard.mask, gammas(agent, shard), *later)
        action, mean = action.at[:, count:].set(planned), mean.at[:, count:].set(plans)
    if agent.trust:
        extras = {"raw": jnp.zeros_like(action), "log_prob": jnp.zeros(is_first.shape)}
        if count:
            extras = {
                "raw": extras["raw"].at[:, :count].set(raw),
                "log_prob": extras["log_prob"].at[:, :count].set(log_prob),
            }
    return Acted(action, extras, ActState(mean))
