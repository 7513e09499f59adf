"""Any gymnasium environment with a picture. In: environment ids, "module:Id" too. Out: Tasks and Environments.

The picture is the observation where that is an image, else what rgb_array rendering gives. `settings` are the keys of
config.suite.gymnasium. Called through envs.make.
"""

from __future__ import annotations

import os
from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces

from mow_jax.envs.base import Environment, Replayed
from mow_jax.envs.suites import nearest
from mow_jax.types import BadInput, Step, Task

HORIZON = 1000  # steps of the environment, where neither it nor the settings name a limit
OWN = "an id that a package or a file of yours registers is written 'module:Id-v0'"
LEAST = {"max_steps": 0, "action_repeat": 1}


def resolve(names: tuple[str, ...], settings: dict) -> list[Task]:
    """A Task for each environment id. All have as many actions (or dimensions) as the widest, with a mask of their own.

    Raises BadInput for an id that cannot be made, an environment without a picture, or actions of another kind.
    """
    for field, least in LEAST.items():
        if settings[field] < least:
            raise BadInput(f"suite.gymnasium.{field} is {settings[field]}: choose {least} or more")
    tasks = [_task(name, settings) for name in names]
    widest = max(task.action_size for task in tasks)
    return [task._replace(action_size=widest, action_mask=_mask(task.action_size, widest)) for task in tasks]


def make(task: Task, settings: dict) -> Environment:
    """A new environment with the id task.name."""
    return Adapter(task, settings)


def _task(name: str, settings: dict) -> Task:
    """The task by itself; `resolve` widens its actions to those of the others."""
    environment = _open(name, settings)
    space, spec = environment.action_space, environment.spec
    environment.close()
    discrete = isinstance(space, spaces.Discrete)
    if not discrete and not (isinstance(space, spaces.Box) and space.is_bounded()):
        raise BadInput(f"{name} has actions {space}: only Discrete and bounded Box actions can be learned")
    size = int(space.n) if discrete else int(np.prod(space.shape))
    horizon = -(-spec.max_episode_steps // settings["action_repeat"])
    return Task(name, "gymnasium", discrete, size, _mask(size, size), horizon, None, spec.reward_threshold)


def _mask(size: int, widest: int) -> tuple[bool, ...]:
    return tuple(action < size for action in range(widest))


def _open(name: str, settings: dict) -> Any:
    """The environment with a picture and a time limit, the latter in its own steps. Raises BadInput."""
    limit = settings["max_steps"] * settings["action_repeat"] or None
    environment = _make(name, max_episode_steps=limit)
    if not _is_image(environment.observation_space):
        modes = environment.metadata.get("render_modes") or ()
        environment.close()
        if "rgb_array" not in modes:
            raise BadInput(
                f"{name} has no picture: it needs image observations (uint8, HxWx3 or HxW) or rgb_array rendering"
            )
        environment = _make(name, max_episode_steps=limit, render_mode="rgb_array")
    if environment.spec.max_episode_steps is None:
        environment = gymnasium.wrappers.TimeLimit(environment, HORIZON)
    return environment


def _make(name: str, **options: Any) -> Any:
    # Read by pygame, which draws gymnasium's classic tasks: no window, no greeting.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        return gymnasium.make(name, disable_env_checker=True, **options)
    except (gymnasium.error.Error, ImportError, ValueError) as error:
        suggestion = nearest(name, gymnasium.registry)
        if suggestion and ":" not in name and name not in gymnasium.registry:
            raise BadInput(f"unknown environment {name!r}: {suggestion}") from error
        raise BadInput(f"environment {name!r} cannot be made: {error} ({OWN})") from error


def _is_image(space: Any) -> bool:
    shape: tuple[int, ...] = space.shape or ()
    return space.dtype == np.uint8 and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)))


class Adapter(Replayed):
    """One gymnasium environment."""

    def __init__(self, task: Task, settings: dict):
        cv2.setNumThreads(1)  # workers share the cores already
        self.task = task
        self.image_size = settings["image_size"]
        self.action_repeat = settings["action_repeat"]
        self.environment = _open(task.name, settings)
        self.observed = _is_image(self.environment.observation_space)

    def reset(self, seed: int, episode: int | None = None) -> np.ndarray:
        self.begin(seed, episode)
        observation, _ = self.environment.reset(seed=seed)
        return self._picture(observation)

    def step(self, action: Any) -> Step:
        observation, reward, terminated, truncated = self.advance(action)
        return Step(self._picture(observation), reward, terminated, truncated and not terminated)

    def advance(self, action: Any) -> tuple[Any, float, bool, bool]:
        """Take the action action_repeat times, fewer at the end; rewards add up."""
        native = self._native(action)
        self.note(action)
        total = 0.0
        for _ in range(self.action_repeat):
            observation, reward, terminated, truncated, _ = self.environment.step(native)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, bool(terminated), bool(truncated)

    def _native(self, action: Any) -> Any:
        """The action as the environment wants it: counted from its first, or scaled from [-1, 1] to its bounds."""
        space = self.environment.action_space
        if isinstance(space, spaces.Discrete):
            if not 0 <= action < space.n:
                raise ValueError(f"{self.task.name} has no action {action}: choose one of 0 to {space.n - 1}")
            return space.start + space.dtype.type(action)
        share = (np.asarray(action, np.float64)[: space.low.size].reshape(space.shape) + 1) / 2
        if not np.all((share >= 0) & (share <= 1)):
            raise ValueError(f"{self.task.name} takes numbers in [-1, 1], not {action}")
        return (space.low + share * (space.high - space.low)).astype(space.dtype)

    def _picture(self, observation: Any) -> np.ndarray:
        """[image_size, image_size, 3] uint8; a grey picture gets three equal channels."""
        picture = observation if self.observed else self.environment.render()
        if picture.ndim == 2 or picture.shape[2] == 1:
            picture = np.repeat(picture.reshape(*picture.shape[:2], 1), 3, axis=2)
        return cv2.resize(picture, (self.image_size, self.image_size), interpolation=cv2.INTER_AREA)

    def close(self) -> None:
        self.environment.close()
