"""The benchmarks count right and run at test sizes."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import ROOT, environment, finished
from test_report import make_run

from mow_jax import build

sys.path.insert(0, str(ROOT / "benchmarks"))
import ablation_outcomes
import agree
import bonus_outcomes
import dream_ranks
import gpu_suite
import host
import repeats
import throughput

from mow_jax import flops
from mow_jax.types import BadInput


def compiled(function, *arguments) -> float:
    """The compiler's count: of all operations, but of a loop's body only once."""
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def test_products_are_counted_as_the_compiler_does():
    x, w = jnp.ones((6, 8)), jnp.ones((8, 10))
    assert flops.count(jnp.matmul, x, w) == 2 * 6 * 8 * 10 == compiled(jnp.matmul, x, w)
    batched = lambda a, b: jnp.einsum("bij,bjk->bik", a, b)
    shapes = jax.ShapeDtypeStruct((3, 6, 8), jnp.float32), jax.ShapeDtypeStruct((3, 8, 10), jnp.float32)
    assert flops.count(batched, *shapes) == 3 * 2 * 6 * 8 * 10


def test_derivatives_cost_twice_the_product():
    x, w = jnp.ones((6, 8)), jnp.ones((8, 10))
    gradients = jax.grad(lambda x, w: (x @ w).sum(), argnums=(0, 1))
    assert flops.count(gradients, x, w) in (2 * 960, 3 * 960)  # the product itself may be dropped


def test_a_loop_counts_as_often_as_it_runs():
    w = jnp.ones((8, 8))
    loop = lambda x: jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=16)[0]
    unrolled = lambda x: jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=16, unroll=16)[0]
    x = jnp.ones((8, 8))
    assert flops.count(loop, x) == flops.count(unrolled, x) == 16 * 2 * 8**3
    assert compiled(loop, x) < flops.count(loop, x) <= compiled(unrolled, x)


def test_convolutions_are_counted():
    x, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
    convolve = lambda x, k: jax.lax.conv_general_dilated(
        x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert flops.count(convolve, x, kernel) == 2 * 6 * 6 * 5 * 27


@pytest.mark.parametrize("name", ["toy.py:scalezero", "toy_slide.py:m3po"])
def test_parts_are_measured_of_mow_alone(name: str):
    file, _, variant = name.partition(":")
    config = runpy.run_path(str(ROOT / "experiments" / file))["get_config"](variant)
    with pytest.raises(BadInput, match=f"config.system={config.system}: the parts of MoW's update"):
        throughput.agent_of(config, [])


def test_what_five_runs_a_side_can_show():
    """Known values of the two-sample t test, two-sided 5%, power 0.8."""
    for runs, known in ((5, 2.024), (10, 1.325), (17, 0.991)):
        assert ablation_outcomes.detectable(runs, 0.05) == pytest.approx(known, abs=2e-3)
    assert ablation_outcomes.power(0.0, 5, 0.05) == pytest.approx(0.05, abs=1e-3)
    deviation, low, high = ablation_outcomes.spread([jnp.array([0.0, 2.0, 4.0]), jnp.array([9.0, 10.0, 11.0])])
    assert deviation == pytest.approx((10 / 4) ** 0.5) and low < deviation < high


@pytest.mark.parametrize(("runs", "comparisons"), [(8, 3), (3, 10)])
def test_the_power_of_the_ablations_is_that_of_the_committed_runs(runs: int, comparisons: int):
    text = ablation_outcomes.power_table(ROOT / "results" / "toy13", runs, comparisons)
    readme = (ROOT / "results" / "ablations" / "README.md").read_text()
    assert len(text.splitlines()) == 4 and all(f"    {line}" in readme or line in readme for line in text.splitlines())


def scored(place: Path, score: float, evaluation: dict) -> None:
    """A run's results: two tasks with this score, by an evaluation of these settings."""
    results = json.loads((place / "results.json").read_text())
    for task in results["tasks"].values():
        task["normalised"] = score
    (place / "results.json").write_text(json.dumps(results | {"protocol": {"evaluation": evaluation}}))


def swept_run(place: Path, seed: int, score: float = 0.7, evaluation: dict | None = None) -> Path:
    """A finished run of a sweep, scored so."""
    place.mkdir(parents=True)
    make_run(place, seed)
    scored(place, score, evaluation or {})
    said = {"seed": seed, "suite": {"name": "toy"}, "train": {"steps": 200}}
    (place / "config.json").write_text(json.dumps(said))
    return place


