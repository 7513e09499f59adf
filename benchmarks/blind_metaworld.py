"""What a policy that never looks at goal or object reaches in a Meta-World run's evaluation.

    python benchmarks/blind_metaworld.py --config=experiments/metaworld_reach.py:three --task=reach-v3

Meta-World's own scripted policy plays every goal twice: told of its hand and, instead of everything else, of its mean
over the goals at an episode's start (in reach-v3 it so hovers at the goals' mean); and told of all. Same goals, steps
and success rule as `python -m mow_jax.evaluate`: success above the first needs a model that sees.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from absl import flags
from metaworld.policies import ENV_POLICY_MAP
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from mow_jax import command, envs
from mow_jax.evaluate import env_settings
from mow_jax.report.scores import success_interval

HAND = [0, 1, 2, 3, 18, 19, 20, 21]  # place and gripper, now and a step before: what a blind policy is told


def main(config: ConfigDict, name: str) -> None:
    """Plays and prints one JSON object."""
    settings = env_settings(config) | {"observation": "state"}
    (task,) = envs.resolve("metaworld", (name,), settings)
    environment = envs.make(task, settings)
    goals = range(config.suite.metaworld.goals)
    usual = np.mean([environment.reset(goal, goal) for goal in goals], axis=0)
    found: dict[str, Any] = {"task": name, "goals": len(goals)}
    for who, told in (("blind", lambda seen: blindfolded(seen, usual)), ("seeing", np.copy)):
        success = [plays(environment, ENV_POLICY_MAP[name](), goal, told) for goal in goals]
        found[who] = {"success": float(np.mean(success)), "interval": success_interval(success)}
    environment.close()
    print(json.dumps(found))


def blindfolded(seen: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """What is usual, with the hand as it is seen, [39]."""
    told = usual.copy()
    told[HAND] = seen[HAND]
    return told


def plays(environment: envs.Environment, policy: Any, goal: int, told: Any) -> bool:
    """Whether the scripted `policy`, asked about told(observation), ever succeeds in an episode."""
    seen = environment.reset(goal, goal)
    success = over = False
    while not over:
        action = np.clip(policy.get_action(told(seen).astype(np.float64)), -1, 1)
        step = environment.step(action.astype(np.float32))
        seen, success, over = step.observation, success or bool(step.success), step.terminated or step.truncated
    return success


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", "experiments/metaworld_reach.py", "A Meta-World experiment.")
    _TASK = flags.DEFINE_string("task", "reach-v3", "A task of the suite.")
    command.run(lambda: main(_CONFIG.value, _TASK.value))
