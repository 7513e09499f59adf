"""From a ConfigDict to the objects of a run: tasks, environment settings, plan, system. Used by train and evaluate."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from mow_jax import envs, systems
from mow_jax.config import ATARI_PROTOCOLS
from mow_jax.types import BadInput, Plan, System, Task


def env_settings(config: ConfigDict) -> dict[str, Any]:
    """What envs.resolve and envs.make take: what is seen, the image size and the suite's own keys.

    Raises BadInput for a suite that does not exist.
    """
    envs.check_suite(config.suite.name)  # other keys of the section are called "tasks", "name", ...
    own = config.suite.get(config.suite.name, ConfigDict())
    named = ATARI_PROTOCOLS.get(own.get("protocol", ""), {})  # a preset wins over the fields that it names
    seen = {"observation": config.suite.observation, "image_size": config.suite.image_size}
    return {**seen, **own.to_dict(), **named}


def tasks(config: ConfigDict) -> list[Task]:
    """The run's tasks. Raises BadInput for names that do not exist."""
    return envs.resolve(config.suite.name, tuple(config.suite.tasks), env_settings(config))


def plan(config: ConfigDict) -> Plan:
    """Steps and updates of a run."""
    each, ratio, warmup = config.train.envs, config.train.ratio, config.warmup
    joint, random = config.train.steps // each, warmup.steps // each
    scheduled = (config.train.schedule_steps or config.train.steps) // each
    burst = config.train.burst
    count = lambda joint_steps: int((joint_steps - random) // burst * burst * ratio + 1e-9)
    return Plan(joint, random, warmup.updates, count(joint), warmup.updates + count(scheduled))


def system(config: ConfigDict, tasks: list[Task]) -> System:
    """What learns and acts in a run of a checked config. Raises BadInput for warm-up updates that it does not have."""
    made, steps = systems.make(config, tasks, plan(config)), plan(config)
    if steps.warmup_updates and "warmup" not in made.updates:
        raise BadInput(f"warmup.updates={steps.warmup_updates}: {made.name} learns nothing in a warm-up, set it to 0")
    return made
