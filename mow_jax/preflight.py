"""Whatever can be known before a run starts is found out here, before its workdir is touched. Called by train."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from mow_jax import build, config, processes, transfer, warmup
from mow_jax.agent import Agent
from mow_jax.types import BadInput, Task


def check(settings: ConfigDict, directory: Path) -> tuple[list[Task], Agent]:
    """The tasks and the agent that are meant. Raises BadInput for settings out of range, tasks that do not exist, and a
    task table or weights to start from that do not fit: those a new run alone reads."""
    config.check(settings)
    tasks = build.tasks(settings)
    if processes.count() > len(tasks):
        raise BadInput(f"{processes.count()} processes for {len(tasks)} tasks: start at most one a task")
    agent = build.agent(settings, tasks)
    if not (directory / "config.json").exists():
        if settings.clustering.table:
            warmup.given_table(settings, [task.name for task in tasks], agent)
        transfer.check(settings, agent)
    return tasks, agent