def test_outcomes_are_of_runs_alone_that_were_scored_alike(tmp_path):
    """Half of them by an older version, which says less; of the world model's rows no score depends on."""
    alike = {"actions": "sampled", "episodes": 2, "seed": 5}
    for variant, seed, own in (("v", 3, alike), ("v", 4, {"rows": 9}), ("w", 3, alike | {"rows": 7}), ("w", 4, alike)):
        swept_run(tmp_path / variant / str(seed), seed, evaluation=own)
    table = lambda *named: ablation_outcomes.sweep_table(tmp_path, *named)
    before, place = table(), tmp_path / "w" / "4"
    assert "| w | 2 | 0.700 |" in before
    for changed in ({"actions": "best"}, {"episodes": 3}, {"seed": 6}, {"max_steps": 0}, {"max_steps": 90}):
        scored(tmp_path / "v" / "3", 0.7, alike | {"max_steps": 90})
        scored(place, 0.7, alike | changed)
        if changed == {"max_steps": 90}:
            assert table() == before
            continue
        (key, value), *_ = changed.items()
        with pytest.raises(BadInput, match=rf'{key} differs: .* in .*v/3; "?{value}"? in .*w/4: name --variants'):
            table()
        assert "| w | 1 | 0.700 |" in table(["v", "w"], [3]) and "| v | 2 |" in table(["v"])
    results = json.loads((place / "results.json").read_text())
    results["tasks"]["Pong"]["normalised"] = None
    (place / "results.json").write_text(json.dumps(results))
    with pytest.raises(BadInput, match=r"w/4 has no score of Pong"):
        table()
    results["tasks"]["Pong"]["normalised"] = 0.7
    (place / "results.json").write_text(json.dumps(results | {"commit": "bbb"}))
    with pytest.raises(BadInput, match=r'commit differs: "0123abc" in .*v/3; "bbb" in .*w/4'):
        table()
    (place / "results.json").write_text(json.dumps(results | {"step": 400}))
    (place / "config.json").write_text((place / "config.json").read_text().replace("200", "400"))
    with pytest.raises(BadInput, match=r"step differs: 200 in .*v/3; 400 in .*w/4"):
        table()
    (place / "config.json").write_text((place / "config.json").read_text().replace("400", "200"))
    for run, sticky in ((tmp_path / "v" / "3", 0.0), (place, 0.25)):
        held = json.loads((run / "results.json").read_text()) | {"step": 200}
        (run / "results.json").write_text(json.dumps(held | {"protocol": {"suite": {"sticky": sticky}}}))
    with pytest.raises(BadInput, match=r"suite differs: .*0.0.* in .*v/3; .*0.25.* in .*w/4"):
        table()
    results["tasks"].pop("Pong")
    (place / "results.json").write_text(json.dumps(results))
    with pytest.raises(BadInput, match=r"tasks differs"):
        table()


def test_a_run_and_its_copy_that_has_gone_on_are_no_two_runs(tmp_path):
    for seed in (3, 4):
        swept_run(tmp_path / "v" / str(seed), seed)
    longer = swept_run(tmp_path / "v" / "5", 4)
    text = (longer / "config.json").read_text()
    (longer / "config.json").write_text(text.replace("200", "400"))
    assert "| v | 2 |" in ablation_outcomes.sweep_table(tmp_path), "the copy is not at its end"
    results = json.loads((longer / "results.json").read_text()) | {"step": 400}
    (longer / "results.json").write_text(json.dumps(results))
    with pytest.raises(BadInput, match=r"v/4 and .*v/5 are both runs of v, seed 4"):
        ablation_outcomes.sweep_table(tmp_path)
    assert "| v | 1 |" in ablation_outcomes.sweep_table(tmp_path, None, [3])


def test_outcomes_are_less_the_first_variant_or_another_that_is_named(tmp_path):
    for name in "uw":
        swept_run(tmp_path / name / "6", 6)
    plan = [{"variant": name, "first": "x", "place": place} for place, name in ((1, "w"), (2, "u"))]
    (tmp_path / "sweep.json").write_text(json.dumps(plan))
    with pytest.raises(BadInput, match=r"x, the first variant of .*, has no finished run .* --variants"):
        ablation_outcomes.sweep_table(tmp_path)
    assert "less w [" in ablation_outcomes.sweep_table(tmp_path, ["w", "u"])


