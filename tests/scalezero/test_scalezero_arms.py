"""The arms of the comparison with MoW: equal where they must be, what their names say, and their stages come."""

from __future__ import annotations

import functools
import math
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from processes import ROOT

from mow_jax import build, summary
from mow_jax.config import check
from mow_jax.systems.scalezero import search, stages, targets
from mow_jax.types import BadInput

SUITES = ("toy", "toy13", "atari_two")
FILES = {name: runpy.run_path(str(ROOT / "experiments" / f"{name}.py")) for name in (*SUITES, "scalezero_quickstart")}
OWN_SIZE = ("toy/one",)  # what earlier results are of
ARMS = [
    f"{name}/{variant}" for name in SUITES for variant in FILES[name]["VARIANTS"] if f"{name}/{variant}" not in OWN_SIZE
]
GROWING = [arm for arm in (*ARMS, "atari26_scalezero/stages") if arm.endswith(("stages", "kept", "budget"))]


@functools.cache
def settings(arm: str) -> ConfigDict:
    name, _, variant = arm.partition("/")
    module = FILES.get(name) or runpy.run_path(str(ROOT / "experiments" / f"{name}.py"))
    return module["get_config"](*[variant] if variant else [])


@functools.cache
def parameters(arm: str) -> int:
    """Those that are learned, without moving averages."""
    made = build.system(settings(arm), build.tasks(settings(arm)))
    return summary.learned(made)


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_is_what_its_name_says_and_has_what_mow_has(arm: str):
    made, mow = settings(arm), settings(f"{arm.partition('/')[0]}/mow")
    check(made)
    assert made.system == ("scalezero" if "scalezero" in arm else "mow")
    if made.system == "scalezero":
        model, rules = made.model, made.stages
        assert model.feed_forward == ("dense" if "dense" in arm else "mixture")
        assert made.search.method == ("gumbel" if arm.startswith("atari_two") else "puct")
        assert model.gate_norm == ("all" if arm.endswith("_all") else "topk")
        assert rules.count == (5 if arm in GROWING else 1) and rules.alpha / rules.rank == 0.5
        if arm in GROWING:
            assert rules.target == (math.inf if "budget" in arm else 0.9)
            assert rules.keep == (0.25 if "kept" in arm else 0.0)
    free = {"actions"}  # each system's own in training; mow_jax.evaluate --actions scores all by either
    free |= {"every"} if arm in GROWING else set()  # a solved task must be seen soon
    free |= {"atari"}  # whose rewards ScaleZero learns from by their sign
    for section in ("suite", "train.steps", "train.envs", "evaluation", "checkpoint"):
        ours, theirs = (functools.reduce(lambda part, key: part[key], section.split("."), c) for c in (made, mow))
        if section in ("suite", "evaluation"):
            ours, theirs = ({k: v for k, v in part.items() if k not in free} for part in (ours, theirs))
        assert ours == theirs, section
    games = [dict(c.suite.atari) | {"clip_reward": None} for c in (made, mow)]
    assert games[0] == games[1] and (not arm.startswith("atari_two") or made.train.ratio == mow.train.ratio)
    assert parameters(arm) == pytest.approx(parameters(f"{arm.partition('/')[0]}/mow"), rel=0.05)


@pytest.mark.parametrize("name", SUITES)
def test_a_variant_that_is_none_is_refused(name: str):
    with pytest.raises(BadInput, match=f"'dense' of {name}.py is not known: use one of mow"):
        FILES[name]["get_config"]("dense")


# --- Stages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", GROWING)
def test_the_last_stage_is_reached_within_the_plan(arm: str):
    made = settings(arm)
    updates = build.plan(made).updates
    rules = stages.Stages(**made.stages.to_dict())
    build.system(made, build.tasks(made)).check()

    def step(at, update):
        return stages.switch(rules, *at, np.zeros(2, bool), update), None

    (stage, switched, _), _ = jax.lax.scan(
        step, (jnp.int32(0),) * 3, jnp.arange(1, updates + 1, max(1, updates // 3000))
    )
    assert stage == rules.count - 1 and switched < 0.9 * updates


REFUSED = [
    (
        {"model.patch": 4},
        "model.patch=4 is no wider than the toys' objects at suite.image_size=16: .* use model.patch=8",
    ),
    ({"suite.image_size": 32}, "model.patch=8 is no wider .* suite.image_size=32: .* use model.patch=16"),
    ({"stages.first": 1196}, "stages.count=5 is out of reach: .* after update 2696 only, and the run has 2696 updates"),
    ({"stages.every": 50_000}, "stages.every=50000 the last stage may begin"),
    ({"evaluation.every": 0}, "stages.target=0.9 needs evaluations .* evaluation.every=0 makes none"),
    ({"evaluation.every": 11_000}, "evaluation.every=11000"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_patches_that_hide_objects_and_stages_that_cannot_come_are_refused(changes: dict, words: str):
    made = settings("toy/scalezero_stages").copy_and_resolve_references()
    made.update_from_flattened_dict(changes)
    with pytest.raises(BadInput, match=words):
        build.system(made, build.tasks(made)).check()


def test_stages_by_their_budget_need_no_evaluations():
    made = settings("toy/scalezero_budget").copy_and_resolve_references()
    made.evaluation.every = 0
    check(made)
    build.system(made, build.tasks(made)).check()


# --- Search and values ------------------------------------------------------------------------------------------------

SEARCHING = [*(arm for arm in ARMS if "scalezero" in arm), "scalezero_quickstart"]


@pytest.mark.parametrize("arm", [arm for arm in SEARCHING if settings(arm).search.method == "puct"])
def test_training_ends_at_the_final_temperature(arm: str):
    made = settings(arm)
    look = {key: value for key, value in made.search.items() if key != "context"}
    at = lambda update: float(search.temperature(search.Search(**look), update))
    updates = build.plan(made).updates
    assert at(updates) == pytest.approx(made.search.temperature) and at(0.95 * updates) > at(updates)


@pytest.mark.parametrize("arm", SEARCHING)
def test_values_are_read_as_they_were_learned(arm: str):
    made, values = settings(arm), np.array([-1000.0, -1.0, 0.18, 0.41, 1.0, 20.0, 333.0], np.float32)
    coded = targets.categories(values, made.model.bins, made.loss.smoothing)
    np.testing.assert_allclose(targets.scalar(jnp.log(jnp.maximum(coded, 1e-30))), values, rtol=0.01)
