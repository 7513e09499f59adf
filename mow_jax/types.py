"""The records that flow between modules, and the letters their shapes are written in.

Imports nothing of ours and no jax: environments, actors, replay and report rely on it.

Axis letters, used in every docstring and signature:
    K tasks      E environments a task   B sequences or rollouts   T time (a window)   H imagined steps
    S side of a frame in pixels          A actions (or action dimensions)
A K' stands for the tasks of one device. A system's own letters are in its folder.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, NamedTuple

DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # what the system says of a disk, a limit or a quota that is full


class BadInput(Exception):
    """Something the user can mend. Ends a command with exit code 2 and this one message.

    The message names the value, what is allowed and what to do.
    """


class Task(NamedTuple):
    """One thing to learn: a game, a robot task, a toy."""

    name: str
    suite: str
    discrete: bool
    action_size: int  # A: choices of the shared head, or dimensions of a continuous action
    action_mask: tuple[bool, ...]  # [A] the choices (or dimensions) that this task can use
    horizon: int  # longest episode, in agent steps
    random_score: float | None  # mean return of the uniform policy; None: measured at evaluation
    reference_score: float | None  # the return that counts as 1 (human, best known); None: no normalised score
    picture: str = ""  # what is seen and why, where that was a choice
    numbers: int = 0  # length of the vector that is seen, zeros behind a narrower task's; 0: a picture is seen


class Step(NamedTuple):
    """What one agent step in an environment gives back."""

    observation: Any  # the frame after the action: [H, W, 3] uint8, or a vector [numbers] float32
    reward: float  # what is learned from, summed over repeated frames
    terminated: bool  # the task itself ended
    truncated: bool  # a time limit cut the episode: not a termination
    life_lost: bool = False  # ends the continuation, not the episode
    success: bool | None = None  # a task's success flag, where it has one
    raw: float | None = None  # the reward as the task gives it, where `reward` is clipped; None: it is not


class Batch(NamedTuple):
    """Windows of experience. Row t holds the frame acted on, the action, and what came of it."""

    observation: Any  # [K, B, T, H, W, 3] uint8, or vectors [K, B, T, numbers] float32
    action: Any  # [K, B, T] int32, or [K, B, T, A] float32
    reward: Any  # [K, B, T] float32
    termination: Any  # [K, B, T] bool: the environment terminated or a life was lost (never a truncation)
    is_first: Any  # [K, B, T] bool: the frame is the first of its episode
    extras: Any = {}  # {name: [K, B, T, ...]}: what acting stored beside the row; zero where it stored nothing


def frame(task: Task, image_size: int) -> tuple[str, tuple[int, ...]]:
    """Dtype and shape of what is seen of a task: a picture, or a vector of numbers."""
    return ("float32", (task.numbers,)) if task.numbers else ("uint8", (image_size, image_size, 3))


class Shard(NamedTuple):
    """The tasks of one device; K' of them, padded so that every device has as many."""

    ids: Any  # [K'] int32 in 0..K-1
    valid: Any  # [K'] float32, 0 for padding
    mask: Any  # [K', A] bool, the actions that the task can use
    seed: Any  # [K'] uint32, the run's: as a number that programs are given, so that runs of other seeds share them


# --- What runs a system -----------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """How long a run is."""

    joint_steps: int  # joint steps in all
    warmup_joint: int  # of them at random
    warmup_updates: int
    updates: int  # after the warm-up
    schedule_updates: int  # in all, as first planned: what schedules refer to


class Window(NamedTuple):
    """The shape of one draw from the replay."""

    batch: int  # B windows a task; 0: the newest rows of every environment, [K, E, T]
    length: int  # T


class Update(NamedTuple):
    """One kind of learning: a pure function, run in a program over all devices with the named axis "device"."""

    function: Callable[..., tuple[Any, dict]]  # (state, *batches, shard) -> (state, metrics), its batches in the order
    windows: dict[str, Window]  # ... of these: what it draws, by the name of the random stream


