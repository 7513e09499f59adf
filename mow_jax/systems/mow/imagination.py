"""Where the actor meets the world model: rollouts in imagination and actions in environments, of ONE task's rows.

Both start from the same state [z, h_{previous}], so that what the actor trains on is what it acts on.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from mow_jax.ops.distributions import sample_latent
from mow_jax.systems.mow import actor_critic, world_model
from mow_jax.systems.mow.actor_critic import ActorCritic
from mow_jax.systems.mow.blocks import causal_mask
from mow_jax.systems.mow.types import ActState, Dream
from mow_jax.systems.mow.world_model import Rows, WorldModel
from mow_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Imagination:
    """How rollouts start, how long they are, and what acting sees."""

    context: int  # C, frames before a rollout
    horizon: int  # H
    act_context: int  # L, past steps that acting attends to
    act_on: str  # "posterior", or "prior": blind to the current frame (STORM)
    continuation: str  # "soft", or "hard": threshold (STORM)


def imagine(
    setup: Imagination, model: WorldModel, behaviour: ActorCritic, actor, rows: Rows, contexts: Batch, mask, key
) -> Dream:
    """Rollouts from real contexts [B, C]: those in one parallel pass, then a token at a time through the K/V cache."""
    key_latent, key_start, key_steps = jax.random.split(key, 3)
    in_turn = jax.default_backend() == "cpu"  # accelerators have the memory, which learning the world model needs too
    posterior, _ = world_model.encode(model, rows, contexts.observation, key_latent, in_turn=in_turn)
    z, hidden, cache, seen = _start(setup, model, rows, posterior.z, contexts, key_start)
    start = seen.shape[-1] - setup.horizon
    time = jnp.arange(seen.shape[-1])

    def step(reach, carry, inputs):
        """One imagined step, within the first `reach` tokens: an action, and what the world model makes of it."""
        z, hidden, cache = carry
        i, key_step = inputs
        key_action, key_prior = jax.random.split(key_step)
        pi = actor_critic.policy(behaviour, actor, actor_critic.features(z, hidden, rows.embedding), mask)
        action = actor_critic.sample(behaviour, key_action, pi, mask)
        taken = actor_critic.executed(behaviour, action)
        visible = (seen | ((time >= start) & (time <= start + i)))[:, None, :reach]
        out, cache = world_model.transition(model, rows, z[:, None], taken[:, None], visible, cache, start + i)
        following = sample_latent(key_prior, world_model.prior(model, rows, out[:, 0])).astype(model.dtype)
        return (following, out[:, 0], cache), (z, hidden, action)

    keys, carry, parts = jax.random.split(key_steps, setup.horizon), (z, hidden, cache), []
    for begin, end in _parts(setup.horizon):
        carry, part = jax.lax.scan(
            functools.partial(step, start + end), carry, (jnp.arange(begin, end), keys[begin:end])
        )
        parts.append(part)
    zs, hiddens, actions = jax.tree.map(lambda *part: jnp.concatenate(part).swapaxes(0, 1), *parts)
    zs, hiddens = (jnp.concatenate([x, last[:, None]], axis=1) for x, last in ((zs, carry[0]), (hiddens, carry[1])))
    outcome = hiddens[:, 1:]  # reward and continuation are read from the state that has seen the action
    logit = world_model.termination_logit(model, rows, outcome)
    soft = setup.continuation == "soft"
    continuation = 1 - jax.nn.sigmoid(logit) if soft else (logit <= 0).astype(jnp.float32)
    reward = world_model.predicted_reward(model, rows, outcome)
    return Dream(zs, hiddens, actions, reward, continuation)


def _parts(horizon: int) -> list[tuple[int, int]]:
    """A rollout's steps in parts, each a loop that attends to what is written by its end: on accelerators, where
    reading the cache is a third of a step's bytes, two; on CPUs, where it is little and compiling takes long, one."""
    half = horizon // 2 if jax.default_backend() != "cpu" else 0
    return [(begin, end) for begin, end in ((0, half), (half, horizon)) if begin < end]


def _start(setup: Imagination, model: WorldModel, rows: Rows, z: jax.Array, contexts: Batch, key: jax.Array):
    """First state (z, h_{previous}), filled cache, and the context tokens [B, C' + H] that a rollout may attend to.

    "posterior": the last frame's own latent with the hidden state of the step before it (zero at an episode's start).
    "prior" (STORM): the whole context is history and the latent a draw from the prior after it.
    """
    blind = setup.act_on == "prior"
    known = setup.context if blind else setup.context - 1
    count, length = z.shape[0], known + setup.horizon
    segment = world_model.segments(model, contexts.is_first)
    mine = segment[:, :known] == segment[:, -1:]
    seen = jnp.zeros((count, length), bool).at[:, :known].set(mine)
    cache, hidden = model.dynamics.empty_cache(count, length), jnp.zeros((count, model.width), model.dtype)
    if known:
        attend = jnp.zeros((count, known, length), bool).at[:, :, :known].set(causal_mask(segment[:, :known]))
        out, cache = world_model.transition(model, rows, z[:, :known], contexts.action[:, :known], attend, cache)
        hidden = jnp.where(mine[:, -1:], out[:, -1], 0)
    first = sample_latent(key, world_model.prior(model, rows, hidden)) if blind else z[:, -1]
    return first.astype(model.dtype), hidden, cache, seen


