"""Tiny tasks for tests, demos and ablations on a CPU. In: names. Out: Tasks and environments.

The tasks are in envs/toy_tasks, their names and scores in envs/suites. Called through envs.resolve and envs.make.
"""

from __future__ import annotations

from collections.abc import Callable

from mow_jax.envs import toy_tasks
from mow_jax.envs.base import Environment
from mow_jax.envs.suites import LISTS, TOY, unknown
from mow_jax.envs.toy_board import BOARD, Toy
from mow_jax.types import BadInput, Task

KINDS: dict[str, Callable[[Task, int], Toy]] = {
    "catch": toy_tasks.Catch,
    "catch_swap": toy_tasks.CatchSwap,
    "catch_avoid": toy_tasks.CatchAvoid,
    "catch_noise": toy_tasks.CatchNoise,
    "grid": toy_tasks.Grid,
    "grid_swap": toy_tasks.GridSwap,
    "grid_far": toy_tasks.GridFar,
    "treasure": toy_tasks.Treasure,
    "key": toy_tasks.Key,
    "wall": toy_tasks.Wall,
    "cue": toy_tasks.Cue,
    "cue_swap": toy_tasks.CueSwap,
    "recall": toy_tasks.Recall,
    "slide": toy_tasks.Slide,
    "slide_swap": toy_tasks.SlideSwap,
    "slide_sparse": toy_tasks.SlideSparse,
}


def resolve(names: tuple[str, ...], settings: dict) -> list[Task]:
    """The toy Tasks called `names`. Raises BadInput for an unknown one or a picture that is no multiple of 16."""
    if settings["image_size"] % BOARD:
        raise BadInput(
            f"suite.image_size {settings['image_size']} does not fit the toy suite: choose 16, 32, 64 or 128"
        )
    for name in names:
        if name not in TOY:
            raise unknown("toy task", name, [*TOY, *LISTS["toy"]])
    tasks = [TOY[name] for name in names]
    if settings.get("observation") == "state":
        tasks = [task._replace(numbers=numbers(task)) for task in tasks]
    return tasks


def numbers(task: Task) -> int:
    """How many numbers a toy is."""
    toy = KINDS[task.name](task, BOARD)
    toy.reset(0)
    return len(toy.facts())


def make(task: Task, settings: dict) -> Environment:
    """A new environment of the toy `task`."""
    return KINDS[task.name](task, settings["image_size"])
