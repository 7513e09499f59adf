"""One task's dream as a place to play in: pure functions for `types.Playable`. Called by play."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mow_jax.systems.mow import actor_critic, imagination, router, world_model
from mow_jax.systems.mow.agent import Agent
from mow_jax.systems.mow.types import ActState, TrainState
from mow_jax.systems.mow.world_model import ROW_AXES, Rows
from mow_jax.types import BadInput


class Own(NamedTuple):
    """What of the state one task needs."""

    rows: Rows
    actor: Any


class Moment(NamedTuple):
    """Where a dream is."""

    acting: ActState  # of one environment
    z: jax.Array  # [1, Z]
    hidden: jax.Array  # [1, D], of the step before


def rows(agent: Agent, state: TrainState, task: int) -> Own:
    """One task's rows of the parameters, and the actor."""
    scores = router.scores(agent.world.routing, state.params["shared"], state.update)
    ids = jnp.array([task], jnp.int32)
    rows = world_model.gather(agent.world, state.params, state.statistics, state.table, ids, scores)
    alone = lambda part, axis: part if axis is None else jax.tree.map(lambda leaf: leaf[0], part)
    return Own(Rows(*map(alone, rows, ROW_AXES)), state.actor)


def see(agent: Agent, own: Own, frame: jax.Array, key: jax.Array) -> tuple[Moment, jax.Array]:
    """A dream that begins with a real frame [S, S, 3], and what the decoder makes of it."""
    posterior, _ = world_model.encode(agent.world, own.rows, frame[None, None], key)
    acting = jax.tree.map(lambda x: x[0], imagination.init_acting(agent.imagination, agent.world, 1, 1))
    z = posterior.z[:, 0]
    return Moment(acting, z, jnp.zeros((1, agent.world.width), agent.world.dtype)), picture(agent, own.rows, z)


def picture(agent: Agent, rows: Rows, z: jax.Array) -> jax.Array:
    """The frame [S, S, 3] in 0..1 of a latent [1, Z]."""
    return world_model.decode(agent.world, rows, z[:, None])[0, 0].clip(0, 1)


def choose(agent: Agent, own: Own, dream: Moment, mask: jax.Array, key: jax.Array) -> jax.Array:
    """The actor's action in the dream."""
    features = actor_critic.features(dream.z, dream.hidden, own.rows.embedding)
    pi = actor_critic.policy(agent.behaviour, own.actor, features, mask)
    return actor_critic.executed(agent.behaviour, actor_critic.sample(agent.behaviour, key, pi, mask))[0]


def move(agent: Agent, own: Own, dream: Moment, action: jax.Array, key: jax.Array) -> tuple:
    """One step of the dream, its reward, continuation and frame."""
    made = imagination.dream_step(agent.world, own.rows, dream.acting, dream.z, action[None], key)
    acting, z, hidden, reward, continuation = made
    return Moment(acting, z, hidden), reward[0], continuation[0], picture(agent, own.rows, z)


def chosen(state: TrainState, task: int) -> list[int]:
    """The experts of a task."""
    return np.asarray(state.table.experts)[task].tolist()


def exchange(state: TrainState, task: int, chosen: list[int]) -> TrainState:
    """The state with other experts for a task. Raises BadInput for a wrong number of them."""
    table = np.array(state.table.experts)
    if len(chosen) != table.shape[1]:
        raise BadInput(f"experts {chosen} are not possible: give {table.shape[1]} numbers")
    table[task] = chosen
    return state._replace(table=state.table._replace(experts=table))
