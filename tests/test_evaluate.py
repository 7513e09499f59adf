"""What a score says of itself."""

from __future__ import annotations

import pytest

from mow_jax import build, config, evaluate
from mow_jax.report import tables


def acting() -> dict:
    """What MoW says of its acting."""
    settings = config.default()
    settings.suite.update(name="toy", tasks=("catch",))
    return build.system(settings, build.tasks(settings)).protocol


@pytest.mark.parametrize("suite", ["atari", "metaworld", "toy", "gymnasium"])
def test_a_protocol_has_every_field_of_its_suite_and_of_the_evaluation(suite: str):
    settings = config.default()
    settings.suite.name = suite
    own = settings.suite.get(suite, {})
    made = evaluate.protocol(settings, acting())
    assert {"name", "observation", "image_size", *own} == made["suite"].keys()
    assert {*settings.evaluation, "actions"} - {"every"} == made["evaluation"].keys()
    assert made["agent"].keys() == {"act_context", "act_on", "unimix"}


def test_fields_of_one_name_are_kept_apart_in_results_and_report():
    settings = config.default()
    settings.suite.name = "gymnasium"
    settings.suite.gymnasium.max_steps, settings.evaluation.max_steps = 70, 20
    settings.evaluation.seed, settings.seed = 5, 6
    rows = dict(tables.protocol({"protocol": evaluate.protocol(settings, acting()), "step": 64}).rows)
    assert (rows["suite.max_steps"], rows["evaluation.max_steps"]) == ("70", "20")
    assert (rows["evaluation.seed"], rows["train.seed"], rows["step"]) == ("5", "6", "64")


def test_older_results_with_one_level_are_still_shown():
    rows = dict(tables.protocol({"protocol": {"sticky": 0.25, "suite": "atari"}, "commit": "0123abc"}).rows)
    assert rows == {"sticky": "0.25", "suite": "atari", "commit": "0123abc"}
