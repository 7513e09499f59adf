"""Defaults and presets build, have the published sizes, and what cannot work is refused."""

from __future__ import annotations

import functools
import math
import runpy

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from processes import ROOT

from mow_jax.build import plan
from mow_jax.config import default
from mow_jax.config import scalezero as config
from mow_jax.systems.scalezero import agent as algorithm
from mow_jax.systems.scalezero import build
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
    return jax.eval_shape(functools.partial(algorithm.init, made_agent))


def test_the_defaults_have_the_published_size():
    """By hand: a layer has 8 x 7.08 M in routed experts, 4.72 M in the shared one and 2.36 M in attention."""
    state = abstract(settings(), 26)
    assert count(state.params["backbone"]) == pytest.approx(510e6, rel=0.01)
    assert jax.tree.leaves(state.params["heads"])[0].shape[0] == 26


def test_the_dynamic_variant_has_the_published_size():
    parts = build.components(abstract(experiment("atari26_scalezero.py", "stages"), 2))
    assert count(parts["Transformer and experts"]) == pytest.approx(255e6, rel=0.01)
    assert count(parts["adapters"]) == pytest.approx(101e6, rel=0.01)  # 4 of 6.3 M a layer


def test_the_toy_experiment_builds_and_carries_its_weights_over():
    made = experiment("toy.py", "scalezero")
    state = abstract(made, 5)
    assert 2e5 < count(state.params) < 2e6
    old, new = (jax.tree.map(lambda leaf, fill=fill: np.full(leaf.shape, fill), state) for fill in (1, 2))
    carried = build.carry_over(old, new)
    values = {
        name: set(np.unique(leaf).tolist()) for name, part in carried.params.items() for leaf in jax.tree.leaves(part)
    }
    assert values == {"encoder": {1}, "tokens": {1}, "backbone": {1}, "heads": {2}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(search=dict(context=10)), "search.context=10"),
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
        config.check(settings(**changes))


def test_continuous_actions_are_refused():
    with pytest.raises(BadInput, match="task0 has continuous actions"):
        build.agent(settings(), tasks(1, discrete=False))


@pytest.mark.parametrize("stages", [1, 2])
def test_only_stages_take_solved_tasks_out_of_the_loss(stages: int):
    """A toy run of one stage lost both tasks that had reached their references at its first evaluation."""
    made = settings(stages=dict(count=stages))
    record = build.system(made, tasks(2), plan(made))
    assert (record.after_evaluation is not None) == (stages > 1)
