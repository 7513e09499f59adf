"""Defaults and presets build, have the published sizes, and what cannot work is refused."""

from __future__ import annotations

import functools
import math
import runpy

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from processes import ROOT

from mow_jax import config as common
from mow_jax.build import plan
from mow_jax.config import default
from mow_jax.systems.scalezero import agent as algorithm
from mow_jax.systems.scalezero import build, stages
from mow_jax.types import BadInput, Task


def settings(**changes) -> ConfigDict:
    made = default("scalezero")
    made.update(changes)
    return made


def experiment(name: str, *variant: str) -> ConfigDict:
    return runpy.run_path(str(ROOT / "experiments" / name))["get_config"](*variant)


def tasks(count: int, discrete: bool = True) -> list[Task]:
    return [Task(f"task{i}", "toy", discrete, 18, (True,) * 18, 100, 0.0, 1.0) for i in range(count)]


def count(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def abstract(made: ConfigDict, number: int):
    made_agent = build.agent(made, tasks(number))
    return jax.eval_shape(functools.partial(algorithm.init, made_agent), 0)


def test_the_defaults_have_the_published_size():
    """By hand: a layer has 8 x 7.08 M in routed experts, 4.72 M in the shared one and 2.36 M in attention."""
    state = abstract(settings(), 26)
    assert count(state.params["backbone"]) == pytest.approx(510e6, rel=0.01)
    assert jax.tree.leaves(state.params["heads"])[0].shape[0] == 26


def test_the_dynamic_variant_has_the_published_size():
    parts = build.components(abstract(experiment("atari26_scalezero.py", "stages"), 2))
    assert count(parts["Transformer and experts"].tree) == pytest.approx(255e6, rel=0.01)
    assert count(parts["adapters"].tree) == pytest.approx(101e6, rel=0.01)  # 4 of 6.3 M a layer


def test_the_toy_experiment_builds_and_carries_its_weights_over():
    made = experiment("toy.py", "scalezero")
    state = abstract(made, 5)
    assert 2e5 < count(state.params) < 2e6
    old, new = (jax.tree.map(lambda leaf, fill=fill: np.full(leaf.shape, fill), state) for fill in (1, 2))
    carried = build.carry_over(build.agent(made, tasks(5)), old, new)
    values = {
        name: set(np.unique(leaf).tolist()) for name, part in carried.params.items() for leaf in jax.tree.leaves(part)
    }
    assert values == {"encoder": {1}, "tokens": {1}, "backbone": {1}, "heads": {2}}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_weights_are_carried_over_as_they_were_used_at_any_stage(stage: int):
    """And stay what they are when the new run's own stages come, whose adapters add nothing yet."""
    sizes = dict(model=dict(width=8, layers=1, heads=2, experts=2), stages=dict(count=3, rank=2, alpha=5.0))
    made = settings(**sizes)
    state = abstract(made, 2)
    rng = np.random.default_rng(0)
    draw = lambda: jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), state)
    old, new = draw()._replace(stage=np.int32(stage)), draw()._replace(stage=np.int32(0))
    up = {
        name: adapter | {"up": 0 * adapter["up"], "scale": 0 * adapter["scale"]}
        for name, adapter in new.params["adapters"].items()
    }
    new = new._replace(params=new.params | {"adapters": up})
    agent, other = (
        build.agent(made, tasks(2)),
        build.agent(settings(**sizes | {"stages": dict(count=3, rank=2)}), tasks(2)),
    )
    carried = build.carry_over(agent, old, new)
    wanted = stages.merge(agent.stages, old.params, old.stage)["backbone"]
    for later in range(3):
        used = stages.merge(other.stages, carried.params, jnp.int32(later))["backbone"]
        chex.assert_trees_all_close(used, wanted, rtol=1e-6)
    chex.assert_trees_all_equal(carried.params["adapters"], up)
    assert int(carried.stage) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(search=dict(context=10)), "search.context=10"),
        (dict(search=dict(method="mcts")), "search.method='mcts' is not allowed: use one of puct, gumbel"),
        (dict(model=dict(heads=5)), "model.heads=5"),
        (dict(model=dict(active=9)), "model.active=9"),
        (dict(model=dict(patch=7)), "model.patch=7"),
        (dict(model=dict(bins=100)), "model.bins=100"),
        (dict(batch=dict(steps=11)), "the longest window .21.: raise warmup.steps to 168 or shorten batch.unroll"),
        (dict(replay=dict(capacity=112)), "replay.capacity=112"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changes: dict, words: str):
    with pytest.raises(BadInput, match=words):
        common.check(settings(**changes))


def test_a_loss_has_the_weights_of_the_paper_and_entropy_is_a_bonus():
    weights = {"latent": 10.0, "reward": 1.0, "value": 0.5, "policy": 1.0, "entropy": -1e-4, "continuation": 1.0}
    assert dict(build.agent(settings(), tasks(2)).scales) == weights


def test_continuous_actions_are_refused():
    with pytest.raises(BadInput, match="task0 has continuous actions.*scalezero searches among"):
        build.agent(settings(), tasks(1, discrete=False))


@pytest.mark.parametrize("count", [1, 2])
def test_only_stages_take_solved_tasks_out_of_the_loss(count: int):
    """A toy run of one stage lost both tasks that had reached their references at its first evaluation."""
    made = settings(stages=dict(count=count))
    record = build.system(made, tasks(2), plan(made))
    assert (record.after_evaluation is not None) == (count > 1)
