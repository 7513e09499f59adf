"""The board of the toy suite: what its tasks share. In: actions. Out: frames of 16 x 16 fields, scaled up.

The board is 16 pixels wide; every object is at least 4 x 4. Discrete tasks share five actions: stay, left, right,
up, down. An episode draws all its chance at reset, so its state is a few numbers. Base of envs/toy_tasks.
"""

from __future__ import annotations

import abc
from typing import Any

import numpy as np

from mow_jax.envs.base import Environment, vector
from mow_jax.types import Step, Task

BOARD = 16  # pixels a side before scaling
CELL = 4  # side of an object
COLUMNS = BOARD // CELL
STAY, LEFT, RIGHT, UP, DOWN = range(5)
SIDEWAYS = {STAY: 0, LEFT: -1, RIGHT: 1}
MOVES = {STAY: (0, 0), LEFT: (-1, 0), RIGHT: (1, 0), UP: (0, -1), DOWN: (0, 1)}

WHITE, GREEN, ORANGE, BLUE = (255, 255, 255), (60, 200, 80), (240, 140, 20), (40, 90, 240)
RED, YELLOW, CYAN, MAGENTA = (220, 40, 40), (250, 220, 40), (40, 220, 220), (230, 60, 200)


def walk(x: int, y: int, action: int, direction: int = 1) -> list[int]:
    """The cell that `action` leads to from (x, y); the border stops it, and `direction` -1 turns it round."""
    right, down = MOVES[int(action)]
    return [min(max(x + direction * right, 0), COLUMNS - 1), min(max(y + direction * down, 0), COLUMNS - 1)]


def checks() -> np.ndarray:
    """[16, 16] fields of one cell, 0 and 1 in turn."""
    return (np.indices((BOARD, BOARD)) // CELL).sum(0) % 2


def stripes() -> np.ndarray:
    """[16, 16] upright stripes two pixels wide, 0 and 1 in turn."""
    return (np.arange(BOARD) // 2 % 2)[None].repeat(BOARD, 0)


class Toy(Environment):
    """What the toys share: `numbers` is the whole state of an episode, `time` the steps taken in it."""

    def __init__(self, task: Task, image_size: int):
        self.task = task
        self.time = 0
        self.numbers: list = []
        self.scale = image_size // BOARD
        self.canvas = self.background().astype(np.uint8).repeat(self.scale, 0).repeat(self.scale, 1)

    @abc.abstractmethod
    def background(self) -> np.ndarray:
        """The empty board, [16, 16, 3] in 0..255."""

    @abc.abstractmethod
    def begin(self, random: np.random.Generator) -> list:
        """Draw the numbers of a new episode."""

    @abc.abstractmethod
    def advance(self, action: Any) -> tuple[float, bool]:
        """Change the numbers by one step; `time` already counts it. Returns the reward and whether the task ended."""

    @abc.abstractmethod
    def draw(self, frame: np.ndarray) -> None:
        """Paint the objects on a copy of the background."""

    def reset(self, seed: int, episode: int | None = None) -> np.ndarray:
        self.time = 0
        self.numbers = self.begin(np.random.Generator(np.random.Philox(seed)))
        return self.observe()

    def step(self, action: Any) -> Step:
        self.check(action)
        self.time += 1
        reward, terminated = self.advance(action)
        return Step(self.observe(), reward, terminated, not terminated and self.time >= self.task.horizon)

    def check(self, action: Any) -> None:
        if not (0 <= action < self.task.action_size and self.task.action_mask[action]):
            raise ValueError(f"{self.task.name} has no action {action}: its mask is {self.task.action_mask}")

    def facts(self) -> list[float]:
        """The numbers that are seen instead of a picture: the share of the time, then the episode's, as shares of the
        board."""
        return [self.time / self.task.horizon, *(number / BOARD for number in self.seen())]

    def seen(self) -> list:
        """Those of the episode's numbers that a picture shows too."""
        return self.numbers

    def observe(self) -> np.ndarray:
        if self.task.numbers:
            return vector(self.task, self.facts(), self.task.name)
        frame = self.canvas.copy()
        self.draw(frame)
        return frame

    def paint(
        self, frame: np.ndarray, colour: tuple, x: float, y: float, width: int = CELL, height: int = CELL
    ) -> None:
        """Fill a rectangle given in board pixels; x to the right, y down."""
        left, top, scale = round(x * self.scale), round(y * self.scale), self.scale
        frame[top : top + height * scale, left : left + width * scale] = colour

    def state(self) -> dict:
        return {"time": self.time, "numbers": list(self.numbers)}

    def restore(self, state: dict) -> None:
        self.time, self.numbers = int(state["time"]), list(state["numbers"])
