"""The records of ScaleZero. Axis letters as in mow_jax/types.py, and

N roots or windows of all tasks in one batch     L steps of context     S stages     n steps of a value target.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class ActState(NamedTuple):
    """The steps before the newest frame, right-aligned: the newest is the last; the first L - length are unused.

    Frames, so that one encoder has made all latents of a context, as in a training window: parameters change meanwhile.
    """

    frame: Any  # [K, E, L, S, S, 3] uint8
    action: Any  # [K, E, L] int32
    length: Any  # [K, E] int32, steps in use


class Context(NamedTuple):
    """The same in the tree, where steps behind the root have no frames."""

    latent: Any  # [N, L, D]
    action: Any  # [N, L] int32
    length: Any  # [N] int32


class Node(NamedTuple):
    """What the world model needs to go on from a node of the tree."""

    context: Context
    latent: Any  # [N, D] of the node itself


class Prediction(NamedTuple):
    """What the heads say after an observation token."""

    policy: Any  # [..., A] masked logits
    value: Any  # [..., bins] logits


class State(NamedTuple):
    """All that learning changes."""

    update: Any  # [] updates done
    params: Any  # {"encoder", "tokens", "backbone", "heads": leaves [K, ...]} and, with stages, "adapters"
    target: Any  # moving average of params
    optimizer: Any
    stage: Any  # [] int32 in 0..S-1
    switched: Any  # [] int32, the update of the last switch
    solved_then: Any  # [] int32, tasks solved at the last switch
    solved: Any  # [K] bool, once solved always solved
    # Agent steps and score at which a task was solved, 0 before: {"steps", "score"} [K] float32; {} without stages.
    reached: Any
    skipped: Any  # [2] int32, non-finite updates: in all, in a row
