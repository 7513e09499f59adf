"""Whatever can be known before a run starts is found out here, before its workdir is touched. Called by train."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from mow_jax import build, config, processes, transfer
from mow_jax.types import BadInput, System, Task


def check(settings: ConfigDict, directory: Path) -> tuple[list[Task], System]:
    """The tasks and the system that are meant. Raises BadInput for settings out of range, tasks that do not exist, and
    files or weights to start from that do not fit: those a new run alone reads."""
    config.check(settings)
    tasks = build.tasks(settings)
    if processes.count() > len(tasks):
        raise BadInput(f"{processes.count()} processes for {len(tasks)} tasks: start at most one a task")
    system = build.system(settings, tasks)
    if not (directory / "config.json").exists():
        if system.check:
            system.check()
        transfer.check(settings, system)
    return tasks, system
