"""A trained agent in a few lines: `load_agent`, `make_env`, and `restore` for whoever wants its learner.

All take a run's workdir or a file of mow_jax.export. Nothing loaded is a pickle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from ml_collections import ConfigDict

from mow_jax import build, envs, export, workdir
from mow_jax.checkpoint import Checkpoints
from mow_jax.config import check
from mow_jax.learner import Learner, abstract_state
from mow_jax.types import BadInput, Task


def restore(directory: Path, step: int | None = None) -> tuple[ConfigDict, list[Task], Learner, int]:
    """Config, tasks, learner and step of a run's checkpoint (None: the newest valid one), or of an exported agent."""
    config = settings(directory)
    check(config)
    tasks = build.tasks(config)
    learner = Learner(build.agent(config, tasks), tasks)
    if directory.is_file():
        found, state = export.read(directory, abstract_state(learner.agent))
        if step not in (None, found):
            raise BadInput(f"{directory} holds the agent of step {found}, not of {step}: leave the step out")
        learner.load(state)
        return config, tasks, learner, found
    try:
        found, state, _ = Checkpoints(directory / "checkpoints", keep=1).load(step, abstract_state(learner.agent))
    except FileNotFoundError:
        raise BadInput(f"{directory} has no checkpoint yet: train it first") from None
    learner.load(state)
    return config, tasks, learner, found


def settings(directory: Path) -> ConfigDict:
    """The config of a run or of an exported agent."""
    return export.read_config(directory) if directory.is_file() else workdir.read(directory)


class LoadedAgent:
    """A trained agent for one environment at a time: `reset(task, seed)`, then `act(observation, task)`."""

    def __init__(self, directory: Path, step: int | None):
        self.config, self.tasks, self._learner, self.step = restore(directory, step)
        self._names = [task.name for task in self.tasks]
        self._frames = np.zeros((len(self.tasks), 1, *[self.config.suite.image_size] * 2, 3), np.uint8)
        self._acting = jax.tree.map(np.copy, self._learner.save_acting(self._learner.init_acting(1)))
        self._first = np.ones((len(self.tasks), 1), bool)
        self._clock = [0] * len(self.tasks)

    def reset(self, task: str, seed: int = 0) -> None:
        """Begins an episode of `task`; `seed` decides the sampled actions."""
        k = self._index(task)
        self._first[k] = True
        self._acting.length[k] = 0  # under STORM's settings a first frame alone does not forget the episode before
        self._clock[k] = seed * 1_000_003

    def act(self, observation: np.ndarray, task: str) -> Any:
        """The action for a uint8 frame [H, W, 3] of any size: what `make_env(...).step` takes."""
        k, size = self._index(task), self.config.suite.image_size
        observation = np.asarray(observation)
        if observation.ndim != 3 or observation.shape[-1] != 3 or observation.dtype != np.uint8:
            raise BadInput(f"an observation is uint8 [H, W, 3], not {observation.dtype} {list(observation.shape)}")
        same = observation.shape[:2] == (size, size)
        self._frames[k, 0] = (
            observation if same else cv2.resize(observation, (size, size), interpolation=cv2.INTER_AREA)
        )
        acting = self._learner.load_acting(self._acting)
        action, acting = self._learner.act(acting, self._frames, self._first, self._clock[k] % 2**31)
        self._keep(k, self._learner.save_acting(acting))
        self._first[k], self._clock[k] = False, self._clock[k] + 1
        return int(action[k, 0]) if self.tasks[k].discrete else action[k, 0]

    def _keep(self, k: int, acting: Any) -> None:
        """Takes over the contexts of task k, the one that has moved on."""
        for mine, new in zip(self._acting, acting, strict=True):
            mine[k] = new[k]

    def _index(self, task: str) -> int:
        if task not in self._names:
            raise BadInput(f"this agent does not know {task!r}; its tasks: {', '.join(self._names)}")
        return self._names.index(task)


def load_agent(directory: str | Path, step: int | None = None) -> LoadedAgent:
    """The agent of a run's newest checkpoint, or of agent step `step`; or that of an exported file."""
    return LoadedAgent(Path(directory), step)


def make_env(directory: str | Path, task: str) -> envs.Environment:
    """An environment of one of a run's tasks, exactly as the run had it."""
    config = settings(Path(directory))
    found = {t.name: t for t in build.tasks(config)}
    if task not in found:
        raise BadInput(f"the run in {directory} has no task {task!r}; its tasks: {', '.join(found)}")
    return envs.make(found[task], build.env_settings(config))
