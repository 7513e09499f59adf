"""Environments that do one thing wrong, or in an unusual way, each registered as odd:odd/NAME-v0."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

BYTES = Box(0, 255, (12, 10, 3), np.uint8)
FLOATS = Box(0, 1, (12, 10, 3), np.float32)
FADES = lambda n: np.full((12, 10, 3), n / 5, np.float32)  # 0.2 after the first step, 0.4 after the second, ...
BLOWN = 3  # the step of an episode at which single mistakes happen


class Odd(gymnasium.Env):
    """One action, an episode without end, frames of a rising grey; whatever is given replaces that."""

    metadata = {"render_modes": []}
    action_space = Discrete(2)

    def __init__(
        self,
        space: Any = BYTES,
        frame: Callable[[int], Any] = lambda n: np.full((12, 10, 3), 10 * n, np.uint8),
        reward: Callable[[int], Any] = float,
        at: Callable[[str, int], Any] = lambda doing, n: None,
        action_space: Any = action_space,
        render_mode: str | None = None,
    ):
        self.observation_space, self.action_space = space, action_space
        self._frame, self._reward, self._at = frame, reward, at
        self.render_mode, self._number = render_mode, 0
        at("making", 0)

    def reset(self, seed: int | None = None, options: dict | None = None) -> Any:
        self._number = 0
        other = self._at("reset", 0)
        return (self._frame(0), {}) if other is None else other

    def close(self) -> None:
        self._at("close", 0)

    def step(self, action: Any) -> Any:
        self._number += 1
        usual = self._frame(self._number), self._reward(self._number), False, False, {}
        other = self._at("step", self._number)
        return usual if other is None else other


class Drawn(Odd):
    """Seen only by rendering."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render: Callable[[int], Any], render_mode: str | None = None):
        super().__init__(Discrete(99), int, render_mode=render_mode)
        self._render = render

    def render(self) -> Any:
        return self._render(self._number)


def old_step(doing: str, n: int) -> Any:
    return (BYTES.sample(), 0.0, False, {}) if doing == "step" else None


def old_reset(doing: str, n: int) -> Any:
    return BYTES.sample() if doing == "reset" else None


def nothing(doing: str, n: int) -> Any:
    return () if doing == "step" else None


def raises(where: str, error: BaseException, at: int = 0) -> Callable[[str, int], Any]:
    """Raises in a call of this kind; in the step of this number, if one is given."""

    def fall_over(doing: str, n: int) -> None:
        if doing == where and (not at or n == at):
            raise error

    return fall_over


def leaves(how: Callable[[int], Any]) -> Callable[[str, int], Any]:
    """Ends its process with status 3, in a step."""
    return lambda doing, n: how(3) if doing == "step" else None


def ended(termination: Any) -> Callable[[str, int], Any]:
    """A step that tells of its end in this way."""
    return lambda doing, n: (np.zeros((12, 10, 3), np.uint8), 0.0, termination, False, {}) if doing == "step" else None


class Aborted(BaseException):
    """No Exception, as some libraries have them."""


class Torn:
    """Neither to be converted nor to be shown."""

    def __array__(self, *_, **__):
        raise LookupError("no data")

    def __repr__(self) -> str:
        raise LookupError("no name")


def single(value: Any) -> Callable[[int], Any]:
    """A reward that is wrong once."""
    return lambda n: value if n == BLOWN else float(n)


