"""How fast an experiment's world model learns to see and to predict rewards, on uniform play recorded once.

    python benchmarks/world_model.py --config=experiments/atari_search.py:apart [--config.key=value ...] [--steps=6000]
        [--held_out=1000] [--updates=500] [--marks=5] [--output=FILE]

A search for settings in minutes instead of hours: the warm-up, then updates of the world model alone on the first
`steps` agent steps of every task, and after each part of them the error of reconstruction over the frames' own variance
(1: as if the mean frame were painted every time), the correlation of predicted and real rewards, and the nats that
actions tell of the next latent, on later steps that were not learned from. Milliseconds are processor time. MoW only:
other systems have no warm-up.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from mow_jax import command, logs, summary
from mow_jax.config import check
from mow_jax.diagnostics import action_numbers, frame_numbers, reward_numbers
from mow_jax.run import Run
from mow_jax.train import collect
from mow_jax.types import BadInput, Batch

BATCHES, WINDOWS = 12, 8  # of held-out windows
CONTEXT = 8  # first rows of a held-out window, whose rewards are not asked for: too little has been seen


def main(config: ConfigDict, steps: int, held_out: int, updates: int, marks: int, output: Path | None) -> None:
    """Records, learns, and prints a line after every part of the updates."""
    length = config.batch.length
    if min(steps, held_out) < length or length <= CONTEXT or not 0 < marks <= updates:
        raise BadInput(
            f"--steps={steps} and --held_out={held_out} must hold a window of batch.length={length} rows, that be more "
            f"than {CONTEXT}, and --marks={marks} lie in 1..{updates} (--updates)"
        )
    config.warmup.steps, config.train.envs, config.train.overlap = steps + held_out, 1, False
    config.train.steps = steps + held_out + 1
    check(config)
    with tempfile.TemporaryDirectory() as directory, contextlib.closing(Run(config, Path(directory), [])) as run:
        if "warmup" not in run.system.updates:
            raise BadInput(
                f"config.system={config.system} has no warm-up of a world model alone: name an experiment of MoW"
            )
        lines = list(measure(run, steps, updates, marks))
    result = {"config": config.to_dict(), "commit": summary.commit(), "steps": steps, "lines": lines}
    if output:
        output.write_text(json.dumps(result, indent=1, default=list))
        print(f"written: {output}")


def measure(run: Run, steps: int, updates: int, marks: int):
    """Yields what the world model knows after each part of the updates."""
    with logs.Progress("recording", run.plan.warmup_joint) as progress:
        while run.at.joint < run.plan.warmup_joint:
            collect(run)
            progress.update(run.steps, "")
    rng = np.random.default_rng(run.config.seed)
    later = [draw(run, rng, WINDOWS, steps, run.replay.rows) for _ in range(BATCHES)]
    learn = lambda: run.learner.update("warmup", run.learner.deal(draw(run, rng, run.config.batch.sequences, 0, steps)))
    for _ in range(run.config.warmup.updates):
        learn()
    run.system.after_warmup(run.learner, run.replay, run.directory)
    learn()  # compiled by now
    spent, done = 0.0, 1
    for mark in range(1, marks + 1):
        begun, target = time.process_time(), updates * mark // marks
        count, done = target - done, target
        for _ in range(count):
            learn()
        jax.block_until_ready(run.learner.state)
        spent += time.process_time() - begun
        found = numbers(run, later)
        said = ("ratio", "reward_correlation", "action_nats")
        text = "  ".join(" ".join([name] + [f"{n[key] or 0:.3f}" for key in said]) for name, n in found.items())
        print(f"{target:6,} updates {spent * 1000 / max(1, target - 1):5.0f} ms each | {text}", flush=True)
        yield {"updates": target, "seconds": spent, "tasks": found}


def draw(run: Run, rng: np.random.Generator, count: int, first: int, end: int) -> Batch:
    """`count` windows of every task from the rows first..end, [K, B, T]."""
    length = run.config.batch.length
    start = rng.integers(first, end - length + 1, (len(run.names), count))
    return run.replay.gather(np.stack([np.zeros_like(start), start], -1).astype(np.int32), length)


def numbers(run: Run, batches: list[Batch]) -> dict[str, dict[str, Any]]:
    """Of each task: the ratio of reconstruction, the correlation of rewards, ..., over all windows."""
    said = [run.learner.predictions(batch) for batch in batches]
    found = {}
    for k, name in enumerate(run.names):
        frames = np.concatenate([batch.observation[k].reshape(-1, *batch.observation.shape[3:]) for batch in batches])
        real = np.concatenate([batch.reward[k][:, CONTEXT:].ravel() for batch in batches])
        predicted = np.concatenate([part["reward"][k][:, CONTEXT:].ravel() for part in said])
        error = np.concatenate([part["error"][k].ravel() for part in said])
        wide = frames.astype(np.int64)
        told = np.concatenate([part["action"][k].ravel() for part in said])
        found[name] = reward_numbers(real, predicted) | frame_numbers(error, wide.sum(0), int((wide**2).sum()))
        found[name] |= action_numbers(told)
    return found


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", "experiments/atari_search.py", "An experiment file.")
    _STEPS = flags.DEFINE_integer("steps", 6000, "Agent steps of every task to learn from.")
    _HELD_OUT = flags.DEFINE_integer("held_out", 1000, "Later agent steps to measure on.")
    _UPDATES = flags.DEFINE_integer("updates", 500, "Updates of the world model after the warm-up's.")
    _MARKS = flags.DEFINE_integer("marks", 5, "How often to measure.")
    _OUTPUT = flags.DEFINE_string("output", None, "JSON file for the numbers.")

    def _main() -> None:
        output = Path(_OUTPUT.value) if _OUTPUT.value else None
        main(_CONFIG.value, _STEPS.value, _HELD_OUT.value, _UPDATES.value, _MARKS.value, output)

    command.run(_main)
