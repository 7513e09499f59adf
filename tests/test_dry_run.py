"""What --dry_run says of the parameters and the cost of a run, and that it leaves nothing."""

from __future__ import annotations

import math
import re
from pathlib import Path

import jax
import pytest
from processes import ROOT

from mow_jax import command, logs, preflight, summary

# Experiment files with sizes that compile soon, the rows that each window of an update has, and lines of their own.
SMALL = {
    "toy.py:scalezero": (
        "suite.tasks=('catch','grid') batch.windows=3 batch.unroll=6 log.gradients=False model.encoder=convolution"
        " model.channels=4 model.width=8 model.layers=1 model.heads=2 model.experts=2",
        6 + 3,
        {"search": "12 simulations an action (puct)", "experts": "2 a layer, 1 active", "stages": "no adapters"},
    ),
    "toy_slide.py:m3po": (
        "batch.windows=999 batch.horizon=2 model.latent=16 model.encoder=8 model.hidden=8",
        2 + 1,
        {"planner": " sequences of ", "trust region": "slices of 32 rows", "sees": "vectors of "},
    ),
    "metaworld_mt10_state.py": (
        "batch.windows=99 batch.horizon=2 model.latent=16 model.encoder=8 model.hidden=8",
        2 + 1,
        {"planner": " sequences of ", "sees": "vectors of 39"},
    ),
}
UNITS = {"B": 1, "kB": 1e3, "MB": 1e6}


@pytest.mark.parametrize(
    "file", [pytest.param(file, marks=pytest.mark.long if "metaworld" in file else pytest.mark.slow) for file in SMALL]
)
def test_a_dry_run_says_its_parameters_and_its_cost_and_starts_nothing(file: str, tmp_path: Path, monkeypatch):
    overrides, length, own = SMALL[file]
    said: dict[str, str] = {}
    monkeypatch.setattr(logs, "first_screen", said.update)
    words = [f"--config={ROOT}/experiments/{file}", *(f"--config.{change}" for change in overrides.split())]
    config, workdir = command.settings(words), tmp_path / "run"
    tasks, system = preflight.check(config, workdir)
    assert summary.dry_run(config, tasks, system, workdir) == 0 and not list(tmp_path.iterdir())

    state = jax.eval_shape(system.init, 0)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    parts = [int(text.replace(",", "")) for name, text in said.items() if name.startswith("  ")]
    assert said["parameters"] == f"{count:,}" and sum(parts) == count > 1000
    held = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert said["memory"].startswith(f"{summary.size(held)} of training state")

    cost = re.fullmatch(
        r"(\S+) (\w+) of state and batches, (\S+) (\w+) of scratch memory on cpu", said["compiled update"]
    )
    assert cost, said["compiled update"]
    batch = len(tasks) * config.batch.windows * length * summary.row_bytes(config, system, tasks)
    # An update need not read all of a row: M3PO's from replay leaves what acting stored beside it.
    assert held + 0.6 * batch < float(cost[1]) * UNITS[cost[2]] < 1.01 * (held + batch)
    assert float(cost[3]) * UNITS[cost[4]] > count  # gradients, for one

    joint = config.train.steps // config.train.envs
    assert said["plan"].startswith(f"{joint:,} joint steps x {config.train.envs} environments")
    assert re.search(r", [\d,]{4,} updates$", said["plan"]) and said["replay"] and said["environments"]
    assert all(part in said[name] for name, part in own.items()), said
