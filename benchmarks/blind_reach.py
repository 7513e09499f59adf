"""What a policy that never looks at the goal reaches in a Meta-World run's evaluation: it hovers at the goals' mean.

    python benchmarks/blind_reach.py --config=experiments/metaworld_reach.py --task=reach-v3

Same goals, steps and success rule as `python -m mow_jax.evaluate`; success above this needs a model that sees the goal.
"""

from __future__ import annotations

import json
import runpy

import numpy as np
from absl import app, flags

from mow_jax import build, envs
from mow_jax.evaluate import env_settings
from mow_jax.report.scores import success_interval

CONFIG = flags.DEFINE_string("config", "experiments/metaworld_reach.py", "A Meta-World experiment file.")
TASK = flags.DEFINE_string("task", "reach-v3", "One of its tasks.")
GAIN = 10.0  # of the action, per metre to go; full speed from a tenth of a metre on


def main(_) -> None:
    """Plays every goal once and prints one JSON object."""
    config = runpy.run_path(CONFIG.value)["get_config"]()
    (task,) = [task for task in build.tasks(config) if task.name == TASK.value]
    environment = envs.make(task, env_settings(config))
    goals = range(config.suite.metaworld.goals)
    place = np.mean([goal_of(environment, goal) for goal in goals], axis=0)
    success = [hover(environment, goal, place) for goal in goals]
    environment.close()
    result = {"task": task.name, "place": place.round(4).tolist(), "success": float(np.mean(success))}
    print(json.dumps(result | {"interval": success_interval(success), "goals": len(success)}))


def goal_of(environment: envs.Environment, number: int) -> np.ndarray:
    """Where the goal `number` lies, in metres."""
    environment.reset(number, number)
    return np.array(environment.simulation._target_pos)


def hover(environment: envs.Environment, number: int, place: np.ndarray) -> bool:
    """Whether an episode that flies to `place` and stays there ever succeeds."""
    environment.reset(number, number)
    success = over = False
    while not over:
        away = place - environment.simulation.get_endeff_pos()
        step = environment.step(np.append(np.clip(GAIN * away, -1, 1), 0.0).astype(np.float32))
        success, over = success or bool(step.success), step.terminated or step.truncated
    return success


if __name__ == "__main__":
    app.run(main)
