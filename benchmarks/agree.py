"""Whether an accelerator makes the updates that a CPU makes: the same ones, from the same state, on both.

    JAX_PLATFORMS=cuda,cpu JAX_DEFAULT_MATMUL_PRECISION=highest \\
        python benchmarks/agree.py --config=tests/configs/tiny.py --config.model.compute_dtype=float32 \\
        [--updates=3] [--output=FILE]

Frames are random. Shown for each update is the metric that differs most and by how much of itself, and at the end how
far parameters are apart, in learning rates, of which Adam's step has about one. Rounding should change the first update
by some 1e-5 of its metrics; one latent that is drawn otherwise does by more. Half precision would say nothing here. The
CPU runs the program that is made for the accelerator.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import throughput
from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from mow_jax import build, command, logs
from mow_jax.config import check
from mow_jax.learner import Learner
from mow_jax.replay import Replay
from mow_jax.types import BadInput

SMALL = 1e-3  # metrics below it are compared with it


def main(config: ConfigDict, updates: int, output: str | None) -> None:
    """Makes the updates on a CPU and on the default device, prints how far apart they are, writes the JSON."""
    check(config)
    if config.system != "mow" or config.model.compute_dtype != "float32":
        raise BadInput("give an experiment of MoW and --config.model.compute_dtype=float32")
    tasks = throughput.tasks_of(config)
    system = build.system(config, tasks)
    places = (jax.devices("cpu")[:1], jax.devices()[:1])
    one, other = (Learner(system, tasks, place, seed=config.seed) for place in places)
    one.initialise()
    other.load(one.snapshot())  # not drawn there: normal numbers are rounded otherwise
    with tempfile.TemporaryDirectory() as directory:
        replay = throughput.filled_replay(config, tasks, Path(directory))
        made = [run(config, learner, replay, updates) for learner in (one, other)]
    found = [dict(zip(("difference", "metric"), furthest(a, b), strict=True)) for a, b in zip(*made, strict=True)]
    moved = apart(one.snapshot().params, other.snapshot().params) / config.optimizer.world_lr
    rows = [(str(update), line["metric"], f"{line['difference']:.1e}") for update, line in enumerate(found, 1)]
    logs.table(f"a CPU and {throughput.device()}", ["update", "differs most", "of itself"], rows)
    print(f"parameters of the world model: at most {moved:.2g} learning rates apart after {updates} updates")
    if output:
        record = throughput.made()
        record |= {"tasks": len(tasks), "updates": found, "learning_rates_apart": moved}
        throughput.write(output, record)


def run(config: ConfigDict, learner: Learner, replay: Replay, updates: int) -> list[dict[str, np.ndarray]]:
    """Each update's metrics."""
    windows = lambda update: throughput.sample(learner, replay, update)
    return [jax.device_get(learner.update("training", *windows(update))) for update in range(updates)]


def furthest(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> tuple[float, str]:
    """The largest difference of two updates' metrics, relative to the larger of the two, and that metric's name."""
    scale = lambda a, b: np.maximum(np.maximum(np.abs(a), np.abs(b)), SMALL)
    relative = {name: float(np.max(np.abs(a - other[name]) / scale(a, other[name]))) for name, a in one.items()}
    name = max(relative, key=lambda name: (np.isnan(relative[name]), relative[name]))
    return relative[name], name


def apart(one: Any, other: Any) -> float:
    """The largest difference of two trees' numbers."""
    return float(np.max(jax.tree.leaves(jax.tree.map(lambda a, b: np.max(np.abs(a - b), initial=0.0), one, other))))


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "An experiment file.")
    _UPDATES = flags.DEFINE_integer("updates", 3, "Updates.", lower_bound=1)
    _OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
    command.run(lambda: main(_CONFIG.value, _UPDATES.value, _OUTPUT.value))
