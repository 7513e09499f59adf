"""An update is the same on any number of devices, and sends no more than one gradient an optimiser."""

from __future__ import annotations

import functools
import math
import re

import jax
import numpy as np
import pytest
from compiled import hastily
from test_agent import quick_learner
from tiny_agent import random_batch, tiny_agent

from mow_jax.learner import Learner
from mow_jax.systems.mow import agent as algorithm
from mow_jax.systems.mow import clustering, inspection
from mow_jax.systems.mow.types import TrainState
from mow_jax.types import Batch, Task

UPDATES = 5
CASES = [(5, 4), (5, 2), (5, 8), (6, 2), (6, 4), (6, 8), (26, 2), (26, 4), (26, 8)]
IN_CI = {(5, 4)}


@functools.cache
def agent_of(tasks: int) -> tuple[algorithm.Agent, list[Task]]:
    """A tiny agent of so many tasks."""
    return tiny_agent(copies=tasks)


def batch_of(tasks: int, seed: int, *sizes: int) -> Batch:
    """Windows [K, B, T]."""
    return random_batch(seed, *sizes, tasks=tasks)


def windows_of(tasks: int, seed: int) -> tuple[Batch, Batch]:
    """What an update learns from: windows, and contexts of imagination."""
    return batch_of(tasks, seed), batch_of(tasks, seed + 50, 3, 3)


@functools.cache
def compiled(tasks: int, devices: int) -> Learner:
    """A learner whose update is an executable: tests that run it and that read it compile it once."""
    learner = quick_learner(jax.devices()[:devices], *agent_of(tasks))
    learner.load(first_state(tasks))
    windows = map(learner.deal, windows_of(tasks, 0))
    update = learner._updates["training"].lower(learner.state, *windows, learner._shard)
    learner._updates["training"] = update.compile()
    return learner


def trained(tasks: int, devices: int) -> tuple[TrainState, clustering.Clusters]:
    """The state after a few updates, and the clusters that its gradients give."""
    agent, learner = agent_of(tasks)[0], compiled(tasks, devices)
    learner.load(first_state(tasks))
    for seed in range(UPDATES):
        learner.update("training", *map(learner.deal, windows_of(tasks, seed)))
    gradients = functools.partial(inspection.task_gradients, agent, vector="layer_mean", size=0)
    with hastily():
        measured = learner.measure(gradients)
    layers = measured(batch_of(tasks, 99), 0)
    names = [str(k) for k in range(tasks)]
    sizes = dict(clusters=agent.world.clusters, experts=agent.world.routing.experts, active=agent.world.routing.active)
    return learner.snapshot(), clustering.cluster_tasks(names, layers, method="agglomerative", seed=0, **sizes)


@functools.cache
def first_state(tasks: int) -> TrainState:
    agent, _ = agent_of(tasks)
    state = jax.tree.map(np.asarray, jax.jit(functools.partial(algorithm.init, agent))(0))
    cluster = np.arange(tasks, dtype=np.int32) % agent.world.clusters
    # Biases begin at zero and have gradients that are sums of what nearly cancels: beside zero, rounding looks large.
    draw = np.random.default_rng(0)
    moved = lambda leaf: leaf if leaf.any() else draw.normal(0, 0.1, leaf.shape).astype(leaf.dtype)
    trees = {name: jax.tree.map(moved, getattr(state, name)) for name in ("params", "actor", "critic")}
    return state._replace(table=state.table._replace(cluster=cluster), **trees)


@functools.cache
def alone(tasks: int):
    return trained(tasks, 1)


@pytest.mark.parametrize(
    ("tasks", "devices"),
    [pytest.param(*case, marks=pytest.mark.slow if case in IN_CI else pytest.mark.long) for case in CASES],
)
def test_any_number_of_devices_learns_what_one_learns(tasks, devices):
    assert len(jax.devices()) >= devices, "tests/conftest.py sets the number of virtual devices"
    one, one_clusters = alone(tasks)
    many, many_clusters = trained(tasks, devices)
    norm, before = np.linalg.norm, first_state(tasks)
    for name in ("params", "statistics", "harmony", "actor", "critic", "slow_critic", "return_scale"):
        leaves = jax.tree_util.tree_leaves_with_path(getattr(one, name))
        others = jax.tree.leaves(getattr(many, name)), jax.tree.leaves(getattr(before, name))
        for (path, single), other, old in zip(leaves, *others, strict=True):
            where = (name, jax.tree_util.keystr(path))
            assert norm(single - other) <= 1e-5 * norm(single), (*where, norm(single - other), norm(single))
            if name != "return_scale":
                assert norm(single - other) <= 0.05 * norm(single - old), (*where, "has hardly learned")
    for mine, other in zip(one_clusters.table, many_clusters.table, strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.slow
def test_an_update_sends_one_gradient_an_optimiser_and_never_calls_the_host():
    text = compiled(5, 4)._updates["training"].as_text()
    sent = [
        math.prod(int(size) for size in shape.split(",") if size)
        for results in re.findall(r"= (.*?) all-reduce(?:-start)?\(", text)
        for shape in re.findall(r"f32\[([\d,]*)\]", results)
    ]
    state = first_state(5)
    count = lambda *trees: sum(leaf.size for leaf in jax.tree.leaves(trees))
    gradients = [count(state.params), count(state.actor, state.critic)]
    assert sorted(sent)[-2:] == sorted(gradients)
    rest = sorted(sent)[:-2]
    assert sum(rest) < 0.2 * min(gradients), rest  # statistics of batches, losses and metrics of tasks
    assert not re.search(r"callback|outfeed|send\(|recv\(", text)


@pytest.mark.slow
def test_another_seed_draws_otherwise_in_the_same_program():
    learner = compiled(5, 4)  # whose update is one executable: nothing is compiled for a seed

    def learned(seed: int) -> np.ndarray:
        learner.load(first_state(5))
        learner.reseed(seed)
        learner.update("training", *map(learner.deal, windows_of(5, 0)))
        return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(learner.snapshot().params)])

    one, other, again = learned(0), learned(1), learned(0)
    assert np.array_equal(one, again) and not np.array_equal(one, other)
