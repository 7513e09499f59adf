"""MoW's records, and the letters of their shapes beside those of mow_jax/types.py.

D width of the temporal module    Z latent size    G latent variables (categoricals)    H imagined steps
N_m clusters                      N_e experts      n_k active experts a task
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Table(NamedTuple):
    """The task table: which rows of the stacked parameters a task uses."""

    cluster: Any  # [K] int32 in 0..N_m-1
    experts: Any  # [K, n_k] int32 in 0..N_e-1


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
