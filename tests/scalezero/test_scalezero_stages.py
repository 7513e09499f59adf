"""The stages of adapters: what merging changes, what learns when, and when a stage ends."""

from __future__ import annotations

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mow_jax.systems.scalezero import stages
from mow_jax.systems.scalezero.stages import Stages

RULES = Stages(count=4, rank=2, alpha=3.0, first=100, every=40)
NONE = np.zeros(2, bool)  # of two tasks is solved


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@functools.cache
def parameters() -> dict:
    """A backbone of both feed-forward kinds, with the adapters that it starts with."""
    linear = lambda rows, columns: {"kernel": drawn(rows, columns), "bias": drawn(columns)}
    mixture = {"w1": drawn(3, 4, 8), "w2": drawn(3, 8, 4), "w3": drawn(3, 4, 8), "gate": drawn(4, 3)}
    backbone = {
        "attention_0": {name: linear(4, 4) for name in ("query", "key", "value", "out")},
        "feed_forward_0": mixture | {"shared_in": linear(4, 8), "shared_out": linear(8, 4)},
        "feed_forward_1": {"in": linear(4, 8), "out": linear(8, 4)},
        "norm_0": {"scale": drawn(4), "bias": drawn(4)},
    }
    shapes = jax.eval_shape(functools.partial(stages.init, RULES), backbone, jax.random.key(0))
    start = lambda path, leaf: drawn(*leaf.shape) * (path[-1].key == "down")
    adapters = jax.tree_util.tree_map_with_path(start, shapes)
    return {"backbone": backbone, "adapters": adapters, "heads": {"kernel": drawn(2, 4)}}


def test_adapters_start_by_adding_nothing():
    made = stages.init(RULES, {"attention_0": {"query": {"kernel": drawn(4, 6)}}}, jax.random.key(0))
    adapter = made["attention_0/query/kernel"]
    assert adapter["up"].shape == (3, 2, 6) and not adapter["up"].any() and not adapter["scale"].any()
    assert 0.005 < np.asarray(adapter["down"]).std() < 0.02


merge = jax.jit(functools.partial(stages.merge, RULES))


def learned(params: dict, stage: int) -> dict:
    """The parameters after a stage that has moved all that it may."""
    learns = stages.trainable(RULES, params, jnp.int32(stage), NONE)
    return jax.tree.map(lambda p, on: p + np.asarray(on * 0.3, np.float32), params, learns)


def test_stage_zero_is_the_backbone_without_adapters_bit_for_bit():
    params = parameters()
    grown = params | {"adapters": jax.tree.map(lambda x: x + 1, params["adapters"])}  # even if they were not zero
    merged = merge(grown, jnp.int32(0))
    assert "adapters" not in merged
    chex.assert_trees_all_equal(merged["backbone"], params["backbone"])
    assert stages.merge(Stages(), params, jnp.int32(0)) is params, "one stage: no adapters, no operation"
    assert stages.init(Stages(), params["backbone"], jax.random.key(0)) == {}


def test_matrices_of_attention_experts_and_dense_layers_have_adapters():
    names = {name.replace("feed_forward", "ff") for name in parameters()["adapters"]}
    expected = {f"attention_0/{name}/kernel" for name in ("query", "key", "value", "out")}
    assert names == expected | {"ff_0/w1", "ff_0/w2", "ff_0/w3", "ff_1/in/kernel", "ff_1/out/kernel"}
    assert parameters()["adapters"]["feed_forward_0/w1"]["down"].shape == (3, 3, 4, 2)  # experts, adapters, in, rank


def test_no_weight_changes_when_a_stage_begins_and_the_right_ones_do_in_it():
    params, before = parameters(), None
    for stage in range(RULES.count):
        merged = merge(params, jnp.int32(stage))
        if before is not None:
            chex.assert_trees_all_equal(merged, before)
        params = learned(params, stage)
        before = merge(params, jnp.int32(stage))
        moved = [bool(np.any(a != b)) for a, b in zip(*map(jax.tree.leaves, (before, merged)), strict=True)]
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(merged)]
        for path, changed in zip(paths, moved, strict=True):
            assert changed == (stage == 0 or path[0].key == "heads" or stages.wrapped(path[1:])), (stage, path)


def test_what_learns_at_a_stage():
    """By the table of the paper's design: the newest pair, the scales of those before, the base's scale from 1 on."""
    for stage in range(RULES.count):
        learns = stages.trainable(RULES, parameters(), jnp.int32(stage), np.array([False, True]))
        adapter = learns["adapters"]["feed_forward_0/w1"]
        assert adapter["down"].ravel().tolist() == adapter["up"].ravel().tolist() == [j == stage for j in (1, 2, 3)]
        assert adapter["scale"].tolist() == [stage > 0, *(j < stage for j in (1, 2, 3))]
        assert {float(x) for x in jax.tree.leaves(learns["backbone"])} == {float(stage == 0)}
        assert learns["heads"]["kernel"].tolist() == [[1], [0]], "a solved task's heads rest"
        kept = stages.trainable(dataclasses.replace(RULES, keep=0.5), parameters(), jnp.int32(stage), ~NONE)
        assert kept["heads"]["kernel"].tolist() == [[1], [1]], "and goes on with a share of the loss"
        nothing = stages.trainable(RULES, parameters(), jnp.int32(stage), ~NONE)
        assert {float(x) for leaf in jax.tree.leaves(nothing) for x in np.ravel(leaf)} == {0}, "all are solved"
    without = stages.trainable(Stages(), parameters() | {"adapters": {}}, jnp.int32(0), NONE)
    assert {float(x) for leaf in jax.tree.leaves(without) for x in np.ravel(leaf)} == {1}


def trace(solved_at: dict[int, int], tasks: int, last: int) -> list[tuple[int, int]]:
    """(update, stage) of every switch, where `solved_at` says how many tasks are solved from an update on."""
    at = (jnp.int32(0), jnp.int32(0), jnp.int32(0))
    step = jax.jit(functools.partial(stages.switch, RULES))
    found = []
    for update in range(10, last, 10):
        count = max((number for begin, number in solved_at.items() if begin <= update), default=0)
        new = step(*at, np.arange(tasks) < count, update)
        if int(new[0]) != int(at[0]):
            found.append((update, int(new[0])))
            assert int(new[1]) == update and int(new[2]) == count
        at = new
    return found


@pytest.mark.parametrize(
    ("solved_at", "switches"),
    [
        ({}, [(100, 1), (140, 2), (180, 3)]),  # by the budget, and never past the last
        ({20: 6}, [(100, 1), (140, 2), (180, 3)]),  # nothing before the first
        ({110: 3}, [(100, 1), (110, 2), (150, 3)]),  # 3 left over 2: a share is 2
        ({110: 2}, [(100, 1), (110, 2), (150, 3)]),  # 4 left over 2: a share is 2
        ({110: 1, 120: 4}, [(100, 1), (120, 2), (160, 3)]),  # one is none yet
        ({110: 5, 120: 6}, [(100, 1), (110, 2), (120, 3)]),
    ],
)
def test_a_stage_ends_with_its_share_of_tasks_or_its_budget(solved_at: dict[int, int], switches: list):
    assert trace(solved_at, 6, 300) == switches