def test_power_is_of_runs_that_were_scored_alike(tmp_path):
    for seed, kind in enumerate(("best", "best", "sampled")):
        place = swept_run(tmp_path / "made" / str(seed), seed, score=seed / 4, evaluation={"actions": kind})
        (tmp_path / "kept" / "v").mkdir(parents=True, exist_ok=True)
        (place / "results.json").rename(tmp_path / "kept" / "v" / f"{seed}.json")
    with pytest.raises(BadInput, match=r'actions differs: "best" in .*v/0.json; "sampled" in .*v/2.json'):
        ablation_outcomes.power_table(tmp_path / "kept", 4, 2)
    (tmp_path / "kept" / "v" / "2.json").unlink()
    assert "| mean | 0.177 [" in ablation_outcomes.power_table(tmp_path / "kept", 4, 2)


def test_the_outcomes_of_a_sweep_are_those_fixed_before_it(tmp_path):
    for variant, seed, score in (("mow", 0, 0.9), ("mow", 1, 0.8), ("one", 0, 0.5), ("one", 1, 0.55)):
        place = swept_run(tmp_path / variant / str(seed), seed, score)
        said = {"seed": seed, "suite": {"name": "toy"}, "x": variant, "train": {"steps": 200}}
        (place / "config.json").write_text(json.dumps(said))
        with (place / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 3200, "update": 9, "seconds": 99.0, "evaluation/mean": score / 2}) + "\n")
    text = ablation_outcomes.sweep_table(tmp_path)
    assert "| mow | 2 | 0.850 | – |" in text and "| one | 2 | 0.525 | -0.325 [" in text
    assert "| mow | 2 | 0.000 | – |" in text and "| one | 2 | 2.000 | +2.000 |" in text
    assert "| evaluation mean at step 3,200 |" in text and "| mow | 2 | 0.425 | – |" in text
    assert text.count("1 comparison with mow") == 3 and text.count("so not tested: one.") == 1
    turned = ablation_outcomes.sweep_table(tmp_path, ["one", "mow"])
    assert "| one | 2 | 0.525 | – |" in turned and "1 comparison with one" in turned
    first = ablation_outcomes.sweep_table(tmp_path, None, [0])
    assert "| mow | 1 | 0.900 | – |" in first and "| one | 1 | 0.500 | -0.400 |" in first
    config = tmp_path / "one" / "1" / "config.json"
    config.write_text(config.read_text().replace("200", "400"))  # evaluated half way
    unfinished = ablation_outcomes.sweep_table(tmp_path)
    assert "| one | 1 | 0.500 |" in unfinished and "No finished run: one lacks seed 1." in unfinished
    assert "mow lacks seed 7; one lacks seed 7" in ablation_outcomes.sweep_table(tmp_path, None, [0, 7])
    config.write_text(config.read_text().replace("400", "200"))
    assert "lacks" not in ablation_outcomes.sweep_table(tmp_path)
    for variants, seeds, said in ((["clusters=3", "mow"], None, "clusters=3"), (["mow", "one"], [2], "mow, one")):
        with pytest.raises(BadInput, match=f"no finished run of {said}"):
            ablation_outcomes.sweep_table(tmp_path, variants, seeds)
    for path in (tmp_path / "mow").glob("*/metrics.jsonl"):
        path.write_text(path.read_text().replace("3200", "3300"))
    with pytest.raises(BadInput, match=r"step 3,200: no run of mow has it"):
        ablation_outcomes.sweep_table(tmp_path, ["mow", "one"])
    said = ablation_outcomes.sweep_table(tmp_path, ["one", "mow"])
    assert "| evaluation mean" in said and "Runs without it: 2 of mow." in said


