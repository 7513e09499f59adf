"""Whatever can be known before a run starts is found out here, before its workdir is touched. Called by train."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from mow_jax import build, config, envs, logs, meter, processes, transfer
from mow_jax.types import BadInput, System, Task


def check(settings: ConfigDict, directory: Path, profile: str = "") -> tuple[list[Task], System]:
    """The tasks and the system that are meant; `profile` as Run takes it. Raises BadInput for settings out of range,
    tasks that do not exist or cannot be drawn, what is asked for and not installed, and files or weights to start from
    that do not fit: those a new run alone reads."""
    config.check(settings)
    new = not (directory / "config.json").exists()
    if new:
        config.check_new(settings)
    tasks = build.tasks(settings)
    if processes.count() > len(tasks):
        raise BadInput(f"{processes.count()} processes for {len(tasks)} tasks: start at most one a task")
    system, plan = build.system(settings, tasks), build.plan(settings)
    meter.traced(profile, plan.warmup_updates + plan.updates)
    if settings.log.wandb:
        logs.wandb_for(settings.log.wandb)
    if new:
        if system.check:
            system.check()
        transfer.check(settings, system)
    envs.check(tasks)  # last, as a renderer takes a while to be tried
    return tasks, system
