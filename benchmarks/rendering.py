"""Frames per second of Meta-World's two render qualities in one process, side by side, with a picture of both.

python benchmarks/rendering.py [--task=reach-v3] [--rounds=5] [--frames=40] [--output=pictures.png]

Each round steps and renders one environment of each quality in turn; the medians over the rounds are compared.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from absl import flags
from PIL import Image

from mow_jax import build, command, envs, logs
from mow_jax.config import default

QUALITIES = ("full", "fast")


def main(name: str, rounds: int, frames: int, output: str | None) -> None:
    """Measures, prints the table, writes the picture."""
    config = default()
    config.suite.name, config.suite.tasks = "metaworld", (name,)
    settings = build.env_settings(config)
    (task,) = build.tasks(config)
    made = {quality: envs.make(task, settings | {"render_quality": quality}) for quality in QUALITIES}
    pictures = [environment.reset(0, 0) for environment in made.values()]
    rates = [{quality: rate(environment, frames) for quality, environment in made.items()} for _ in range(rounds)]
    median = {quality: statistics.median(round[quality] for round in rates) for quality in QUALITIES}
    ratio = statistics.median(round["fast"] / round["full"] for round in rates)
    rows = [(quality, *(f"{round[quality]:.1f}" for round in rates), f"{median[quality]:.1f}") for quality in QUALITIES]
    logs.table("frames per second", ["quality", *(f"round {i + 1}" for i in range(rounds)), "median"], rows)
    print(f"fast is {ratio:.1f} times as fast as full (median of {rounds} rounds)")
    if output:
        Image.fromarray(np.concatenate(pictures, axis=1).repeat(6, 0).repeat(6, 1)).save(output)


def rate(environment: envs.Environment, frames: int) -> float:
    """Steps a second with a picture each, of random actions."""
    draw = np.random.default_rng(0)
    environment.reset(0, 0)
    begin = time.perf_counter()
    for _ in range(frames):
        environment.step(draw.uniform(-1, 1, environment.task.action_size).astype(np.float32))
    return frames / (time.perf_counter() - begin)


if __name__ == "__main__":
    _TASK = flags.DEFINE_string("task", "reach-v3", "Task to render.")
    _ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds, each with both qualities.")
    _FRAMES = flags.DEFINE_integer("frames", 40, "Frames a quality and round.")
    _OUTPUT = flags.DEFINE_string("output", None, "PNG to write: full quality left, fast right, enlarged.")
    command.run(lambda: main(_TASK.value, _ROUNDS.value, _FRAMES.value, _OUTPUT.value))
