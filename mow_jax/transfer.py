"""Starting other tasks from a run's weights (`train.init_from`). Called by preflight and run."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mow_jax import build, processes, workdir
from mow_jax.agent import Agent
from mow_jax.checkpoint import Checkpoints
from mow_jax.learner import Learner, abstract_state
from mow_jax.types import BadInput, TrainState

FRESH = ("embedding", "task_head")  # of the shared part: they belong to the tasks


def check(config: ConfigDict, agent: Agent) -> None:
    """Raises BadInput where the run in `train.init_from`, if one is named, has no weights that fit the agent."""
    if config.train.init_from:
        source = Path(config.train.init_from)
        old, checkpoints = _source(source)
        _newest(source, checkpoints)
        _compare(source, abstract_state(agent), old)


def init_from(config: ConfigDict, learner: Learner) -> None:
    """Replaces the weights of a new run by those of the run in `train.init_from`, if one is named.

    Embeddings, task head, table, optimisers and return scales stay new. Raises BadInput where sizes differ.
    """
    if not config.train.init_from:
        return
    source = Path(config.train.init_from)
    like, checkpoints = _source(source)
    _, old, _ = checkpoints.load(_newest(source, checkpoints), like)
    new = learner.snapshot()
    _compare(source, new, old)
    kept = {name: new.params["shared"][name] for name in FRESH if name in new.params["shared"]}
    params = old.params | {"shared": old.params["shared"] | kept}
    weights = dict(params=params, statistics=old.statistics, actor=old.actor, critic=old.critic)
    learner.load(new._replace(**weights, slow_critic=old.slow_critic))


def _source(source: Path) -> tuple[TrainState, Checkpoints]:
    """The shapes of the run's weights, and its checkpoints."""
    config = workdir.read(source)
    agent = build.agent(config, build.tasks(config))
    return abstract_state(agent), Checkpoints(source / "checkpoints", keep=1)


def _newest(source: Path, checkpoints: Checkpoints) -> int:
    """The step that process 0 finds, as the source may still be training."""
    step = None
    if not processes.index():
        with contextlib.suppress(FileNotFoundError):
            step = checkpoints.newest()
    step = processes.from_first(step)
    if step is None:
        raise BadInput(f"train.init_from={source} has no checkpoint: name a run that has saved one")
    return step


def _compare(source: Path, new: TrainState, old: TrainState) -> None:
    fresh = tuple(f"['shared']['{name}']" for name in FRESH)
    for part in ("params", "statistics", "actor", "critic"):
        wanted, found = _shapes(getattr(new, part)), _shapes(getattr(old, part))
        for name in sorted(wanted | found):
            if wanted.get(name) != found.get(name) and not name.startswith(fresh):
                raise BadInput(
                    f"train.init_from={source} does not fit: {part}{name} is {found.get(name)} there,"
                    f" {wanted.get(name)} here; set model, router.experts, clustering.clusters and suite.image_size as"
                    " in that run"
                )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(p): np.shape(x) for p, x in jax.tree_util.tree_leaves_with_path(tree)}
