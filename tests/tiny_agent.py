"""A tiny agent of five tasks that share clusters and experts in part, with batches and states for it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from compiled import quick
from ml_collections import ConfigDict

from mow_jax import build, config
from mow_jax.systems.mow import agent as algorithm
from mow_jax.systems.mow import build as mow
from mow_jax.systems.mow.agent import Agent
from mow_jax.systems.mow.types import Table, TrainState
from mow_jax.systems.mow.world_model import Rows
from mow_jax.types import Batch, Shard, Task

# Tasks 0, 1 share nothing with tasks 2, 3; task 4 shares its cluster with task 2 and an expert with each side.
# Nobody uses cluster 3 and expert 4.
TABLE = Table(np.array([0, 0, 1, 2, 1], np.int32), np.array([[0, 1], [1, 0], [2, 3], [3, 2], [0, 3]], np.int32))
TASKS, NOBODYS_CLUSTER, NOBODYS_EXPERT = 5, 3, 4


def tiny_settings(suite_tasks: tuple[str, ...] = ("toy5",)) -> ConfigDict:
    """Those of the agents here."""
    settings = config.default()
    settings.suite.update(name="toy", tasks=suite_tasks, image_size=16)
    settings.batch.update(sequences=2, length=6)
    settings.model.update(
        embedding=8, categoricals=3, classes=4, channels=4, width=16, layers=1, shared_layers=1, heads=2, head_width=16
    )
    settings.router.update(experts=5, active=2)
    settings.clustering.update(clusters=4)
    settings.agent.update(contexts=3, context=3, horizon=3, act_context=4, width=16)
    # Adam makes steps of full size from gradients that are nothing but rounding: a large epsilon keeps runs comparable.
    settings.optimizer.update(world_eps=1.0, agent_eps=1.0, harmony_lr=1e-6)
    return settings


def tiny_agent(suite_tasks: tuple[str, ...] = ("toy5",), copies: int = 0) -> tuple[Agent, list[Task]]:
    """An agent and its tasks; with `copies` so many tasks, the same ones again and again."""
    settings = tiny_settings(suite_tasks)
    if copies:
        settings.optimizer.update(world_lr=1e-2, agent_lr=1e-2)
    config.check(settings)
    tasks = build.tasks(settings)
    tasks = (tasks * copies)[:copies] or tasks
    return mow.agent(settings, tasks, build.plan(settings)), tasks


AGENT, TASK_LIST = tiny_agent()


def random_batch(seed: int, sequences: int = 2, length: int = 6, tasks: int = TASKS) -> Batch:
    """Windows [K, B, T] inside one episode, without a termination."""
    rng, shape = np.random.default_rng(seed), (tasks, sequences, length)
    frames = rng.integers(0, 256, (*shape, 16, 16, 3), np.uint8)
    no = np.zeros(shape, bool)
    action = rng.integers(0, AGENT.world.action_size, shape).astype(np.int32)
    return Batch(frames, action, rng.normal(size=shape).astype(np.float32), no, no.copy())


BATCH, CONTEXTS = random_batch(0), random_batch(1, 3, 3)


@functools.cache
def started() -> TrainState:
    """The first state with the table above, on the host."""
    made = jax.tree.map(np.asarray, quick(functools.partial(algorithm.init, AGENT))(0))
    return made._replace(table=TABLE)


def on_one_device(function):
    """A function that reduces over the axis "device", compiled for one of them."""

    def run(*args):
        outputs = jax.vmap(lambda _: function(*args), axis_name="device")(jnp.zeros(1))
        return jax.tree.map(lambda leaf: leaf[0], outputs)

    return quick(run)


SHARD = Shard(
    np.arange(TASKS, dtype=np.int32),
    np.ones(TASKS, np.float32),
    np.array([task.action_mask for task in TASK_LIST]),
    np.zeros(TASKS, np.uint32),
)


def rows_of(state: TrainState, task: int) -> Rows:
    """What one task sees of the parameters, by plain indexing."""
    params, cluster, experts = state.params, TABLE.cluster[task], TABLE.experts[task]
    row, embedding = lambda x: x[cluster], params["shared"]["embedding"][task]
    return Rows(
        cluster=jax.tree.map(row, params["cluster"]),
        statistics=jax.tree.map(row, state.statistics),
        experts=jax.tree.map(lambda x: x[experts], params["expert"]),
        shared=params["shared"],
        embedding=embedding / np.linalg.norm(embedding),
        gate=np.ones(2, np.float32),
    )
