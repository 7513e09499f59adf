"""Acting with each search and each kind of layer: what exists is taken, adapters count, and a task's place does not."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from compiled import quick
from drawing import grown, parameters
from sharded import dealt, first, program, same, shard

from mow_jax.systems.scalezero import agent as algorithm
from mow_jax.systems.scalezero import stages
from mow_jax.systems.scalezero.agent import Agent
from mow_jax.systems.scalezero.search import Search
from mow_jax.systems.scalezero.stages import Stages
from mow_jax.systems.scalezero.world_model import WorldModel

pytestmark = pytest.mark.slow
TASKS, ENVS, ACTIONS, STEPS = 3, 2, 4, 4
MASK = np.array([[True] * 4, [True, False, True, False], [False, True, True, True]])
KINDS = {  # the search, and what the model has
    "gumbel": ("gumbel", {}),
    "dense": ("puct", {"feed_forward": "dense"}),
    "all": ("gumbel", {"gate_norm": "all", "active": 2}),
}


def agent(kind: str) -> Agent:
    """A tiny one, in stages where it is to be looked at with adapters."""
    method, changes = KINDS[kind]
    sizes = dict(context=2, width=8, layers=1, heads=2, experts=3, encoder="convolution", channels=4, dropout=0.0)
    return Agent(
        world=WorldModel(8, TASKS, ACTIONS, 4, **(sizes | changes)),
        search=Search(simulations=5, method=method, temperature=1.0, considered=3),
        stages=Stages(count=3 if kind == "gumbel" else 1, rank=2, alpha=4.0),
        scales=(),
        steps=2,
        smoothing=0.0,
        lr=1e-3,
        decay=0.0,
        clip=5.0,
        target_rate=0.05,
    )


@functools.cache
def acting(kind: str):
    return program(functools.partial(algorithm.act, agent(kind)), 1)


@functools.cache
def state(kind: str, stage: int = 0) -> algorithm.State:
    empty = jax.eval_shape(lambda: algorithm.init(agent(kind), 0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), empty)
    return zeros._replace(params=parameters(lambda: algorithm.init(agent(kind), 0).params), stage=np.int32(stage))


def start(kind: str):
    shapes = jax.eval_shape(lambda: algorithm.init_acting(agent(kind), TASKS, ENVS))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def played(kind: str, state: algorithm.State, order=(0, 1, 2)) -> list:
    """(actions [K, E], policies [K, E, A], contexts) of a few steps, the tasks dealt in this order and told back in
    their own."""
    order = np.array(order)
    rng, context, found = np.random.default_rng(2), start(kind), []
    tasks = jax.tree.map(lambda x: x[:, order], shard(MASK, 1))
    for step in range(STEPS):
        frames = rng.integers(0, 256, size=(TASKS, ENVS, 8, 8, 3)).astype(np.uint8)[order]
        given = dealt((context, frames, np.full((TASKS, ENVS), step == 0)), 1)
        action, stored, context = first(acting(kind)(same(state, 1), *given, same(np.int32(step), 1), tasks))
        back = jax.tree.map(lambda x: x[np.argsort(order)], (action, stored["policy"], context))
        found.append(back)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_exists_is_taken_and_roots_may_stand_anywhere(kind: str):
    steps, moved = played(kind, state(kind)), played(kind, state(kind), (2, 0, 1))
    for (action, policy, context), again in zip(steps, moved, strict=True):
        assert np.take_along_axis(MASK[:, None], action[..., None], -1).all()
        assert not policy[~np.broadcast_to(MASK[:, None], policy.shape)].any()
        np.testing.assert_allclose(policy.sum(-1), 1, rtol=1e-5)
        np.testing.assert_array_equal(action, again[0])
        np.testing.assert_allclose(policy, again[1], atol=1e-5)
        np.testing.assert_array_equal(context.action, again[2].action)
    assert len({action.tobytes() for action, _, _ in steps}) > 1 and np.ptp(steps[0][1], axis=1).any()


def test_the_weights_that_act_are_those_with_adapters():
    plain = state("gumbel")
    later = plain._replace(params=grown(plain.params), stage=np.int32(2))
    merge = quick(functools.partial(stages.merge, agent("gumbel").stages))
    merged = jax.tree.map(np.asarray, merge(later.params, later.stage))
    without = plain._replace(params=plain.params | merged)
    policies = [np.stack([policy for _, policy, _ in played("gumbel", s)]) for s in (later, without, plain)]
    np.testing.assert_allclose(policies[0], policies[1], atol=1e-5)
    assert np.abs(policies[0] - policies[2]).max() > 0.01
    second = later._replace(stage=np.int32(1))
    assert np.abs(policies[0] - np.stack([p for _, p, _ in played("gumbel", second)])).max() > 0.01
