"""The tasks of the toy suite, one class each: what an episode draws, what an action does, what it looks like.

Six simple ones (catch, catch_swap, grid, wall, cue, slide), two more of slide, and eight made to get in the way of each
other: pictures shared by opposite rules, longer memory, rare and huge rewards, distractors. Called through envs/toy.
"""

from __future__ import annotations

import numpy as np

from mow_jax.envs.toy_board import (
    BLUE,
    BOARD,
    CELL,
    COLUMNS,
    CYAN,
    GREEN,
    LEFT,
    MAGENTA,
    ORANGE,
    RED,
    RIGHT,
    SIDEWAYS,
    WHITE,
    YELLOW,
    Toy,
    checks,
    stripes,
    walk,
)


class Catch(Toy):
    """A ball falls 2 pixels a step; be under it when it lands: +1, or -1. Numbers: ball and paddle column."""

    direction = 1
    under = 1.0  # the reward for being under the ball; its opposite elsewhere

    def background(self):
        return np.zeros((BOARD, BOARD, 3))

    def begin(self, random):
        return random.integers(COLUMNS, size=2).tolist()

    def advance(self, action):
        ball, paddle = self.numbers
        paddle = min(max(paddle + self.direction * SIDEWAYS[int(action)], 0), COLUMNS - 1)
        self.numbers = [ball, paddle]
        landed = self.time == self.task.horizon
        return (self.under if ball == paddle else -self.under) if landed else 0.0, landed

    def draw(self, frame):
        self.draw_catch(frame, *self.numbers)

    def draw_catch(self, frame: np.ndarray, ball: int, paddle: int) -> None:
        self.paint(frame, GREEN, CELL * paddle, BOARD - CELL)
        self.paint(frame, WHITE, CELL * ball, 2 * self.time)


class CatchSwap(Catch):
    """Catch to the eye, but left goes right and right goes left: only experience tells the two apart."""

    direction = -1


class CatchAvoid(Catch):
    """Catch to the eye and to the hand, but the ball must be avoided: -1 under it, else +1."""

    under = -1.0