@pytest.mark.parametrize("words", ["--power=no/such", "--power=. --runs=1", "--power=results/toy13/mow"])
def test_power_of_too_few_runs_is_refused(words: str, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        ablation_outcomes.main(words.split())
    assert ended.value.code == 2 and words.split()[-1].partition("=")[2] in capsys.readouterr().err


# Of two seeds: the first evaluation at or above 0.8 (None: there is none), the final score, the mean of fresh/step.
SPARSE = {
    "sparse_tdmpc2": ((None, 0.1, None), (None, 0.2, None)),
    "sparse_acts": ((12_000, 0.8, 0.0), (None, 0.3, 0.0)),
    "sparse_none": ((4000, 0.9, 1.0), (5000, 0.8, 0.5)),
    "sparse_clipped": ((2000, 1.0, 0.42), (9000, 0.9, 0.38)),
    "sparse_reward": ((1000, 0.7, 0.2), (1000, 0.6, 0.1)),
}


def sparse_run(place, variant: str, seed: int) -> None:
    """What a finished run of the comparison leaves; its steps on replay are 2 on average."""
    first, score, step = SPARSE[variant][seed]
    place.mkdir(parents=True)
    lines = [{"step": at, "evaluation/mean": 0.8 if first == at else 0.0} for at in range(1000, 12_001, 1000)]
    moved = [] if step is None else [(step, 1.0), (2 * step, 3.0), (0, None)]
    lines += [{"step": 12_000, "fresh/step": fresh, "fresh/replay_step": replay} for fresh, replay in moved]
    (place / "metrics.jsonl").write_text("".join(json.dumps(line | {"update": 1}) + "\n" for line in lines))
    (place / "config.json").write_text(json.dumps({"seed": seed, "suite": {"name": "toy"}, "x": variant}))
    results = {"step": 12_000, "tasks": {"slide_sparse": {"normalised": score}}}
    (place / "results.json").write_text(json.dumps(results))


def test_the_outcomes_of_bonus_and_trust_region_are_those_fixed_before_them(tmp_path, capsys):
    for variant in SPARSE:
        for seed in (0, 1):
            sparse_run(tmp_path / variant / str(seed), variant, seed)
    bonus_outcomes.main([f"--sweep={tmp_path}"])
    text = capsys.readouterr().out
    assert "| sparse_tdmpc2 | – | – |" in text and "| sparse_acts | 0.00 | 0.00 |" in text
    assert (
        "| sparse_none | 0.50 | 0.25 |" in text
        and "so not counted: sparse_clipped/1, sparse_reward/0, sparse_reward/1." in text
    )
    steps, score = text.partition("final score")[::2]
    assert "| sparse_tdmpc2 | 2 | 12.000 [12.000, 12.000] | – | – |" in steps
    assert "| sparse_acts | 2 | 12.000 [12.000, 12.000] | sparse_tdmpc2 | +0.000 |" in steps
    assert "| sparse_none | 2 | 4.500 [-1.853, 10.853] | sparse_acts | -7.500 [" in steps
    assert "| sparse_clipped | 1 | 2.000 | sparse_none | -2.500 |" in steps
    assert "| sparse_acts | 2 | 0.550 [" in score and "| sparse_reward | 0 | – | sparse_none | – |" in score
    assert "2 comparisons with the variant named beside it" in steps and "not tested: sparse_acts." in steps


def test_a_comparison_of_runs_that_were_not_scored_alike_is_refused_in_one_message(tmp_path, capsys):
    for variant in SPARSE:
        sparse_run(tmp_path / variant / "0", variant, 0)
    path = tmp_path / "sparse_none" / "0" / "results.json"
    results = json.loads(path.read_text())
    results["tasks"]["slide_sparse"]["returns"] = [0.5] * 3
    path.write_text(json.dumps(results))
    with pytest.raises(SystemExit, match="2"):
        bonus_outcomes.main([f"--sweep={tmp_path}"])
    assert "episodes differs" in capsys.readouterr().err


def test_a_sweep_that_lacks_something_of_the_comparison_is_refused_in_one_message(tmp_path, capsys):
    for variant in ("sparse_acts", "sparse_none", "sparse_clipped"):
        sparse_run(tmp_path / variant / "0", variant, 0)
    (tmp_path / "sparse_acts" / "0" / "results.json").unlink()
    metrics = tmp_path / "sparse_none" / "0" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("fresh/step", "fresh/other"))
    lacking = ("sparse_tdmpc2/0 (no run)", "sparse_acts/0 (not evaluated at step 12,000)")
    lacking += ("sparse_none/0 (no fresh/step)", "sparse_reward/0 (no run); run the rest")
    with pytest.raises(SystemExit, match="2"):
        bonus_outcomes.main([f"--sweep={tmp_path}"])
    assert f"is no finished sweep of docs/m3po.md: {', '.join(lacking)}\n" in capsys.readouterr().err


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="no known length"):
        flops.count(lambda x: jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, x), jnp.ones(3))


