"""What every environment offers. In: seeds and actions. Out: Steps with [H, W, 3] uint8 frames. Used by actors."""

from __future__ import annotations

import abc
import importlib
from types import ModuleType
from typing import Any

import numpy as np

from mow_jax.types import BadInput, Step, Task


class Environment(abc.ABC):
    """One copy of one task. All randomness of an episode derives from the seed given to `reset`."""

    task: Task

    @abc.abstractmethod
    def reset(self, seed: int) -> np.ndarray:
        """Begin a new episode and return its first frame, [H, W, 3] uint8. `seed` is any integer in 0..2^32-1."""

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
    def restore(self, state: dict) -> None:
        """Go on exactly where `state` was taken, in this or any other process."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Free what the environment holds."""


def needs(module: str, extra: str) -> ModuleType:
    """Import an optional dependency. Raises BadInput naming the `extra` that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BadInput(f"{module} cannot be imported ({error}): pip install 'mow_jax[{extra}]'") from error
