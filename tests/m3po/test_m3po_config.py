"""Defaults and presets build, have the published size, and what cannot work is refused."""

from __future__ import annotations

import functools
import math
import runpy

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from processes import ROOT

from mow_jax import checks
from mow_jax import config as common
from mow_jax.build import plan
from mow_jax.config import default
from mow_jax.config import m3po as config
from mow_jax.learner import Learner
from mow_jax.systems.m3po import agent as algorithm
from mow_jax.systems.m3po import build
from mow_jax.types import BadInput, Task


def settings(**changes) -> ConfigDict:
    made = default("m3po")
    made.update(changes)
    return made


def tasks(count: int, discrete: bool = False, numbers: int = 39, length: int = 100) -> list[Task]:
    return [Task(f"task{i}", "toy", discrete, 4, (True,) * 4, length, 0.0, 1.0, "", numbers) for i in range(count)]


def agent(made: ConfigDict, of: list[Task]) -> algorithm.Agent:
    return build.agent(made, of, plan(made))


def count(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_without_what_m3po_adds_the_model_has_tdmpc2_s_published_size():
    made = agent(config.preset(settings(), "tdmpc2"), tasks(50))
    state = jax.eval_shape(functools.partial(algorithm.init, made), 0)
    assert count(state.params) - count(state.params["termination"]) == pytest.approx(5e6, rel=0.1)
    assert set(state.optimizer) == {"model", "policy"} and "value" not in state.params


def test_the_preset_tdmpc2_is_m3po_with_both_off():
    """The same config, the same agent, of which everything compiled is a function, and the same record."""
    off, named = settings(), config.preset(settings(), "tdmpc2")
    off.fresh.weight, off.bonus.kind = 0.0, "none"
    assert off == named
    one, other = (agent(made, tasks(2)) for made in (off, named))
    assert one == other and one.trust is None
    records = [build.system(made, tasks(2), plan(made)) for made in (off, named)]
    assert all(record.extras == {} and record.updates.keys() == {"training", "warmup"} for record in records)


@pytest.mark.parametrize(("name", "by_policy"), [("m3po", 2), ("m3po_onpolicy", 8), ("tdmpc2", 0)])
def test_presets_pass_and_share_the_environments(name: str, by_policy: int):
    made = config.preset(settings(), name)
    common.check(made)
    assert agent(made, tasks(2)).by_policy(made.train.envs) == by_policy


def variants(name: str, *names: str) -> list[ConfigDict]:
    """Of an experiment file."""
    made = [runpy.run_path(str(ROOT / "experiments" / name))["get_config"](variant) for variant in names]
    for one in made:
        common.check(one)
    return made


# What is set side by side, by file.
BESIDE = {
    "pendulum.py": ("m3po", "tdmpc2"),
    "metaworld_mt10_state.py": ("m3po", "tdmpc2"),
    "metaworld_mt50_state.py": ("m3po", "tdmpc2"),
    "toy_slide.py": ("sparse_tdmpc2", "sparse_acts", "sparse_none", "sparse_clipped", "sparse_reward"),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_compared_differs_in_bonus_and_trust_region_alone(name: str):
    made = [checks.flat(one) for one in variants(name, *BESIDE[name])]
    for one in made[1:]:
        unlike = {key for key in one if one[key] != made[0][key]}
        assert unlike and {key.partition(".")[0] for key in unlike} <= {"fresh", "bonus"}, unlike


@pytest.mark.parametrize("name", ["sparse_none", "sparse_clipped", "sparse_reward"])
def test_in_the_ablation_a_round_may_move_the_policy_as_replay_does(name: str):
    """Its steps, by their weight, for each step on replay: of far fewer no bonus could show. How far both go is in
    every run's metrics, fresh/step and fresh/replay_step."""
    (made,) = variants("toy_slide.py", name)
    trust, rounds = made.fresh, made.train.burst
    rows = round(trust.share * made.train.envs) * rounds
    steps = trust.weight * trust.epochs * (rows // min(trust.minibatch, rows))
    assert steps >= 0.2 * rounds * made.train.ratio


def test_the_pendulum_s_wider_search_differs_in_that_alone():
    plain, wide = map(checks.flat, variants("pendulum.py", "m3po", "search"))
    unlike = {key: wide[key] for key in wide if wide[key] != plain[key]}
    assert unlike == {"planner.policy_samples": 24, "planner.iterations": 6} and plain["evaluation.episodes"] == 100


def test_three_tasks_from_states_are_those_from_pixels():
    (state,), (pixels,) = variants("metaworld_mt10_state.py", "three"), variants("metaworld_reach.py", "three")
    assert state.suite.tasks == pixels.suite.tasks == ("reach-v3", "button-press-topdown-v3", "door-open-v3")
    assert [one.suite.metaworld.action_repeat for one in (state, pixels)] == [4, 4]
    assert [one.suite.metaworld.horizon for one in (state, pixels)] == [125, 125]


def test_variants_of_the_toy_pass_and_are_settings_of_their_own():
    module = runpy.run_path(str(ROOT / "experiments" / "toy_slide.py"))
    made = [module["get_config"](variant) for variant in module["VARIANTS"]]
    for one in made:
        common.check(one)
    assert len({one.to_json_best_effort() for one in made}) == len(made) == 8


def test_the_warm_up_learns_as_all_else_does_and_compiles_nothing_of_its_own():
    made = settings()
    record = build.system(made, tasks(1), plan(made))
    learner = Learner(record, tasks(1), seed=0)
    assert record.updates["warmup"] == record.updates["training"] != record.updates["on_policy"]
    assert learner._updates["warmup"] is learner._updates["training"] is not learner._updates["on_policy"]
    assert plan(made).warmup_updates == 500


def test_discounts_follow_the_tasks_lengths():
    found = [build.discount(length, 5.0, 0.95, 0.995) for length in (10, 200, 500, 100_000)]
    assert found == [0.95, pytest.approx(0.975), pytest.approx(0.99), 0.995]
    made = agent(settings(), tasks(1, length=10) + tasks(1, length=500))
    assert made.gammas == (0.95, pytest.approx(0.99)), "of each task its own"


def test_weights_are_carried_over_but_for_embeddings():
    made = agent(settings(bonus=dict(kind="reward")), tasks(2))
    state = jax.eval_shape(functools.partial(algorithm.init, made), 0)
    old, new = (jax.tree.map(lambda leaf, fill=fill: np.full(leaf.shape, fill), state) for fill in (1, 2))
    carried = build.carry_over(old, new)
    values = {name: {int(leaf.ravel()[0]) for leaf in jax.tree.leaves(part)} for name, part in carried.params.items()}
    assert values.pop("embedding") == {2} and set(map(frozenset, values.values())) == {frozenset({1})}
    assert int(jax.tree.leaves(carried.target)[0].ravel()[0]) == 1 and int(carried.update) == 2
    assert jax.tree.leaves(carried.anchor)[0] is jax.tree.leaves(carried.params["policy"])[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(model=dict(latent=60)), "model.latent=60 does not divide by model.simnorm=8"),
        (dict(planner=dict(policy_samples=512)), "planner.policy_samples=512 leaves none"),
        (dict(planner=dict(elites=513)), "planner.elites=513"),
        (dict(planner=dict(std_min=3.0)), "std_min=3.0 is above std_max=2.0"),
        (dict(model=dict(log_std_min=3.0)), "log_std_min=3.0 is above"),
        (dict(fresh=dict(weight=0.0)), "bonus.kind='clipped' with fresh.weight=0"),
        (dict(fresh=dict(weight=0.0), bonus=dict(kind="none"), policy=dict(replay=False)), "policy.replay=False with"),
        (dict(train=dict(envs=1)), "fresh.share=0.25 of train.envs=1 leaves no environment"),
        (dict(train=dict(overlap=True)), "train.overlap=True lets an older policy act"),
        (dict(train=dict(burst=1)), "train.burst=1 leaves fresh rows without a next one"),
        (dict(replay=dict(capacity=80)), "replay.capacity=80 holds fewer rows than train.burst=32"),
        (dict(batch=dict(horizon=600)), "the longest window .601.: raise warmup.steps"),
        (dict(bonus=dict(kind="more")), "bonus.kind='more' is not allowed: use one of clipped, reward, none"),
        (dict(bonus=dict(beta=1.5)), "bonus.beta=1.5"),
        (dict(fresh=dict(clip=1.0)), "fresh.clip=1.0"),
        (dict(suite=dict(observation="smell")), "suite.observation='smell' is not allowed: use one of pixels, state"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changes: dict, words: str):
    with pytest.raises(BadInput, match=words):
        common.check(settings(**changes))


def test_tasks_that_cannot_be_planned_for_are_refused():
    with pytest.raises(BadInput, match="task0 has discrete actions.*m3po plans with continuous"):
        agent(settings(), tasks(1, discrete=True))
    with pytest.raises(BadInput, match="nothing would tell 2 tasks apart"):
        agent(settings(model=dict(embedding=0)), tasks(2))
    with pytest.raises(BadInput, match="preset 'm4po' is not allowed: use one of m3po, m3po_onpolicy, tdmpc2"):
        config.preset(settings(), "m4po")


@pytest.mark.parametrize("system", ["mow", "scalezero"])
def test_systems_of_pixels_refuse_vectors_in_one_message(system: str):
    made = default(system)
    made.suite.update(name="toy", tasks=("catch",), image_size=16, observation="state")
    with pytest.raises(BadInput, match=f"suite.observation='state': {system} learns from pixels"):
        common.check(made)


def test_atari_is_refused_as_vectors():
    made = settings(suite=dict(name="atari", tasks=("Pong",)))
    with pytest.raises(BadInput, match="Atari games are seen as pixels only"):
        common.check(made)
