"""Losses in bfloat16 beside those in float32: the same weights, the same recorded toy frames, the same updates.

    python benchmarks/precision.py [--config=experiments/atari26_small.py] [--updates=200] [--output=FILE]

The sizes are those of the experiment, the tasks the toy suite's at its image size.
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
from mow_jax.actors import Actors, random_actions
from mow_jax.config import check
from mow_jax.learner import Learner
from mow_jax.replay import Replay
from mow_jax.seeding import generator
from mow_jax.types import Task

DTYPES = ("float32", "bfloat16")
SHOWN = ("world/total", "world/reconstruction", "world/reward", "world/kl", "agent/critic", "agent/entropy")


def main(config: ConfigDict, updates: int, output: str | None) -> None:
    """Runs both, prints the table, writes the JSON."""
    config.suite.name, config.suite.tasks = "toy", ("toy5",)
    check(config)
    tasks = build.tasks(config)
    with tempfile.TemporaryDirectory() as directory:
        replay = recorded(config, tasks, Path(directory))
        curves = {dtype: losses(config, tasks, replay, dtype, updates) for dtype in DTYPES}
    tail = {
        dtype: {name: float(np.mean(curve[name][-updates // 4 :])) for name in SHOWN} for dtype, curve in curves.items()
    }
    rows = [(name, *(f"{tail[dtype][name]:.5g}" for dtype in DTYPES), f"{apart(tail, name):.2%}") for name in SHOWN]
    logs.table(f"means of the last {updates // 4} of {updates} updates", ["loss", *DTYPES, "apart"], rows)
    if output:
        record = throughput.made()
        record |= {"updates": updates, "last_quarter": tail, "curves": curves}
        throughput.write(output, record)


def apart(tail: dict[str, dict[str, float]], name: str) -> float:
    """Relative difference."""
    one, other = (tail[dtype][name] for dtype in DTYPES)
    return abs(one - other) / max(abs(one), 1e-9)


def recorded(config: ConfigDict, tasks: list[Task], directory: Path) -> Replay:
    """Random play of the toy suite."""
    options: dict[str, Any] = dict(envs=config.train.envs, seed=config.seed)
    rows = dict(chunk_rows=config.replay.chunk_rows, capacity=0)
    replay = Replay(directory, tasks, image_size=config.suite.image_size, **options, **rows)
    replay.restore({"rows": 0})
    actors = Actors(tasks, build.env_settings(config), name="train", workers=0, **options)
    for step in range(4 * config.batch.length):
        action = random_actions(generator(config.seed, "random", step), tasks, config.train.envs)
        replay.append(actors.step(action)[0])
    actors.close()
    return replay


def losses(config: ConfigDict, tasks: list[Task], replay: Replay, dtype: str, updates: int) -> dict[str, list[float]]:
    """The losses of every update from the same start."""
    config.model.compute_dtype = dtype
    learner = Learner(build.system(config, tasks), tasks, jax.local_devices()[:1], seed=config.seed)
    learner.initialise()
    found = [learner.update("training", *throughput.sample(learner, replay, update)) for update in range(updates)]
    found = jax.device_get(found)
    return {name: [float(np.mean(metrics[name])) for metrics in found] for name in SHOWN}


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", "experiments/atari26_small.py", "Whose sizes to take.")
    _UPDATES = flags.DEFINE_integer("updates", 200, "Updates.")
    _OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
    command.run(lambda: main(_CONFIG.value, _UPDATES.value, _OUTPUT.value))