class Seedless(Odd):
    """Of a gym from before there were seeds."""

    def reset(self) -> Any:
        return super().reset()


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    # frames: taken as the space says
    "high_1": {"space": Box(0, 1, (12, 10, 3), np.uint8), "frame": lambda n: np.full((12, 10, 3), n % 2, np.uint8)},
    "fading": {"space": FLOATS, "frame": FADES},
    "centred": {"space": Box(-1, 1, (12, 10, 1), np.float64), "frame": lambda n: np.full((12, 10, 1), n / 2.5 - 1)},
    "flags": {"space": Box(0, 1, (12, 10, 3), bool), "frame": lambda n: np.full((12, 10, 3), n % 2 == 1)},
    "deep": {
        "space": Box(0, 65535, (12, 10, 1), np.uint16),
        "frame": lambda n: np.full((12, 10, 1), 257 * n, np.uint16),
    },
    # frames: refused
    "float_as_bytes": {"frame": FADES},
    "bytes_0_1": {"frame": lambda n: np.ones((12, 10, 3), np.uint8)},
    "late_0_1": {"frame": lambda n: np.full((12, 10, 3), n // BLOWN, np.uint8)},
    "late_0_1_wide": {
        "space": Box(-300, 300, (12, 10, 1), np.int16),
        "frame": lambda n: np.full((12, 10, 1), n // BLOWN, np.int16),
    },
    "late_float": {
        "frame": lambda n: np.full((12, 10, 3), 7 if n < BLOWN else 0.5, np.float32 if n >= BLOWN else "u1")
    },
    "too_bright": {"frame": lambda n: np.full((12, 10, 3), 300, np.int16)},
    "not_finite": {"space": FLOATS, "frame": lambda n: np.full((12, 10, 3), np.nan, np.float32)},
    "turned": {"frame": lambda n: np.zeros((3, 12, 10), np.uint8)},
    "grown": {"frame": lambda n: np.zeros((12 + n, 10, 3), np.uint8)},
    "none": {"frame": lambda n: None},
    "torn": {"frame": lambda n: Torn()},
    "words": {"frame": lambda n: "frame"},
    "unbounded": {"space": Box(-np.inf, np.inf, (12, 10, 3), np.float32), "frame": FADES},
    # taken: what is dark from the start, or once something bright has been seen
    "dark": {"frame": lambda n: np.zeros((12, 10, 3), np.uint8)},
    "darkens": {"frame": lambda n: np.full((12, 10, 3), [0, 200, 0, 1, 0][n], np.uint8)},
    # rewards
    **{
        f"reward_{name}": {"reward": single(value)}
        for name, value in {
            "nan": np.nan,
            "inf": -np.inf,
            "huge": 1e39,
            "none": None,
            "text": "1",
            "pair": np.ones(2),
            "complex": 1j,
            "empty": [],
            "torn": Torn(),
        }.items()
    },
    "reward_array": {"reward": lambda n: np.array([n], np.float32)},
    "reward_scalar": {"reward": lambda n: np.int64(n)},
    # calls
    "making": {"at": raises("making", RuntimeError("no licence\nfor this simulator"))},
    "making_exit": {"at": raises("making", SystemExit("no display"))},
    "reset": {"at": raises("reset", KeyError("level"))},
    "step": {"at": raises("step", ZeroDivisionError("division by zero"))},
    "step_late": {"at": raises("step", OSError("lost the connection"), BLOWN)},
    "step_exit": {"at": raises("step", SystemExit(3))},
    "making_abort": {"at": raises("making", Aborted("no seat"))},
    "reset_abort": {"at": raises("reset", Aborted())},
    "step_cancelled": {"at": raises("step", asyncio.CancelledError("too late"), BLOWN)},
    "close_abort": {"at": raises("close", Aborted("twice"))},
    "old_step": {"at": old_step},
    "old_reset": {"at": old_reset},
    "step_none": {"at": nothing},
    "ended_none": {"at": ended(None)},
    "ended_text": {"at": ended("no")},
    "ended_rows": {"at": ended([0, [1, 0]])},
    "ended_nan": {"at": ended(np.array([np.nan], np.float32))},
    "ended_inf": {"at": ended(float("inf"))},
    "ended_torn": {"at": ended(Torn())},
    "ended_one": {"at": ended(np.array([[1.0]]))},
    "leaves_quietly": {"at": leaves(os._exit)},
    "leaves": {"at": leaves(sys.exit)},
    # actions
    "levels": {"action_space": Box(0, 3, (1,), np.int64)},
    "bytes": {"action_space": Box(0, 255, (2,), np.uint8)},
    "far": {"action_space": Box(-1.7e308, 1.7e308, (1,), np.float64)},
    "wide": {"action_space": Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (1,), np.int64)},
}
DRAWN: dict[str, Callable[[int], Any]] = {
    "drawn": lambda n: np.full((6, 5, 3), 10 * n, np.int64),
    "drawn_late_0_1": lambda n: np.full((6, 5, 3), n // BLOWN, np.uint8),
    "drawn_none": lambda n: None,
    "drawn_float": lambda n: np.full((6, 5, 3), 0.5),
    "drawn_list": lambda n: [np.zeros((6, 5, 3), np.uint8)] * 2,
}
for name, picture in DRAWN.items():
    gymnasium.register(f"odd/{name}-v0", Drawn, kwargs={"render": picture})
for name, given in KINDS.items():
    gymnasium.register(f"odd/{name}-v0", Odd, kwargs=given)
gymnasium.register("odd/seedless-v0", Seedless)
