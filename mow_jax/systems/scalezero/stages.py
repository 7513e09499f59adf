"""Dynamic parameter scaling: low-rank adapters of the backbone, as a function from parameters to parameters.

All adapters exist from the start; the stage, a whole number on the device, says which count and which leaves learn. The
layers know nothing of it: the weights are merged before they are used. Called by agent.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import DictKey

from mow_jax.ops.precision import EXACT


@dataclasses.dataclass(frozen=True)
class Stages:
    """How the backbone grows."""

    count: int = 1  # S; 1: no adapters
    rank: int = 64
    alpha: float = 32.0
    first: int = 50_000  # updates before the first switch
    every: int = 20_000  # updates after which a stage ends in any case
    target: float = 1.0  # normalised score at which a task is solved
    keep: float = 0.0  # weight of a solved task in the loss


def wrapped(path: tuple[DictKey, ...]) -> bool:
    """Whether a leaf of the backbone has adapters: the matrices of attention, of routed experts, of a dense layer."""
    names = [str(key.key) for key in path]
    attention = names[0].startswith("attention") and names[-1] == "kernel"
    return attention or names[-1] in ("w1", "w2", "w3") or (names[-2] in ("in", "out") and names[-1] == "kernel")


def init(stages: Stages, backbone: Any, key: jax.Array) -> dict[str, Any]:
    """Adapters {path: {"down" [..., S-1, I, r], "up" [..., S-1, r, O], "scale" [..., S]}} of matrices [..., I, O].

    They add nothing yet: "up" is zero, and so are the logits of all scales. {} without stages.
    """
    if stages.count == 1:
        return {}
    made = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(backbone):
        if wrapped(path):
            key, key_down = jax.random.split(key)
            *lead, rows, columns = leaf.shape
            down = 0.01 * jax.random.normal(key_down, (*lead, stages.count - 1, rows, stages.rank))
            up, scale = jnp.zeros((*lead, stages.count - 1, stages.rank, columns)), jnp.zeros((*lead, stages.count))
            made[_name(path)] = {"down": down, "up": up, "scale": scale}
    return made


def _name(path: tuple[DictKey, ...]) -> str:
    return "/".join(str(key.key) for key in path)


def merge(stages: Stages, params: dict[str, Any], stage: jax.Array) -> dict[str, Any]:
    """The parameters at a stage [], each wrapped matrix W as a_0 W + sum_{1 <= j <= stage} a_j (alpha / r) down_j up_j.

    a_j = 1 + 0.2 tanh(scale_j); a_0 = 1 at stage 0, where the parameters come back as they are.
    """
    if stages.count == 1:
        return params
    counts = jnp.arange(1, stages.count) <= stage  # [S-1]

    def matrix(path, leaf):
        if not wrapped(path):
            return leaf
        adapter = params["adapters"][_name(path)]
        a = 1 + 0.2 * jnp.tanh(adapter["scale"])
        factor = jnp.where(counts, a[..., 1:] * (stages.alpha / stages.rank), 0.0)
        added = jnp.einsum("...sir,...sro,...s->...io", adapter["down"], adapter["up"], factor, precision=EXACT)
        return jnp.where(stage > 0, a[..., :1, None] * leaf + added, leaf)

    backbone = jax.tree_util.tree_map_with_path(matrix, params["backbone"])
    return {name: backbone if name == "backbone" else part for name, part in params.items() if name != "adapters"}


def trainable(stages: Stages, params: dict[str, Any], stage: jax.Array, solved: jax.Array) -> dict[str, Any]:
    """What learns at a stage, with the tasks `solved` [K] bool: a tree like the parameters whose leaves, 0 or 1,
    broadcast against theirs.

    From stage 1 on the backbone rests; of the adapters the newest pair and the scales of all that came before it learn,
    the base's among them. Encoder and tokens learn while any task is in the loss, a task's heads while it is: without a
    gradient alone Adam's momentum and the decay would go on moving them.
    """
    learned = ~solved | (stages.keep > 0)
    adapters, some = jnp.arange(1, stages.count), learned.any().astype(jnp.float32)
    now = some * (adapters == stage)
    scales = some * jnp.concatenate([jnp.atleast_1d(stage > 0), adapters < stage])
    parts = {"down": now[:, None, None], "up": now[:, None, None], "scale": scales}
    free = some * (stage == 0) if stages.count > 1 else some

    def learns(path, leaf):
        if path[0].key == "heads":
            return learned.astype(jnp.float32).reshape(-1, *[1] * (leaf.ndim - 1))
        if path[0].key == "adapters":
            return parts[path[-1].key]
        return free if path[0].key == "backbone" else some

    return jax.tree_util.tree_map_with_path(learns, params)


def switch(stages: Stages, stage, switched, solved_then, solved, update) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Stage, update of the last switch and tasks solved then, each [], after `update` updates; solved [K] bool.

    A stage ends when its share of the tasks that were left has been solved, or after its budget of updates.
    """
    left, count = stages.count - 1 - stage, solved.sum(dtype=jnp.int32)
    share = jnp.maximum(1, -((count - len(solved)) // jnp.maximum(left, 1)))
    over = (count - solved_then >= share) | (update - switched >= stages.every)
    go = (left > 0) & over & ((stage > 0) | (update >= stages.first))
    new = (stage + 1, update, count)
    return tuple(jnp.where(go, a, b) for a, b in zip(new, (stage, switched, solved_then), strict=True))