def init_acting(setup: Imagination, model: WorldModel, tasks: int, envs: int) -> ActState:
    """Empty contexts for `envs` environments of each of `tasks` tasks."""
    shape = (tasks, envs, setup.act_context)
    action = jnp.zeros(shape, jnp.int32) if model.discrete else jnp.zeros((*shape, model.action_size))
    latent = jnp.zeros((*shape, model.categoricals), jnp.int32)
    return ActState(latent, action, jnp.zeros((tasks, envs), jnp.int32))


def act(
    setup: Imagination,
    model: WorldModel,
    behaviour: ActorCritic,
    actor,
    rows: Rows,
    acting,
    frames,
    is_first,
    mask,
    key,
    best: bool = False,
):
    """Sampled actions [E] (or [E, A]) for frames [E, S, S, 3], and the new contexts [E, L, ...]; with `best` the
    policy's likeliest actions, of latents that are drawn all the same.

    Each frame is encoded once: its latent stays in the context.
    """
    key_latent, key_prior, key_action = jax.random.split(key, 3)
    if model.mask_boundaries:
        acting = acting._replace(length=jnp.where(is_first, 0, acting.length))
    posterior, _ = world_model.encode(model, rows, frames[:, None], key_latent)
    hidden = _context_hidden(model, rows, acting)
    z = posterior.z[:, 0]
    seen = z if setup.act_on == "posterior" else sample_latent(key_prior, world_model.prior(model, rows, hidden))
    pi = actor_critic.policy(behaviour, actor, actor_critic.features(seen, hidden, rows.embedding), mask)
    choice = (
        actor_critic.likeliest(behaviour, pi, mask) if best else actor_critic.sample(behaviour, key_action, pi, mask)
    )
    action = actor_critic.executed(behaviour, choice)
    return action, _push(acting, z.reshape(-1, model.categoricals, model.classes).argmax(-1), action)


def _context_hidden(model: WorldModel, rows: Rows, acting: ActState) -> jax.Array:
    """h_{t-1} [E, D] after the steps in the context, zero where it is empty."""
    z = jax.nn.one_hot(acting.latent, model.classes).reshape(*acting.latent.shape[:-1], model.latent)
    causal = causal_mask(jnp.zeros(acting.latent.shape[:2], jnp.int32))
    hidden, _ = world_model.transition(model, rows, z, acting.action, causal)
    last = jnp.take_along_axis(hidden, jnp.maximum(acting.length - 1, 0)[:, None, None], axis=1)[:, 0]
    return jnp.where(acting.length[:, None] > 0, last, 0)


def _push(acting: ActState, latent: jax.Array, action: jax.Array) -> ActState:
    """Appends one step to every context [E, L, ...]; a full one drops its oldest."""
    size = acting.latent.shape[1]
    full = acting.length == size
    at = jnp.minimum(acting.length, size - 1)

    def append(context: Any, item: Any) -> Any:
        wide = lambda flag: flag.reshape(flag.shape + (1,) * (context.ndim - flag.ndim))
        shifted = jnp.where(wide(full), jnp.roll(context, -1, axis=1), context)
        return jnp.where(wide(jnp.arange(size) == at[:, None]), item[:, None].astype(context.dtype), shifted)

    return ActState(append(acting.latent, latent), append(acting.action, action), jnp.minimum(acting.length + 1, size))


def dream_step(model: WorldModel, rows: Rows, acting: ActState, z, action, key):
    """One imagined step of E rollouts by hand: latents z [E, Z] and actions [E] (or [E, A]) join the contexts.

    Returns those, the next latents, the hidden states [E, D] before them, and predicted reward and continuation [E].
    """
    acting = _push(acting, z.reshape(-1, model.categoricals, model.classes).argmax(-1), action)
    hidden = _context_hidden(model, rows, acting)
    following = sample_latent(key, world_model.prior(model, rows, hidden))
    continuation = 1 - jax.nn.sigmoid(world_model.termination_logit(model, rows, hidden))
    return acting, following, hidden, world_model.predicted_reward(model, rows, hidden), continuation