class Acted(NamedTuple):
    """What acting gives back."""

    action: Any  # [K', E] int32 or [K', E, A] float32
    extras: dict[str, Any]  # {name: [K', E, ...]}, to be stored beside the row
    acting: Any  # the environments' new acting state


class Playable(NamedTuple):
    """The world model of one task as a place to play in; a dream is any pytree. Pure functions of arrays."""

    rows: Callable[..., Any]  # (state, task) -> what of the state the task needs
    see: Callable[..., tuple]  # (rows, frame [S, S, 3] uint8, key) -> (dream, imagined frame [S, S, 3] in 0..1)
    choose: Callable[..., Any]  # (rows, dream, mask [A], key) -> action
    move: Callable[..., tuple]  # (rows, dream, action, key) -> (dream, reward, continuation, imagined frame)
    scored: Callable[[Any], Any] = lambda state: state  # state -> the one by which scores are measured
    experts: int = 0  # how many there are to choose from
    chosen: Callable[..., list[int]] | None = None  # (state, task) -> those of a task
    exchange: Callable[..., Any] | None = None  # (state, task, chosen) -> state


class Component(NamedTuple):
    """A part of a state that has parameters."""

    tree: Any
    share: float = 1.0  # of them that one task uses
    learned: bool = True  # not the moving average of others


class AfterEvaluation(NamedTuple):
    """What a system makes of its scores."""

    learn: Callable[..., Any]  # (state, normalised [K], NaN: unknown, step []) -> state
    # Of the tasks, to be told beside scores: state -> area -> name -> numbers [K], all 0 for a task with none.
    remembers: Callable[[Any], dict[str, dict[str, Any]]]


class System(NamedTuple):
    """All that the house knows of an algorithm. Functions are pure and closed over its settings; what a system
    remembers lies in its state and its acting state.

    `act`, updates, `predictions` and `open_loop` run in programs with the named axis "device", on one device's tasks;
    the state, a NamedTuple, is the same on all devices. Metrics are scalars, [K], or in the area "router" vectors by
    index; those of "training" and "warmup" have "train/skipped_in_row" [], the non-finite updates in a row.
    """

    name: str
    init: Callable[[Any], Any]  # (seed) -> the state before the first update
    init_acting: Callable[[int, int], Any]  # (tasks, environments) -> a NamedTuple of arrays [K, E, ...]
    act: Callable[..., Acted]  # (state, acting, observation, is_first, step, shard, explore: bool); explore: to learn
    updates: dict[str, Update]  # "training"; "warmup": on random rows; "on_policy": once a round, before those due;
    # "inspection": before evaluations, its metrics in their line; it leaves the state as it is
    extras: dict[str, tuple[str, tuple[int, ...]]] = {}  # dtype and shape of what acting stores beside a row
    # What people are told.
    facts: Callable[[int], list[tuple[str, str]]] = lambda parameters: []  # lines of the first screen
    protocol: dict[str, dict[str, Any]] = {}  # section -> key -> value: what acting depends on, for results.json
    components: Callable[[Any], dict[str, Component]] = lambda state: {}  # state -> by name, for the parameter table
    # Weights that leave a run.
    exported: tuple[str, ...] | None = None  # fields of the state that acting needs; None: all
    carry_over: Callable[[Any, Any], Any] = lambda old, new: old  # (old, new state) -> new with the old one's weights
    # Hooks, None where there is nothing to do.
    check: Callable[[], None] | None = None  # raises BadInput for what only a new run reads
    after_warmup: Callable[..., None] | None = None  # (learner, replay, directory), once
    after_save: Callable[..., None] | None = None  # (learner, directory), after the warm-up, in process 0
    after_evaluation: AfterEvaluation | None = None
    # Looking into a world model, None where there is none to look into.
    predictions: Callable[..., dict] | None = None  # (state, batch, shard) -> {"reward", ...: [K', B, T]}
    open_loop: Callable[..., tuple] | None = None  # (state, batch, shard, context) -> reconstructed, imagined frames
    playable: Playable | None = None