class CatchNoise(Catch):
    """Catch in front of two coloured blocks that jump about and mean nothing; ball and paddle stay in sight.

    Numbers: ball and paddle column, and the jumps: a number whose digits are the cells, two a frame.
    """

    cells = COLUMNS * (COLUMNS - 1)  # all above the row of the paddle
    colours = (RED, MAGENTA)

    def begin(self, random):
        frames = self.task.horizon + 1
        return [*super().begin(random), int(random.integers(self.cells ** (len(self.colours) * frames)))]

    def advance(self, action):
        *catch, jumps = self.numbers
        self.numbers = catch
        outcome = super().advance(action)
        self.numbers = [*self.numbers, jumps]
        return outcome

    def seen(self):
        return self.numbers[:2]  # without what means nothing

    def draw(self, frame):
        *catch, jumps = self.numbers
        for index, colour in enumerate(self.colours):
            cell = jumps // self.cells ** (len(self.colours) * self.time + index) % self.cells
            self.paint(frame, colour, CELL * (cell % COLUMNS), CELL * (cell // COLUMNS))
        self.draw_catch(frame, *catch)


class Grid(Toy):
    """Walk on 4 x 4 cells to a goal: +1 there, -0.05 for every other step, cut after 20. Numbers: cell and goal."""

    direction = 1
    elsewhere = -0.05  # the reward of a step that does not reach the goal

    def background(self):
        return 70 + 40 * np.repeat(checks()[..., None], 3, axis=2)

    def begin(self, random):
        start, goal = random.choice(COLUMNS**2, size=2, replace=False).tolist()
        return [start % COLUMNS, start // COLUMNS, goal % COLUMNS, goal // COLUMNS]

    def advance(self, action):
        x, y, *goal = self.numbers
        cell = walk(x, y, action, self.direction)
        self.numbers = [*cell, *goal]
        return (1.0, True) if cell == goal else (self.elsewhere, False)

    def draw(self, frame):
        x, y, goal_x, goal_y = self.numbers
        self.paint(frame, ORANGE, CELL * goal_x, CELL * goal_y)
        self.paint(frame, BLUE, CELL * x, CELL * y)


class GridSwap(Grid):
    """Grid to the eye, but every action goes the opposite way."""

    direction = -1


class GridFar(Grid):
    """Grid on another board, from a corner or next to it to the opposite corner: +1 there and nothing before."""

    elsewhere = 0.0

    def background(self):
        return 20 + checks()[..., None] * np.array([10, 40, 20]) + np.array([0, 40, 10])

    def begin(self, random):
        right, low, aside, along = random.integers(2, size=4).tolist()
        end = COLUMNS - 1
        corner = [end * right, end * low]
        return [abs(corner[0] - aside), abs(corner[1] - along), end - corner[0], end - corner[1]]


class Treasure(Toy):
    """Two chests in the upper corners, one try: the yellow one holds +1000, the white one +10; nothing before, cut
    after 8. The walk starts in the lowest row. Numbers: cell, and 1 where the yellow chest is on the right."""

    def background(self):
        ramp = np.linspace(100, 40, BOARD)[:, None] * np.ones(BOARD)
        return np.stack([ramp, 0.5 * ramp, 0.3 * ramp], -1)

    def begin(self, random):
        return [int(random.integers(COLUMNS)), COLUMNS - 1, int(random.integers(2))]

    def advance(self, action):
        x, y, right = self.numbers
        x, y = walk(x, y, action)
        self.numbers = [x, y, right]
        if y > 0 or 0 < x < COLUMNS - 1:
            return 0.0, False
        return (1000.0 if (x > 0) == right else 10.0), True

    def draw(self, frame):
        x, y, right = self.numbers
        self.paint(frame, YELLOW, (BOARD - CELL) * right, 0)
        self.paint(frame, WHITE, (BOARD - CELL) * (1 - right), 0)
        self.paint(frame, BLUE, CELL * x, CELL * y)


class Key(Toy):
    """Fetch the yellow key, which vanishes; from then on the red door pays +1 and ends it. The walk starts in a row
    between them, cut after 20. Numbers: cell, rows of key and door (each the top or the bottom), 1 with the key."""

    key_column, door_column = 1, 2

    def background(self):
        return stripes().T[..., None] * np.array([0, 25, 25]) + np.array([10, 70, 75])

    def begin(self, random):
        end = COLUMNS - 1
        key, door = random.integers(2, size=2).tolist()
        return [int(random.integers(COLUMNS)), int(random.integers(1, end)), end * key, end * door, 0]

    def advance(self, action):
        x, y, key, door, held = self.numbers
        x, y = walk(x, y, action)
        held = int(held or (x, y) == (self.key_column, key))
        self.numbers = [x, y, key, door, held]
        opened = bool(held) and (x, y) == (self.door_column, door)
        return float(opened), opened

    def draw(self, frame):
        x, y, key, door, held = self.numbers
        self.paint(frame, RED, CELL * self.door_column, CELL * door)
        if not held:
            self.paint(frame, YELLOW, CELL * self.key_column, CELL * key)
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

    answers = (LEFT, RIGHT)

    def background(self):
        return stripes()[..., None] * np.array([30, 0, 30]) + np.array([60, 0, 70])

    def begin(self, random):
        return [int(random.integers(2))]

    def advance(self, action):
        asked = self.time > 1
        answer = 0.25 if action == self.answers[self.numbers[0]] else -0.25
        return answer if asked else 0.0, self.time == self.task.horizon

    def draw(self, frame):
        if self.time == 0:
            self.paint(frame, (CYAN, MAGENTA)[self.numbers[0]], 4, 4, 8, 8)
        else:
            self.paint(frame, WHITE, 0, 6, BOARD, 4)


class CueSwap(Cue):
    """Cue to the eye, but cyan means right and magenta left."""

    answers = (RIGHT, LEFT)


class Recall(Toy):
    """Two colours are shown one after the other (cyan: left, magenta: right), above and below; then a block in the
    middle that means nothing, then a white bar above and one below ask for each: +1/2 right, -1/2 wrong. Numbers: the
    two colours, and which block comes between."""

    def background(self):
        return stripes().T[..., None] * np.array([30, 30, 0]) + np.array([50, 50, 10])

    def begin(self, random):
        return random.integers(2, size=3).tolist()

    def advance(self, action):
        asked = self.time - 4  # the frames with time 3 and 4 ask, so the steps that end at 4 and 5 answer
        ended = self.time == self.task.horizon
        if asked < 0:
            return 0.0, ended
        return 0.5 if action == (LEFT, RIGHT)[self.numbers[asked]] else -0.5, ended

    def draw(self, frame):
        if self.time < 2:
            self.paint(frame, (CYAN, MAGENTA)[self.numbers[self.time]], 4, 8 * self.time, 8, 8)
        elif self.time == 2:
            self.paint(frame, (GREEN, ORANGE)[self.numbers[2]], 4, 4, 8, 8)
        elif self.time < 5:
            self.paint(frame, WHITE, 0, 2 + 8 * (self.time - 3), BOARD)


class Slide(Toy):
    """Continuous: push a block by up to 3 pixels a step along both axes, onto a target. The reward is minus the mean
    of the two distances, as a share of the 12 pixels of play; ten steps. Numbers: block and target, each x, y."""

    play = BOARD - CELL  # positions run from 0 to here
    reach = 3.0  # pixels that a full push moves
    direction = 1

    def check(self, action):
        if np.shape(action) != (2,) or not np.all(np.abs(action) <= 1):
            raise ValueError(f"slide takes two numbers in [-1, 1], not {action}")

    def background(self):
        return np.full((BOARD, BOARD, 3), 190)

    def begin(self, random):
        return (self.play * random.random(4)).tolist()

    def advance(self, action):
        x, y, goal_x, goal_y = self.numbers
        right, down = (self.direction * self.reach * float(push) for push in action)
        x, y = min(max(x + right, 0.0), self.play), min(max(y + down, 0.0), self.play)
        self.numbers = [x, y, goal_x, goal_y]
        return self.gain(abs(x - goal_x), abs(y - goal_y)), False

    def gain(self, along: float, down: float) -> float:
        """The reward at these distances, in pixels."""
        return -(along + down) / (2 * self.play)

    def draw(self, frame):
        x, y, goal_x, goal_y = self.numbers
        self.paint(frame, GREEN, goal_x, goal_y)
        self.paint(frame, MAGENTA, x, y)


class SlideSwap(Slide):
    """Slide to the eye, but pushes go the opposite way: only experience tells the two apart."""

    direction = -1


class SlideSparse(Slide):
    """Slide whose reward is 1 while the block is within 1 pixel of the target along both axes, else nothing. Both are
    far apart along either axis: the block starts within 3 pixels of a wall, the target is 8 to 11 from that wall."""

    near = 1.0

    def begin(self, random):
        block, goal = 3 * random.random(2), 8 + 3 * random.random(2)
        turned = random.random(2) < 0.5  # an axis with its ends exchanged: any corner may be the first
        return np.concatenate([np.where(turned, self.play - x, x) for x in (block, goal)]).tolist()

    def gain(self, along, down):
        return float(max(along, down) < self.near)