# A learning run in little: it counts its calls in its folder, and goes on for ever unless it is the second.
LEARNS = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1]); folder.mkdir(exist_ok=True)
count = folder / "count"; calls = int(count.read_text()) + 1 if count.exists() else 1
def save(*_): count.write_text(str(calls)); sys.exit(0)
signal.signal(signal.SIGTERM, save)
while calls < 2: time.sleep(0.1)
save()
"""


def test_a_part_that_is_out_of_time_is_asked_to_save_and_goes_on_from_what_travelled(tmp_path):
    travels = tmp_path / "travels"
    travels.mkdir()
    outcomes = []
    for call in ("first machine", "second machine"):
        scratch = tmp_path / call
        scratch.mkdir()
        part = gpu_suite.Part("learning", 0.1, ["-c", LEARNS, str(scratch / "learning")])
        outcomes.append(gpu_suite.run(part, travels, scratch, left=4.0)["outcome"])
    assert outcomes == ["out of time", "done"]
    assert (tmp_path / "second machine" / "learning" / "count").read_text() == "2"


def test_a_part_keeps_to_its_own_limit_and_does_not_begin_where_half_of_it_is_gone(tmp_path):
    forever = ["-c", "import time; print('begun', flush=True); time.sleep(600)"]
    run = lambda minutes, left: gpu_suite.run(gpu_suite.Part("part", minutes, forever), tmp_path, tmp_path, left)
    entry = run(minutes=0.05, left=500.0)
    assert entry["outcome"] == "out of time" and entry["seconds"] < 60
    assert (tmp_path / "part.log").read_text() == "begun\n"
    assert run(minutes=3, left=80.0) == {"outcome": "not begun: too little time left", "seconds": 0.0}


def test_the_machine_and_whole_updates_come_first_then_whether_numbers_are_right_and_learning_last(tmp_path):
    listed = gpu_suite.parts(tmp_path, tmp_path, None, tiny=False)
    names = [part.name for part in listed]
    assert names[:5] == ["machine", "atari26_first", "storm", "agree", "parity"] and names[-1] == "learning"
    assert sum(part.minutes for part in listed[:3]) <= 9
    assert all("--noparts" in part.arguments for part in listed[1:3])
    assert listed[1].variables == listed[names.index("atari26_repeats")].variables, "else it is compiled again"


class Ends(NamedTuple):
    """A learner's state in little."""

    params: dict
    optimizer: list


def ended(params: list[float], moment: int, losses: list[float]) -> tuple[Ends, list[dict]]:
    state = Ends({"w": np.array(params, np.float32), "b": np.float32(0.5)}, [np.int32(moment)])
    return state, [{"loss": np.float32(loss)} for loss in losses]


def test_a_run_that_differs_in_one_bit_is_not_called_equal():
    nan, next_to_one = float("nan"), float(np.nextafter(np.float32(1), np.float32(2)))
    found = repeats.compare(ended([1, 0, nan], 3, [2, 1]), ended([1, 0, nan], 3, [2, 1]))
    assert found["equal"] and found["first"] is None and found["parts"]["params"] == {"numbers": 4, "differ": 0}
    for params, moment, losses, first, part in (
        ([next_to_one, 0, nan], 3, [2, 1], None, "params"),
        ([1, -0.0, nan], 3, [2, 1], None, "params"),
        ([1, 0, nan], 4, [2, 1], None, "optimizer"),
        ([1, 0, nan], 3, [2, next_to_one], 1, "metrics"),
    ):
        found = repeats.compare(ended([1, 0, nan], 3, [2, 1]), ended(params, moment, losses))
        assert not found["equal"] and found["first"] == first
        assert {name for name, counts in found["parts"].items() if counts["differ"]} == {part}
        assert found["parts"][part]["differ"] == 1


def test_how_far_two_devices_updates_are_apart_is_the_worst_of_them():
    one = {"loss": np.array([2.0, 4.0]), "tiny": np.array(1e-9), "norm": np.array(1.0)}
    assert agree.furthest(one, one)[0] == 0
    assert agree.furthest(one, one | {"loss": np.array([2.0, 5.0])}) == (pytest.approx(0.2), "loss")
    assert agree.furthest(one, one | {"tiny": np.array(1e-6)}) == (pytest.approx(1e-3, rel=2e-3), "tiny")
    assert np.isnan(agree.furthest(one, one | {"norm": np.array(np.nan), "loss": np.zeros(2)})[0])
    trees = [{"a": np.zeros(2), "b": np.array([1.0, value]), "c": np.zeros(0)} for value in (3.0, 3.5, np.nan)]
    assert agree.apart(trees[0], trees[1]) == 0.5 and np.isnan(agree.apart(trees[0], trees[2]))


