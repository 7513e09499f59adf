"""Acting beside learning: what a joint step costs when the environments wait as long as one update takes.

    python benchmarks/overlap.py [--steps=120]

Trains the quickstart's model on two environments that only wait: without waiting (the update's own time), then waiting
that long, with train.overlap and without. Then on two real games, both ways. This file is also the module that
registers the environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gymnasium
import numpy as np

WAIT = "MOW_JAX_WAIT"  # seconds a step, from the environment
WAITING = {"suite.name": "gymnasium", "suite.tasks": "('overlap:Waiting-v1','overlap:Waiting-v2')"}
ATARI = {"suite.name": "atari", "suite.tasks": "('Pong','Boxing')"}
WARM = 60  # joint steps before the measured ones: random steps, warm-up, compilation
HERE = Path(__file__).resolve().parent


class Waiting(gymnasium.Env):
    """A picture, four actions, a step that sleeps."""

    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._picture(), {}

    def step(self, action):
        time.sleep(float(os.environ[WAIT]))
        self.time += 1
        return self._picture(), float(action == 1), self.time >= 50, False, {}

    def _picture(self) -> np.ndarray:
        return np.full((64, 64, 3), 5 * self.time, np.uint8)


for _number in (1, 2):
    gymnasium.register(f"Waiting-v{_number}", Waiting)


def joint_step(suite: dict[str, str], wait: float, overlap: bool, steps: int) -> float:
    """Seconds a joint step of a training run takes, with one update each."""
    with tempfile.TemporaryDirectory() as workdir:
        settings = suite | {
            "train.steps": WARM + steps,
            "train.ratio": 1.0,
            "train.overlap": overlap,
            "warmup.steps": WARM,
            "warmup.updates": 2,
            "actors.workers": 2,
            "evaluation.episodes": 1,
            "evaluation.parallel": 1,
            "evaluation.max_steps": 2,
            "checkpoint.every": 10**6,
            "log.every": 1,
        }
        given = [f"--config.{key}={value}" for key, value in settings.items()]
        command = [sys.executable, "-m", "mow_jax.train", "--config=experiments/quickstart.py", f"--workdir={workdir}"]
        path = os.pathsep.join([str(HERE.parent), str(HERE)])
        environment = {**os.environ, "PYTHONPATH": path, WAIT: str(wait)}
        subprocess.run([*command, *given], cwd=HERE.parent, env=environment, capture_output=True, check=True)
        lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    seconds = [line["seconds"] for line in lines if "agent/critic" in line and line["step"] > WARM + 10]
    return float(np.median(np.diff(seconds)))


def main(steps: int) -> None:
    """Measures and prints."""
    update = joint_step(WAITING, 0.0, False, steps)
    together, apart = (joint_step(WAITING, update, overlap, steps) for overlap in (True, False))
    print(f"a joint step without waiting, which is one update and acting: {1000 * update:.0f} ms")
    print(f"environments wait {1000 * update:.0f} ms: {1000 * together:.0f} ms with train.overlap, ", end="")
    print(f"{together / update:.2f} times the slower of the two; {1000 * apart:.0f} ms without")
    together, apart = (joint_step(ATARI, 0.0, overlap, steps) for overlap in (True, False))
    print(f"Pong and Boxing: {1000 * together:.0f} ms with train.overlap, {1000 * apart:.0f} ms without")


if __name__ == "__main__":
    from absl import flags

    from mow_jax import command as _command

    _STEPS = flags.DEFINE_integer("steps", 120, "Measured joint steps a run.")
    _command.run(lambda: main(_STEPS.value))
