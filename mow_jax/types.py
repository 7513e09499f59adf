"""The records that flow between the rooms, and the letters their shapes are written in.

Imports nothing of ours and no jax: environments, actors, replay and report rely on it.

Axis letters, used in every docstring and signature:
    K tasks      E environments a task   B sequences or rollouts   T time (a window)   H imagined steps
    D width of the temporal module       A actions (or action dimensions)              Z latent size
    N_m clusters                         N_e experts               n_k active experts a task
"""

from __future__ import annotations

import errno
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
    picture: str = ""  # which picture is seen and why, where that was a choice


class Step(NamedTuple):
    """What one agent step in an environment gives back."""

    observation: Any  # [H, W, 3] uint8, the frame after the action
    reward: float  # raw, summed over repeated frames
    terminated: bool  # the task itself ended
    truncated: bool  # a time limit cut the episode: not a termination
    life_lost: bool = False  # ends the continuation, not the episode
    success: bool | None = None  # a task's success flag, where it has one


class Batch(NamedTuple):
    """Windows of experience. Row t holds the frame acted on, the action, and what came of it."""

    observation: Any  # [K, B, T, H, W, 3] uint8
    action: Any  # [K, B, T] int32, or [K, B, T, A] float32
    reward: Any  # [K, B, T] float32
    termination: Any  # [K, B, T] bool: the environment terminated or a life was lost (never a truncation)
    is_first: Any  # [K, B, T] bool: the frame is the first of its episode


class Table(NamedTuple):
    """The task table: which rows of the stacked parameters a task uses."""

    cluster: Any  # [K] int32 in 0..N_m-1
    experts: Any  # [K, n_k] int32 in 0..N_e-1


class Shard(NamedTuple):
    """The tasks of one device; K' of them, padded so that every device has as many."""

    ids: Any  # [K'] int32 in 0..K-1
    valid: Any  # [K'] float32, 0 for padding
    mask: Any  # [K', A] bool, the actions that the task can use


class Dream(NamedTuple):
    """Imagined rollouts of one task (under vmap: leading [K'])."""

    z: Any  # [B, H + 1, Z]
    hidden: Any  # [B, H + 1, D], of the step before
    action: Any  # [B, H] int32 or [B, H, A] float32, as drawn
    reward: Any  # [B, H]
    continuation: Any  # [B, H]


class ActState(NamedTuple):
    """The context that acting attends to: the last L steps of each environment's episode, oldest first."""

    latent: Any  # [K, E, L, G] int32 class indices
    action: Any  # [K, E, L] int32 or [K, E, L, A] float32
    length: Any  # [K, E] int32, steps in use


class TrainState(NamedTuple):
    """All that learning changes."""

    update: Any  # [] updates done, warm-up included
    params: Any  # world model: {"cluster": [N_m, ...], "expert": [N_e, ...], "shared"}
    statistics: Any  # batch norm's running ones, [N_m, ...]
    harmony: Any  # s [K], the harmonious weights are sigma = exp(s)
    actor: Any
    critic: Any  # [N_m, ...]
    slow_critic: Any  # [N_m, ...]
    return_scale: Any  # P [K]; NaN until a task's first return
    table: Table
    world_optimizer: Any
    harmony_optimizer: Any
    agent_optimizer: Any
    skipped: Any  # [2] int32, non-finite updates: in all, in a row