def rehearse(folder: Path, *more: str) -> tuple[str, dict[str, dict]]:
    """What the suite prints at test sizes, and what came of its parts."""
    command = [sys.executable, "benchmarks/gpu_suite.py", f"--output={folder}", "--tiny", *more]
    run = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=600)
    assert run.returncode == 0, run.stderr
    return run.stdout, json.loads((folder / "suite.json").read_text())["parts"]


@pytest.mark.slow
def test_the_gpu_suite_begins_nothing_that_it_has_no_time_for_and_goes_on_with_what_is_not_done(tmp_path):
    _, parts = rehearse(tmp_path, "--minutes=0.1")  # a false limit: nothing begins, and every part says why
    outcomes = {entry["outcome"] for entry in parts.values()}
    assert all(outcome.startswith(("not begun", "skipped")) for outcome in outcomes), outcomes
    stdout, parts = rehearse(
        tmp_path,
        "--minutes=9",
        "--parts=machine,convolutions,convolutions_native,storm,repeats,repeats_again,agree,compare_storm",
        f"--back={tmp_path}.tgz",
    )
    done = {name for name, entry in parts.items() if entry["outcome"] == "done"}
    assert done == {"machine", "convolutions", "convolutions_native", "storm", "repeats", "repeats_again", "agree"}, (
        os.listdir(tmp_path)
    )
    assert parts["compare_storm"]["outcome"] == "skipped: needs --reference=DIR"
    record = json.loads((tmp_path / "storm.json").read_text())
    assert record["milliseconds"]["whole update"] > 0 and record["flop"]["whole update"] > 0
    assert "imagination" not in record["milliseconds"]
    again = json.loads((tmp_path / "repeats.json").read_text())
    assert again["equal"] is True and again["first"] is None and again["updates"] == 3 and again["same_as_before"]
    compared = {name for name, part in again["parts"].items() if part["numbers"] and not part["differ"]}
    assert compared >= {"params", "actor", "critic", "world_optimizer", "agent_optimizer", "metrics"}
    for name, ways in (("convolutions", 1), ("convolutions_native", 2)):
        convolutions = json.loads((tmp_path / f"{name}.json").read_text())
        assert len(convolutions["lines"]) == 3 + 4 * 2 * 2 * ways and "failed" not in convolutions
    agreed = json.loads((tmp_path / "agree.json").read_text())
    assert [line["difference"] for line in agreed["updates"]] == [0, 0, 0] and agreed["learning_rates_apart"] == 0
    with tarfile.open(f"{tmp_path}.tgz") as packed:
        assert {"suite.json", "storm.json", "storm.log"} <= set(
            packed.getnames()
        ) and "compiled" not in packed.getnames()
    assert "holds" in stdout and list((tmp_path / "compiled").iterdir())


@pytest.mark.long
def test_the_gpu_suite_s_precision_and_learning_are_rehearsed_too(tmp_path):
    _, parts = rehearse(tmp_path, "--parts=precision,learning")
    assert {name: parts[name]["outcome"] for name in ("precision", "learning")} == {
        "precision": "done",
        "learning": "done",
    }
    with tarfile.open(tmp_path / "learning.tar.gz") as packed:
        assert "./results.json" in packed.getnames()


@pytest.mark.slow
def test_what_an_update_sends_is_read_from_its_program():
    command = [sys.executable, "benchmarks/communication.py", "--config=tests/configs/tiny.py"]
    run = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True, timeout=300)
    sent = [line.split("│")[1:3] for line in run.stdout.splitlines() if "gradient of" in line]
    assert [name.strip() for name, _ in sent] == ["gradient of world model", "gradient of agent"]
    config = runpy.run_path(str(ROOT / "tests/configs/tiny.py"))["get_config"]()
    tasks = build.tasks(config)
    state = jax.eval_shape(build.system(config, tasks).init, 0)
    count = lambda *trees: sum(leaf.size for leaf in jax.tree.leaves(trees))
    expected = [4 * count(state.params), 4 * count(state.actor, state.critic)]
    assert [int(size.replace(",", "")) for _, size in sent] == expected


