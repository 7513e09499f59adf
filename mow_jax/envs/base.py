"""What every environment offers. In: seeds and actions. Out: Steps with frames (types.frame). Used by actors."""

from __future__ import annotations

import abc
import importlib
from types import ModuleType
from typing import Any

import numpy as np

from mow_jax.envs.foreign import EnvironmentFailed, shown
from mow_jax.types import BadInput, Step, Task


class Environment(abc.ABC):
    """One copy of one task. All randomness of an episode derives from the seed given to `reset`."""

    task: Task

    @abc.abstractmethod
    def reset(self, seed: int, episode: int | None = None) -> np.ndarray:
        """Begin a new episode and return its first frame, a picture [H, W, 3] uint8, or a vector [task.numbers] float32
        where the task says so. `seed` is any integer in 0..2^32-1.

        `episode` counts a task's episodes over all its environments: a task with a list of goals goes through it by
        that number, and picks one by the seed where it is None. Tasks without such a list ignore it.
        """

    @abc.abstractmethod
    def step(self, action: Any) -> Step:
        """Take one agent step: an int that the task's mask allows, or float32 [A] in [-1, 1].

        Raises ValueError for an action that the task does not have. After a Step that is terminated or truncated
        only `reset` or `restore` may follow.
        """

    @abc.abstractmethod
    def state(self) -> dict:
        """The open episode, whole: a flat dict of JSON scalars, lists, strings and numpy arrays."""

    @abc.abstractmethod
    def restore(self, state: dict) -> np.ndarray | None:
        """Go on exactly where `state` was taken, in this or any other process; what is seen there, where that is sure
        to be the same on every machine."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Free what the environment holds."""


class Replayed(Environment):
    """An environment whose inner state is out of reach: `restore` plays the open episode again, which is exact where
    the same start and actions always give the same episode. Subclasses call `begin` in `reset`, `note` in `advance`.
    """

    def begin(self, seed: int, episode: int | None) -> None:
        """Remember how the episode was started."""
        self._seed, self._episode = seed, episode
        self._actions: list[np.ndarray] = []

    def note(self, action: Any) -> None:
        """Remember an action that was taken."""
        self._actions.append(np.array(action, np.int32 if self.task.discrete else np.float32))

    def where(self) -> str:
        """The task and the step that was noted last, for messages."""
        return f"{self.task.name}: step {len(self._actions)} of an episode"

    @abc.abstractmethod
    def advance(self, action: Any) -> Step:
        """What `step` does but for the picture: the observation is what the environment gave, as it is."""

    def state(self) -> dict:
        """The open episode's start and actions."""
        actions = np.stack(self._actions) if self._actions else np.zeros(0, np.float32)
        return {"seed": self._seed, "episode": self._episode, "actions": actions}

    def restore(self, state: dict) -> np.ndarray | None:
        self.reset(int(state["seed"]), state["episode"])
        for action in state["actions"]:
            refuse_end(self.advance(action), self.where())
        return None


def refuse_end(step: Step, where: str) -> None:
    """Raises EnvironmentFailed where an episode that is played again ends: one that was saved was open."""
    if step.terminated or step.truncated:
        raise EnvironmentFailed(f"{where} ended it, and it had not when it was saved: it does not do the same again")


def vector(task: Task, numbers: Any, where: str) -> np.ndarray:
    """`numbers` as what is seen of `task`: float32 [task.numbers], zeros behind its own. `where` names task and step.

    Raises BadInput where one of them is not finite: stored, it would turn every loss to NaN.
    """
    with np.errstate(over="ignore"):
        own = np.ravel(np.asarray(numbers)).astype(np.float32)
    if not np.isfinite(own).all():
        raise BadInput(f"{where} gave the observation {shown(own)}: its numbers must be finite; mend the environment")
    return np.pad(own, (0, task.numbers - len(own)))


def needs(module: str, extra: str) -> ModuleType:
    """Import an optional dependency. Raises BadInput naming the `extra` that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BadInput(f"{module} cannot be imported ({error}): pip install 'mow_jax[{extra}]'") from error
