"""The end of the warm-up: gradients of all tasks on the shared rows become the task table. Called by run (`end`), and
by preflight for a table that is given, both through the system's record."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mow_jax import processes
from mow_jax.learner import Learner
from mow_jax.replay import Replay
from mow_jax.systems.mow import agent as algorithm
from mow_jax.systems.mow import clustering, inspection
from mow_jax.systems.mow.agent import Agent
from mow_jax.systems.mow.types import Table
from mow_jax.types import Batch


def end(config: ConfigDict, names: list[str], agent: Agent, learner: Learner, replay: Replay, directory: Path) -> None:
    """Writes clusters.json and puts its table into the learner's state."""
    clusters = make_table(config, names, agent, learner, replay)
    if not processes.index():
        clustering.write(directory / "clusters.json", clusters)
    table = Table(*(np.asarray(rows, np.int32) for rows in clusters.table))
    learner.change(functools.partial(algorithm.end_warmup, agent, copy_rows=config.warmup.updates > 0), table)


def make_table(
    config: ConfigDict, names: list[str], agent: Agent, learner: Learner, replay: Replay
) -> clustering.Clusters:
    """The task table by `clustering.method`, or from `clustering.table`; process 0's, if last bits differ elsewhere."""
    made = own_table(config, names, agent, learner, replay)
    return made._replace(table=Table(*map(np.array, processes.from_first([x.tolist() for x in made.table]))))


def own_table(
    config: ConfigDict, names: list[str], agent: Agent, learner: Learner, replay: Replay
) -> clustering.Clusters:
    """The same as this process computes it."""
    settings = config.clustering
    if settings.table:
        return given_table(config, names, agent)
    needed = settings.method in (*clustering.GRADIENT_METHODS, "shuffled") and len(names) > 1
    layers = mean_gradients(config, agent, learner, replay) if needed else None
    made = clustering.cluster_tasks(names, layers, method=settings.method, seed=config.seed, **_sizes(agent))
    if config.train.init_from and not config.warmup.updates and settings.method in clustering.GRADIENT_METHODS:
        # Rows differ from the start: which fits a task best?
        losses = mean(learner, functools.partial(inspection.row_losses, agent), batches(config, replay))
        best = processes.gather_rows(losses, len(names)).argmin(1)
        made = made._replace(table=Table(best, made.table.experts))
    if agent.world.routing.mode == "learned":  # the file records the router's selection at the warm-up's end
        made = made._replace(table=Table(made.table.cluster, learner.single(learner.state.table).experts))
    return made


def check(config: ConfigDict, names: list[str], agent: Agent) -> None:
    """Raises BadInput where a table is given and does not fit."""
    if config.clustering.table:
        given_table(config, names, agent)


def given_table(config: ConfigDict, names: list[str], agent: Agent) -> clustering.Clusters:
    """The task table in the file `clustering.table`. Raises BadInput where it is none or does not fit."""
    return clustering.read(config.clustering.table, names, **_sizes(agent))


def _sizes(agent: Agent) -> dict[str, int]:
    routing = agent.world.routing
    return dict(clusters=agent.world.clusters, experts=routing.experts, active=routing.active)


def mean_gradients(
    config: ConfigDict, agent: Agent, learner: Learner, replay: Replay
) -> dict[str, dict[str, np.ndarray]]:
    """Gradient vectors {part: {layer: [K, V]}} of all processes' tasks, averaged over M batches of the buffer."""
    how = dict(vector=config.clustering.vector, size=config.clustering.projection)
    layers = mean(learner, functools.partial(inspection.task_gradients, agent, **how), batches(config, replay))
    return jax.tree.map(lambda rows: processes.gather_rows(rows, agent.world.routing.tasks), layers)


def mean(learner: Learner, function: Callable, batches: Iterator[Batch]) -> Any:
    """The mean over batches of what a function (state, batch, draw, shard) says of each, [K, ...] on the host."""
    compute = learner.measure(function)
    draws = [compute(batch, i) for i, batch in enumerate(batches)]
    return jax.tree.map(lambda *parts: np.mean(parts, axis=0), *draws)


def batches(config: ConfigDict, replay: Replay) -> Iterator[Batch]:
    """M batches of windows [K, B, T] of the buffer."""
    batch = config.batch
    return (replay.sample(batch.sequences, batch.length, i, "gradients") for i in range(config.clustering.batches))