@pytest.mark.long
def test_a_world_model_alone_learns_and_is_measured_on_steps_it_has_not_seen(tmp_path):
    found = tmp_path / "found.json"
    config = ["--config=tests/configs/tiny.py", "--config.optimizer.world_lr=3e-3"]
    command = [sys.executable, "benchmarks/world_model.py", *config, f"--output={found}"]
    sizes = ["--steps=60", "--held_out=40", "--updates=400", "--marks=4", "--config.batch.length=12"]
    run = subprocess.run(
        [*command, *sizes], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stderr
    first, *_, last = json.loads(found.read_text())["lines"]
    assert (first["updates"], last["updates"]) == (100, 400)
    assert all(last["tasks"][name]["ratio"] < first["tasks"][name]["ratio"] for name in first["tasks"])
    bad = subprocess.run(
        [*command, "--held_out=3"], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2 and "--held_out=3" in bad.stderr


def test_what_the_host_does_for_an_update_is_measured(tmp_path, capsys):
    from configs import tiny

    settings = tiny.get_config("toy")
    host.main(settings, rows=40, rounds=2, output=str(tmp_path / "host.json"))
    record = json.loads((tmp_path / "host.json").read_text())
    assert record["bytes"] > 0 and record["ratio"] > 0 and {len(times) for times in record["seconds"].values()} == {2}
    with pytest.raises(BadInput, match="--rows=2 must hold a window of"):
        host.main(settings, rows=2, rounds=2, output=None)


def test_a_trace_tells_what_lies_beside_a_program(tmp_path, capsys):
    event = lambda name, pid, begin, length: {"ph": "X", "name": name, "pid": pid, "tid": 1, "ts": begin, "dur": length}
    wait = "ThunkExecutor::Execute (wait for completion)"
    on_a_cpu = [event(wait, 1, 0, 100), event(wait, 1, 50, 100), event("windows of training", 1, 120, 60)]
    assert host.beside([*on_a_cpu, event("windows of training", 1, 1000, 10)]) == [(0.06, 0.5), (0.01, 0.0)]
    gpu = {"ph": "M", "name": "process_name", "pid": 9, "args": {"name": "/device:GPU:0"}}
    assert host.beside([gpu, event("fusion", 9, 0, 30), event("windows of warmup", 1, 10, 20)]) == [(0.02, 1.0)]
    with pytest.raises(BadInput, match="holds no trace"):
        host.show_trace(str(tmp_path))


def test_the_agreement_of_a_dream_with_the_game_by_hand():
    """Three moments of three actions and one that the task lacks: right, upside down, and nothing to choose."""
    gone = [np.nan] * 3
    real = np.column_stack([[1.0, 1.0, 5.0], [2.0, 2.0, 5.0], gone, [3.0, 3.0, 5.0]])
    dreamed = np.column_stack([[0.1, 0.3, 0.1], [0.2, 0.2, 0.2], gone, [0.3, 0.1, 0.3]])
    known = dream_ranks.agreement(real, dreamed)
    assert known["moments"] == 2 and known["correlation"] == 0.0 and known["correlation_error"] == pytest.approx(1.0)
    assert known["gain"] == 0.0 and known["gain_error"] == pytest.approx(1.0)
    blind = dream_ranks.agreement(real, np.zeros_like(real))
    assert blind["correlation"] == 0.0 and blind["gain"] == 0.0, "what tells nothing apart chooses by lot"
    assert dream_ranks.agreement(real[2:], dreamed[2:]) == {
        **{"moments": 0, "correlation": None, "correlation_error": None, "gain": None, "gain_error": None},
    }


@pytest.mark.slow
def test_dreams_are_set_beside_the_game(tmp_path, capsys):
    dream_ranks.main(finished(), moments=3, apart=2, draws=1, output=str(tmp_path / "ranks.json"))
    record = json.loads((tmp_path / "ranks.json").read_text())
    assert list(record["tasks"]) == ["catch", "grid"] and "rank correlation" in capsys.readouterr().out
    real, dreamed = (np.array(record["tasks"]["catch"][name], float) for name in ("real", "dreamed"))
    assert real.shape == dreamed.shape == (3, 5) and (np.isnan(real) == [False] * 3 + [True] * 2).all()
