"""What a config must not ask for, and that every experiment file asks for what can work."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import jax
import pytest

from mow_jax import build, checks, config, load, workdir
from mow_jax.learner import abstract_state
from mow_jax.types import BadInput

EXPERIMENTS = sorted((Path(__file__).resolve().parent.parent / "experiments").glob("*.py"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_imagines_and_acts_on_trained_positions_only(path: Path):
    settings = runpy.run_path(str(path))["get_config"]()
    config.check(settings)
    window, *_ = build.system(settings, build.tasks(settings)).updates["training"].windows.values()
    if settings.system == "m3po":
        assert window.length == settings.batch.horizon + 1
        return
    if settings.system == "scalezero":
        assert settings.search.context < settings.batch.unroll < window.length
        return
    own, length = settings.agent, settings.batch.length
    known = own.context - (own.act_on == "posterior")
    assert known + own.horizon < length and own.act_context <= known + own.horizon
    assert window.length == length


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"batch.length": 8, "agent.context": 4, "agent.horizon": 12}, ["batch.length=8", "horizon=12", "16"]),
        ({"batch.length": 23}, ["agent.context=8", "agent.horizon=16", "batch.length to 24"]),
        ({"agent.act_context": 24}, ["agent.act_context=24", "at most 23", "agent.context=8", "agent.horizon=16"]),
        ({"agent.act_on": "prior"}, ["agent.act_on='prior'", "loss.mask_boundaries=False"]),
        ({"agent.context": 1}, ["agent.context=1", "2"]),
    ],
)
def test_states_that_training_never_sees_are_refused(changes: dict, parts: list[str]):
    settings = config.default()
    for key, value in changes.items():
        room, _, name = key.rpartition(".")
        settings[room][name] = value
    with pytest.raises(BadInput) as refusal:
        config.check(settings)
    assert all(part in str(refusal.value) for part in parts), refusal.value


@pytest.mark.parametrize("key", ["model.reward", "agent.value"])
def test_a_new_run_s_rewards_and_values_are_not_read_as_the_mean_of_a_random_head(key: str):
    """By one that has learned, or whose head comes from another run, they are."""
    settings = config.default()
    settings.update_from_flattened_dict({key: "mean"})
    config.check(settings)
    with pytest.raises(BadInput, match=f"{key}='mean' .* model.zero_heads=True .*symlog"):
        config.check_new(settings)
    for other, value in (("model.zero_heads", True), ("train.init_from", "runs/other")):
        another = settings.copy_and_resolve_references()
        another.update_from_flattened_dict({other: value})
        config.check_new(another)


def test_the_longest_imagination_that_fits_passes():
    settings = config.default()
    settings.batch.length = 24
    config.check(settings)


def test_a_run_from_before_a_key_has_the_value_that_it_had_then(tmp_path):
    saved = config.default().to_dict()
    del saved["agent"]["unimix"], saved["model"]["position_scale"]
    (tmp_path / "config.json").write_text(json.dumps(saved, default=list))
    read = workdir.read(tmp_path)
    assert (read.agent.unimix, read.model.position_scale) == (0.0, 1.0)
    (tmp_path / "config.json").write_text(json.dumps(config.default().to_dict(), default=list))
    assert workdir.read(tmp_path).agent.unimix == config.default().agent.unimix > 0


@pytest.mark.parametrize(("system", "actions"), [("mow", "sampled"), ("scalezero", "best"), ("m3po", "best")])
def test_runs_from_before_there_was_a_choice_are_scored_as_they_were(system: str, actions: str):
    saved = config.default(system).to_dict()
    assert saved["evaluation"].pop("actions") == actions
    assert config.of_saved(json.loads(json.dumps(saved, default=list))).evaluation.actions == actions
    given = config.default(system)
    given.evaluation.actions = "worst"
    with pytest.raises(BadInput, match="evaluation.actions='worst' is not allowed: use one of"):
        config.check(given)


def test_an_agent_exported_before_there_was_a_choice_samples():
    made = load.settings(EXPERIMENTS[0].parent.parent / "results" / "atari_cpu" / "agent.npz")
    config.check(made)
    assert made.evaluation.actions == "sampled"


def test_both_variants_of_toy13_have_as_many_parameters():
    make = runpy.run_path(str(EXPERIMENTS[0].with_name("toy13.py")))["get_config"]
    sizes = {}
    for variant in ("mow", "one"):
        settings = make(variant)
        state = abstract_state(build.system(settings, build.tasks(settings)))
        sizes[variant] = sum(leaf.size for leaf in jax.tree.leaves((state.params, state.actor, state.critic)))
    assert sizes["one"] == pytest.approx(sizes["mow"], rel=0.01)


def test_every_variant_of_the_search_is_a_setting_of_its_own():
    path = EXPERIMENTS[0].with_name("atari_search.py")
    module = runpy.run_path(str(path))
    made = {variant: module["get_config"](variant) for variant in module["VARIANTS"]}
    for settings in made.values():
        config.check(settings)
    flattened = [json.dumps(checks.flat(settings), default=list) for settings in made.values()]
    assert len(set(flattened)) == len(flattened)
