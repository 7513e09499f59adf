"""The door to all environments: task names become Tasks (`resolve`), a Task becomes an Environment (`make`).

Each suite is one module with these same two functions, without the suite's name, and perhaps a `check`; it is imported
when it is needed. Called by train, evaluate, actors and mow_jax.make_env.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType

from mow_jax.envs.base import Environment
from mow_jax.envs.suites import expand, unknown
from mow_jax.types import BadInput, Task

SUITES = ("atari", "metaworld", "toy", "gymnasium")


def resolve(suite: str, names: tuple[str, ...], settings: dict) -> list[Task]:
    """The Tasks that `names` stand for, lists of tasks ("atari26") expanded in place.

    `settings`: {"image_size": int}, perhaps {"observation": "state"} (else pixels), and the keys of
    config.suite.<suite>. Vectors have as many numbers as the widest task's.
    Raises BadInput for an unknown suite or task, a task named twice, or discrete and continuous tasks together.
    """
    module, expanded = _module(suite), expand(suite, names)
    if not expanded:
        raise BadInput("suite.tasks is empty: name at least one task, e.g. --config.suite.tasks=\"('Pong',)\"")
    with _without_renderer(settings.get("observation") == "state"):
        tasks = module.resolve(expanded, settings)
    _refuse_duplicates([task.name for task in tasks])
    _refuse_mixture(tasks)
    widest = max(task.numbers for task in tasks)
    return [task._replace(numbers=widest) for task in tasks]


def check_suite(name: str) -> None:
    """Raises BadInput for a suite that does not exist."""
    if name not in SUITES:
        raise unknown("suite", name, SUITES)


def check(tasks: list[Task]) -> None:
    """Raises BadInput where what these tasks need beside their names and settings is known to be missing here, such as
    a renderer."""
    module = _module(tasks[0].suite)
    if hasattr(module, "check"):
        module.check(tasks)


def make(task: Task, settings: dict) -> Environment:
    """A new environment of `task`; `settings` as in `resolve`. Nothing runs before its first `reset` or `restore`."""
    with _without_renderer(bool(task.numbers)):
        return _module(task.suite).make(task, settings)


@contextlib.contextmanager
def _without_renderer(states: bool) -> Iterator[None]:
    """With `states` nothing is drawn: mujoco, which loads a renderer when it is imported, loads none inside. It may be
    missing here, or wanted later by tasks that are drawn."""
    if not states or "mujoco" in sys.modules:
        yield
        return
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disabled"
    try:
        yield
    finally:
        del os.environ["MUJOCO_GL"]
        if before is not None:
            os.environ["MUJOCO_GL"] = before


def _module(suite: str) -> ModuleType:
    check_suite(suite)
    return importlib.import_module(f"mow_jax.envs.{suite}")


def _refuse_duplicates(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(f"suite.tasks names {', '.join(twice)} more than once: name each task once")


def _refuse_mixture(tasks: list[Task]) -> None:
    discrete = [task.name for task in tasks if task.discrete]
    continuous = [task.name for task in tasks if not task.discrete]
    if discrete and continuous:
        raise BadInput(
            f"suite.tasks mixes discrete actions ({', '.join(discrete)}) with continuous ones"
            f" ({', '.join(continuous)}): a run learns one kind, so name only the tasks of one"
        )
