"""The algorithms: a folder of pure functions each, and one record (`types.System`) that the house knows them by.

A system's `build.py` has `system(config, tasks, plan)`, its keys are in mow_jax/config/NAME.py; no system imports
another.
"""

from __future__ import annotations

import importlib

from ml_collections import ConfigDict

from mow_jax.types import Plan, System, Task


def make(config: ConfigDict, tasks: list[Task], plan: Plan) -> System:
    """The system that a checked config names."""
    return importlib.import_module(f"mow_jax.systems.{config.system}.build").system(config, tasks, plan)
