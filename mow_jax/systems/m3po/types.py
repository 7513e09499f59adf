"""The records of the M3PO-style system. Axis letters as in mow_jax/types.py, and

N action sequences of a planner     D width of a latent     H steps that are planned or unrolled     Q value functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class ActState(NamedTuple):
    """The plan of the step before, to start the next one from; zero at an episode's start."""

    mean: Any  # [..., H, A]


class Choice(NamedTuple):
    """What the policy says in a latent."""

    action: Any  # [..., A] in [-1, 1], zero where the task has no such dimension
    raw: Any  # [..., A] the action before tanh
    mean: Any  # [..., A] of raw
    log_std: Any  # [..., A]


class Dream(NamedTuple):
    """One task's model as the planner and the bonus see it: functions of latents [..., D] and actions [..., A]."""

    follow: Callable[..., tuple]  # (z, a) -> (next z [..., D], reward [...], chance of the task's end [...])
    choose: Callable[..., Any]  # (z, noise [..., A]) -> action [..., A]
    value: Callable[..., Any]  # (z, a, places) -> [...]: the mean of the value functions at those places


class Draws(NamedTuple):
    """The chance in a task's losses."""

    ahead: Any  # [B, H, A] noise of the policy in target values
    policy: Any  # [B, H + 1, A] noise of the policy that learns
    pair: Any  # [2] value functions of target values ...
    policy_pair: Any  # ... and those that the policy climbs
    kept: Any = None  # [Q, B, H, hidden] of dropout
    offset: Any = None  # [B, 2] of pictures


class State(NamedTuple):
    """All that learning changes."""

    update: Any  # [] updates done
    params: Any  # {"embedding" [K, E], "encoder", "dynamics", "reward", "q" leaves [Q, ...], "policy", ...}
    target: Any  # moving average of "q"
    optimizer: Any  # {"model", "policy" and, with a trust region, "fresh"}
    anchor: Any  # the policy as the last round on fresh rows left it; () without a trust region
    scale: Any  # [K] range of the task's values, which the policy's loss is divided by
    skipped: Any  # [2] int32, non-finite updates: in all, in a row
