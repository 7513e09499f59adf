"""Any gymnasium environment with a picture, or with a vector of numbers where such is to be seen. In: environment ids,
"module:Id" too. Out: Tasks and Environments.

Their code is not ours: every call of it stands in `own_code`, every picture, reward and flag is checked.
`settings` are the keys of config.suite.gymnasium. Called through envs.make.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces

from mow_jax.envs import foreign, pictures, renderers
from mow_jax.envs.base import Environment, Replayed, refuse_end, vector
from mow_jax.envs.foreign import EnvironmentFailed, own_code
from mow_jax.envs.pictures import Picture
from mow_jax.envs.suites import nearest
from mow_jax.types import BadInput, Step, Task

HORIZON = 1000  # steps of the environment, where neither it nor the settings name a limit
OWN = "an id that a package or a file of yours registers is written 'module:Id-v0'"
API = "gymnasium's is reset(seed=, options=) -> observation, info and step(action) -> observation, reward, terminated,"
API += " truncated, info; older gyms differ"
LEAST = {"max_steps": 0, "action_repeat": 1}


def resolve(names: tuple[str, ...], settings: dict) -> list[Task]:
    """A Task for each environment id. All have as many actions (or dimensions) as the widest, with a mask of their own.

    Raises BadInput for an id that cannot be made, one without what is to be seen, or actions of another kind.
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
    environment, picture = _open(name, settings)
    seen = environment.observation_space
    space, spec = environment.action_space, environment.spec or environment.unwrapped.spec
    limit = spec.max_episode_steps or HORIZON
    _close(environment)
    discrete = isinstance(space, spaces.Discrete)
    if not discrete and not (isinstance(space, spaces.Box) and space.is_bounded() and space.low.size):
        raise BadInput(f"{name} has actions {space}: only Discrete and bounded Box actions can be learned")
    size = int(space.n) if discrete else int(np.prod(space.shape))
    horizon = -(-limit // settings["action_repeat"])
    threshold = spec.reward_threshold
    if threshold is not None and not math.isfinite(threshold):
        threshold = None  # nothing can be measured against it
    task = Task(name, "gymnasium", discrete, size, _mask(size, size), horizon, None, threshold)
    if picture is None:
        return task._replace(picture=f"its observation, {seen.low.size} numbers", numbers=seen.low.size)
    return task._replace(picture=picture.text)


def _mask(size: int, widest: int) -> tuple[bool, ...]:
    return tuple(action < size for action in range(widest))


def _open(name: str, settings: dict) -> tuple[Any, Picture | None]:
    """The environment with a time limit, in its own steps, and the choice of its picture; None: its observation is a
    vector, to be seen as it is. Raises BadInput."""
    limit = settings["max_steps"] * settings["action_repeat"] or None
    if settings.get("observation") != "state":
        _prepare_drawing(name)
    environment = _make(name, max_episode_steps=limit)
    with own_code(f"{name}: asking for its spaces and metadata", _class(environment)):
        _, observed = environment.action_space, environment.observation_space
        modes = (environment.metadata or {}).get("render_modes")
    state = settings.get("observation") == "state"
    if state:
        _refuse_other_than_vectors(name, observed)
    picture = None if state else pictures.choose(name, observed, modes)
    if picture and picture.space is None:
        _close(environment)
        environment = _make(name, max_episode_steps=limit, render_mode="rgb_array")
    if environment.spec is None or environment.spec.max_episode_steps is None:
        environment = gymnasium.wrappers.TimeLimit(environment, limit or HORIZON)
    return environment, picture


def _prepare_drawing(name: str) -> None:
    """Has a renderer chosen for a task of gymnasium's that MuJoCo simulates, before that is imported. Raises BadInput
    where none can draw."""
    if _is_mujoco(name):
        renderers.choose("MuJoCo")
        renderers.refuse()


def _is_mujoco(name: str) -> bool:
    entry = None
    with contextlib.suppress(Exception):  # what is wrong with an id is said by making it
        entry = gymnasium.spec(name).entry_point
    return isinstance(entry, str) and entry.startswith("gymnasium.envs.mujoco")


def _refuse_other_than_vectors(name: str, space: Any) -> None:
    if not isinstance(space, spaces.Box) or len(space.shape) > 1 or not space.low.size:
        raise BadInput(
            f"{name} has observations {space}, no vector of numbers: learn from its picture,"
            " --config.suite.observation=pixels, where the system can, or name another task"
        )


def _make(name: str, **options: Any) -> Any:
    # Read by pygame, which draws gymnasium's classic tasks: no window, no greeting.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        return gymnasium.make(name, disable_env_checker=True, **options)
    except foreign.NOT_THEIRS:
        raise
    except BaseException as error:
        suggestion = nearest(name, gymnasium.registry)
        if suggestion and ":" not in name and name not in gymnasium.registry:
            raise BadInput(f"unknown environment {name!r}: {suggestion}") from error
        where = foreign.place(error) or OWN
        raise EnvironmentFailed(f"environment {name!r} cannot be made: it {foreign.said(error)} ({where})") from error


def _close(environment: Any) -> None:
    with contextlib.suppress(EnvironmentFailed), own_code("closing"):  # whatever was wanted of it is done
        environment.close()


def _class(environment: Any) -> str:
    """Where an environment's class stands."""
    kind = type(environment.unwrapped)
    with contextlib.suppress(TypeError, OSError):
        return f"{inspect.getsourcefile(kind)}, class {kind.__name__}"
    return f"class {kind.__module__}.{kind.__name__}"


class Adapter(Replayed):
    """One gymnasium environment."""

    def __init__(self, task: Task, settings: dict):
        cv2.setNumThreads(1)  # workers share the cores already
        self.task = task
        self.image_size = settings["image_size"]
        self.action_repeat = settings["action_repeat"]
        self.environment, self.picture = _open(task.name, settings)
        self.seen = False
        self.api = f"{_class(self.environment)}; {API}"

    def reset(self, seed: int, episode: int | None = None) -> np.ndarray:
        self.begin(seed, episode)
        with own_code(f"{self.task.name}: reset", self.api):
            observation, _ = self.environment.reset(seed=seed)
        return self._frame(observation)

    def step(self, action: Any) -> Step:
        step = self.advance(action)
        return step._replace(observation=self._frame(step.observation))

    def advance(self, action: Any) -> Step:
        """Take the action action_repeat times, fewer at the end; rewards add up."""
        native = native_action(self.task.name, self.environment.action_space, action)
        self.note(action)
        where, total = self.where(), 0.0
        for _ in range(self.action_repeat):
            with own_code(where, self.api):
                observation, reward, terminated, truncated, _ = self.environment.step(native)
            total = foreign.reward(total + foreign.reward(reward, where), where)
            terminated = foreign.flag(terminated, f"{where} gave a termination that")
            truncated = foreign.flag(truncated, f"{where} gave a truncation that")
            if terminated or truncated:
                break
        return Step(observation, total, terminated, truncated and not terminated)

    def state(self) -> dict:
        return super().state() | {"seen": self.seen}

    def restore(self, state: dict) -> np.ndarray | None:
        """As Replayed's; returns what is seen then, by which an episode that went another way is known. Environments
        that draw do so at each step: some change by it (Taxi's turns). MuJoCo's pictures are the renderer's, which
        differs between machines."""
        self.seen = state.get("seen", True)  # older states do not say it; a run that has saved has hardly seen nothing
        if self.picture and _is_mujoco(self.task.name):
            return super().restore(state)
        drawn = self.picture is not None and self.picture.space is None
        seen = self.reset(int(state["seed"]), state["episode"])
        for place, action in enumerate(state["actions"], start=1):
            step = self.step(action) if drawn or place == len(state["actions"]) else self.advance(action)
            refuse_end(step, self.where())
            seen = step.observation
        return seen

    def _frame(self, observation: Any) -> np.ndarray:
        """[image_size, image_size, 3] uint8, or [numbers] float32."""
        if self.picture is None:
            return self._vector(observation)
        if self.picture.space is None:
            with own_code(f"{self.task.name}: render", self.api):
                observation = self.environment.render()
        frame = self.picture.frame(observation, first=not self.seen)
        self.seen = self.seen or bool(np.any(observation))  # zeros alone do not tell 0..1 from 0..255
        return cv2.resize(frame, (self.image_size, self.image_size), interpolation=cv2.INTER_AREA)

    def _vector(self, observation: Any) -> np.ndarray:
        given, shape = foreign.numbers(observation), self.environment.observation_space.shape
        if given is None or given.shape != shape:
            raise BadInput(
                f"{self.where()} gave the observation {foreign.shown(observation)}, where its space says numbers"
                f" {shape}; mend the environment"
            )
        return vector(self.task, given, self.where())

    def close(self) -> None:
        _close(self.environment)


def native_action(name: str, space: Any, action: Any) -> Any:
    """The action as the environment `name` wants it: counted from its first, or scaled from [-1, 1] to its bounds.

    Raises ValueError for one that it does not have.
    """
    if isinstance(space, spaces.Discrete):
        if not 0 <= action < space.n:
            raise ValueError(f"{name} has no action {action}: choose one of 0 to {space.n - 1}")
        return space.start + space.dtype.type(action)
    share = (np.asarray(action, np.float64)[: space.low.size].reshape(space.shape) + 1) / 2
    if not np.all((share >= 0) & (share <= 1)):
        raise ValueError(f"{name} takes numbers in [-1, 1], not {action}")
    return (_scaled if space.dtype.kind == "f" else _counted)(space, share)


def _scaled(space: spaces.Box, share: np.ndarray) -> np.ndarray:
    """The numbers at `share` of the way from low to high; bounds may be as far apart as no number can say."""
    with np.errstate(over="ignore", invalid="ignore"):
        span = space.high - space.low
        near = space.low + share * span
    far = space.low * (1 - share) + space.high * share
    value = np.where(np.isfinite(span), near, far)
    return np.clip(value, space.low, space.high).astype(space.dtype)


def _counted(space: spaces.Box, share: np.ndarray) -> np.ndarray:
    """The integers at `share`: each of low..high has an equal part of it. In Python's numbers, which never overflow."""
    bounds = zip(share.flat, space.low.flat, space.high.flat, strict=True)
    count = [int(low) + min(int(s * (int(high) - int(low) + 1)), int(high) - int(low)) for s, low, high in bounds]
    return np.array(count, space.dtype).reshape(space.shape)
