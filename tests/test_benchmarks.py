"""The benchmarks count right and run at test sizes."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from processes import ROOT, environment

from mow_jax import build

sys.path.insert(0, str(ROOT / "benchmarks"))
from mow_jax import flops


def test_products_are_counted_as_the_compiler_does():
    x, w = jnp.ones((6, 8)), jnp.ones((8, 10))
    assert flops.count(jnp.matmul, x, w) == 2 * 6 * 8 * 10 == flops.compiled(jnp.matmul, x, w)
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
    assert flops.compiled(loop, x) < flops.count(loop, x) <= flops.compiled(unrolled, x)


def test_convolutions_are_counted():
    x, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
    convolve = lambda x, k: jax.lax.conv_general_dilated(
        x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert flops.count(convolve, x, kernel) == 2 * 6 * 6 * 5 * 27


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="no known length"):
        flops.count(lambda x: jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, x), jnp.ones(3))


@pytest.mark.slow
def test_the_gpu_suite_runs_at_test_sizes_and_leaves_its_record(tmp_path):
    command = [sys.executable, "benchmarks/gpu_suite.py", f"--output={tmp_path}", "--tiny"]
    parts = "--parts=throughput_storm,compare_storm,precision,learning"
    run = subprocess.run(
        [*command, parts], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=600
    )
    assert run.returncode == 0, run.stderr
    outcomes = {
        name: entry["outcome"] for name, entry in json.loads((tmp_path / "suite.json").read_text())["parts"].items()
    }
    done = dict.fromkeys(("throughput_storm", "precision", "learning"), "done")
    assert outcomes == done | {"compare_storm": "skipped: needs --reference=DIR"}, os.listdir(tmp_path)
    record = json.loads((tmp_path / "throughput_storm.json").read_text())
    assert record["milliseconds"]["whole update"] > 0 and record["flop"]["whole update"] > 0
    assert (tmp_path / "learning" / "results.json").exists()


@pytest.mark.slow
def test_what_an_update_sends_is_read_from_its_program():
    command = [sys.executable, "benchmarks/communication.py", "--config=tests/configs/tiny.py"]
    run = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True, timeout=300)
    sent = [line.split("│")[1:3] for line in run.stdout.splitlines() if "gradient of" in line]
    assert [name.strip() for name, _ in sent] == ["gradient of world model", "gradient of agent"]
    config = runpy.run_path(str(ROOT / "tests/configs/tiny.py"))["get_config"]()
    tasks = build.tasks(config)
    state = jax.eval_shape(build.system(config, tasks).init)
    count = lambda *trees: sum(leaf.size for leaf in jax.tree.leaves(trees))
    expected = [4 * count(state.params), 4 * count(state.actor, state.critic)]
    assert [int(size.replace(",", "")) for _, size in sent] == expected


@pytest.mark.slow
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
