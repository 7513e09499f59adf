"""Six tiny pixel tasks for tests, demos and ablations on a CPU. In: actions. Out: frames of 16 x 16 fields, scaled up.

The board is 16 pixels wide; every object is at least 4 x 4. Discrete tasks share five actions: stay, left, right,
up, down. An episode draws all its chance at reset, so its state is a few numbers. Called through envs.make.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import numpy as np

from mow_jax.envs.base import Environment
from mow_jax.envs.suites import LISTS, TOY, unknown
from mow_jax.types import BadInput, Step, Task

BOARD = 16  # pixels a side before scaling
CELL = 4  # side of an object
COLUMNS = BOARD // CELL
STAY, LEFT, RIGHT, UP, DOWN = range(5)
SIDEWAYS = {STAY: 0, LEFT: -1, RIGHT: 1}
MOVES = {LEFT: (-1, 0), RIGHT: (1, 0), UP: (0, -1), DOWN: (0, 1)}

WHITE, GREEN, ORANGE, BLUE = (255, 255, 255), (60, 200, 80), (240, 140, 20), (40, 90, 240)
RED, YELLOW, CYAN, MAGENTA = (220, 40, 40), (250, 220, 40), (40, 220, 220), (230, 60, 200)


def resolve(names: tuple[str, ...], settings: dict) -> list[Task]:
    """The toy Tasks called `names`. Raises BadInput for an unknown one or a picture that is no multiple of 16."""
    if settings["image_size"] % BOARD:
        raise BadInput(
            f"suite.image_size {settings['image_size']} does not fit the toy suite: choose 16, 32, 64 or 128"
        )
    for name in names:
        if name not in TOY:
            raise unknown("toy task", name, [*TOY, *LISTS["toy"]])
    return [TOY[name] for name in names]


def make(task: Task, settings: dict) -> Environment:
    """A new environment of the toy `task`."""
    return KINDS[task.name](task, settings["image_size"])


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

    def observe(self) -> np.ndarray:
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


class Catch(Toy):
    """A ball falls 2 pixels a step; be under it when it lands: +1, or -1. Numbers: ball and paddle column."""

    direction = 1

    def background(self):
        return np.zeros((BOARD, BOARD, 3))

    def begin(self, random):
        return random.integers(COLUMNS, size=2).tolist()

    def advance(self, action):
        ball, paddle = self.numbers
        paddle = min(max(paddle + self.direction * SIDEWAYS[int(action)], 0), COLUMNS - 1)
        self.numbers = [ball, paddle]
        landed = self.time == self.task.horizon
        return (1.0 if ball == paddle else -1.0) if landed else 0.0, landed

    def draw(self, frame):
        ball, paddle = self.numbers
        self.paint(frame, GREEN, CELL * paddle, BOARD - CELL)
        self.paint(frame, WHITE, CELL * ball, 2 * self.time)


class CatchSwap(Catch):
    """Catch to the eye, but left goes right and right goes left: only experience tells the two apart."""

    direction = -1


class Grid(Toy):
    """Walk on 4 x 4 cells to a goal: +1 there, -0.05 for every other step, cut after 20. Numbers: cell and goal."""

    def background(self):
        checks = (np.indices((BOARD, BOARD)) // CELL).sum(0) % 2
        return 70 + 40 * np.repeat(checks[..., None], 3, axis=2)

    def begin(self, random):
        start, goal = random.choice(COLUMNS**2, size=2, replace=False).tolist()
        return [start % COLUMNS, start // COLUMNS, goal % COLUMNS, goal // COLUMNS]

    def advance(self, action):
        x, y, *goal = self.numbers
        right, down = MOVES[int(action)]
        cell = [min(max(x + right, 0), COLUMNS - 1), min(max(y + down, 0), COLUMNS - 1)]
        self.numbers = [*cell, *goal]
        return (1.0, True) if cell == goal else (-0.05, False)

    def draw(self, frame):
        x, y, goal_x, goal_y = self.numbers
        self.paint(frame, ORANGE, CELL * goal_x, CELL * goal_y)
        self.paint(frame, BLUE, CELL * x, CELL * y)


class Wall(Toy):
    """A wall falls 4 pixels a step; stand in its gap: 0, or -1000 when hit. The sides are joined: leaving the board
    to the left is coming in from the right. Numbers: gap and own column."""

    def background(self):
        ramp = np.linspace(20, 110, BOARD)[:, None] * np.ones(BOARD)
        return np.stack([0 * ramp, 0.4 * ramp, ramp], -1)

    def begin(self, random):
        return random.integers(COLUMNS, size=2).tolist()

    def advance(self, action):
        gap, column = self.numbers
        column = (column + SIDEWAYS[int(action)]) % COLUMNS
        self.numbers = [gap, column]
        arrived = self.time == self.task.horizon
        return -1000.0 if arrived and column != gap else 0.0, arrived

    def draw(self, frame):
        gap, column = self.numbers
        top = CELL * self.time
        self.paint(frame, RED, 0, top, CELL * gap)
        self.paint(frame, RED, CELL * (gap + 1), top, BOARD - CELL * (gap + 1))
        self.paint(frame, YELLOW, CELL * column, BOARD - CELL)


class Cue(Toy):
    """A colour is shown in the first frame only (cyan: left, magenta: right); a white bar in the four frames after it
    asks for the colour's action each time: +1/4 right, -1/4 wrong. Numbers: the cue."""

    def background(self):
        stripes = np.arange(BOARD) // 2 % 2
        return np.stack([60 + 30 * stripes, 0 * stripes, 70 + 30 * stripes], -1)[None].repeat(BOARD, 0)

    def begin(self, random):
        return [int(random.integers(2))]

    def advance(self, action):
        asked = self.time > 1
        answer = 0.25 if action == (LEFT, RIGHT)[self.numbers[0]] else -0.25
        return answer if asked else 0.0, self.time == self.task.horizon

    def draw(self, frame):
        if self.time == 0:
            self.paint(frame, (CYAN, MAGENTA)[self.numbers[0]], 4, 4, 8, 8)
        else:
            self.paint(frame, WHITE, 0, 6, BOARD, 4)


class Slide(Toy):
    """Continuous: push a block by up to 3 pixels a step along both axes, onto a target. The reward is minus the mean
    of the two distances, as a share of the 12 pixels of play; ten steps. Numbers: block and target, each x, y."""

    play = BOARD - CELL  # positions run from 0 to here
    reach = 3.0

    def check(self, action):
        if np.shape(action) != (2,) or not np.all(np.abs(action) <= 1):
            raise ValueError(f"slide takes two numbers in [-1, 1], not {action}")

    def background(self):
        return np.full((BOARD, BOARD, 3), 190)

    def begin(self, random):
        return (self.play * random.random(4)).tolist()

    def advance(self, action):
        x, y, goal_x, goal_y = self.numbers
        right, down = self.reach * float(action[0]), self.reach * float(action[1])
        x, y = min(max(x + right, 0.0), self.play), min(max(y + down, 0.0), self.play)
        self.numbers = [x, y, goal_x, goal_y]
        return -(abs(x - goal_x) + abs(y - goal_y)) / (2 * self.play), False

    def draw(self, frame):
        x, y, goal_x, goal_y = self.numbers
        self.paint(frame, GREEN, goal_x, goal_y)
        self.paint(frame, MAGENTA, x, y)


KINDS: dict[str, Callable[[Task, int], Toy]] = {
    "catch": Catch,
    "catch_swap": CatchSwap,
    "grid": Grid,
    "wall": Wall,
    "cue": Cue,
    "slide": Slide,
}
