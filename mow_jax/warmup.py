"""The end of the warm-up: gradients of all tasks on the shared rows become the task table. Called by train, and
by preflight for a table that is given."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from mow_jax import clustering, processes
from mow_jax.agent import Agent
from mow_jax.learner import Learner
from mow_jax.replay import Replay
from mow_jax.types import Batch, Table


def make_table(config: ConfigDict, names: list[str], learner: Learner, replay: Replay) -> clustering.Clusters:
    """The task table by `clustering.method`, or from `clustering.table`; process 0's, if last bits differ elsewhere."""
    made = own_table(config, names, learner, replay)
    return made._replace(table=Table(*map(np.array, processes.from_first([x.tolist() for x in made.table]))))


def own_table(config: ConfigDict, names: list[str], learner: Learner, replay: Replay) -> clustering.Clusters:
    """The same as this process computes it."""
    routing, settings = learner.agent.world.routing, config.clustering
    if settings.table:
        return given_table(config, names, learner.agent)
    needed = settings.method in clustering.GRADIENT_METHODS and len(names) > 1
    layers = mean_gradients(config, learner, replay) if needed else None
    made = clustering.cluster_tasks(names, layers, method=settings.method, seed=config.seed, **_sizes(learner.agent))
    if config.train.init_from and not config.warmup.updates and settings.method in clustering.GRADIENT_METHODS:
        losses = learner.row_losses(batches(config, replay))  # rows differ from the start: which fits a task best?
        best = processes.gather_rows(losses, len(names)).argmin(1)
        made = made._replace(table=Table(best, made.table.experts))
    if routing.mode == "learned":  # the file records the router's selection at the warm-up's end
        made = made._replace(table=Table(made.table.cluster, learner.table.experts))
    return made


def given_table(config: ConfigDict, names: list[str], agent: Agent) -> clustering.Clusters:
    """The task table in the file `clustering.table`. Raises BadInput where it is none or does not fit."""
    return clustering.read(config.clustering.table, names, **_sizes(agent))


def _sizes(agent: Agent) -> dict[str, int]:
    routing = agent.world.routing
    return dict(clusters=agent.world.clusters, experts=routing.experts, active=routing.active)


def mean_gradients(config: ConfigDict, learner: Learner, replay: Replay) -> dict[str, dict[str, np.ndarray]]:
    """Gradient vectors {part: {layer: [K, V]}} of all processes' tasks, averaged over M batches of the buffer."""
    settings = config.clustering
    layers = learner.task_gradients(batches(config, replay), settings.vector, settings.projection)
    return jax.tree.map(lambda rows: processes.gather_rows(rows, learner.agent.world.routing.tasks), layers)


def batches(config: ConfigDict, replay: Replay) -> Iterator[Batch]:
    """M batches of windows [K, B, T] of the buffer."""
    batch = config.batch
    return (replay.sample(batch.sequences, batch.length, i, "gradients") for i in range(config.clustering.batches))
