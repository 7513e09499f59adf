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


def test_what_is_known_stands_under_its_own_heads(capsys):
    """A column of the report has one here, in its order, but for the count of rows."""
    numbers = dict(zip(tables.knowledge({}).columns[2:], range(1, 8), strict=True))
    values = [numbers[name] / 8 for name in numbers]
    known = dict(reward_correlation=values[0], reward_precision=values[1], reward_base=0.0, termination_share=0.0)
    known |= dict(termination_predicted=values[2], termination_at_ends=values[3], termination_error=values[4])
    known |= dict(action_nats=values[5], ratio=values[6], rows=10)
    evaluate.print_table({"tasks": {}, "diagnostics": {"Pong": known}, "aggregate": None}, 1)
    printed = capsys.readouterr().out.partition("what the world model knows")[2].splitlines()
    (row,) = ([cell.strip() for cell in line.split("│")[1:-1]] for line in printed if "Pong" in line)
    heads = [line.split("┃")[1:-1] for line in printed if "┃" in line]
    heads = [" ".join(part.strip() for part in parts).strip() for parts in zip(*heads, strict=True)]
    found = dict(zip(heads, row, strict=True))
    assert found["action nats"] == f"{values[5]:.3f}" and found["recon ratio"] == f"{values[6]:.3f}"
    assert found["calibration error"] == f"{values[4]:.3f}" and "" not in heads
