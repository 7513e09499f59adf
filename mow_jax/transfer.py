"""Starting other tasks from a run's weights (`train.init_from`). Called by train."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mow_jax import build, processes, workdir
from mow_jax.checkpoint import Checkpoints
from mow_jax.learner import Learner, abstract_state
from mow_jax.types import BadInput

FRESH = ("embedding", "task_head")  # of the shared part: they belong to the tasks


def init_from(config: ConfigDict, learner: Learner) -> None:
    """Replaces the weights of a new run by those of the run in `train.init_from`, if one is named.

    Embeddings, task head, table, optimisers and return scales stay new. Raises BadInput where sizes differ.
    """
    if not config.train.init_from:
        return
    source = Path(config.train.init_from)
    old_config = workdir.read(source)
    old_tasks = build.tasks(old_config)
    like = abstract_state(build.agent(old_config, old_tasks))
    checkpoints = Checkpoints(source / "checkpoints", keep=1)
    _, old, _ = checkpoints.load(_newest(source, checkpoints), like)
    new = learner.snapshot()
    kept = {name: new.params["shared"][name] for name in FRESH if name in new.params["shared"]}
    params = old.params | {"shared": old.params["shared"] | kept}
    weights = dict(params=params, statistics=old.statistics, actor=old.actor, critic=old.critic)
    weights["slow_critic"] = old.slow_critic
    for name, tree in weights.items():
        _check(source, name, getattr(new, name), tree)
    learner.load(new._replace(**weights))


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


def _check(source: Path, part: str, new: Any, old: Any) -> None:
    shapes = lambda tree: {jax.tree_util.keystr(p): np.shape(x) for p, x in jax.tree_util.tree_leaves_with_path(tree)}
    wanted, found = shapes(new), shapes(old)
    for name in sorted(wanted | found):
        if wanted.get(name) != found.get(name):
            raise BadInput(
                f"train.init_from={source} does not fit: {part}{name} is {found.get(name)} there, {wanted.get(name)}"
                " here; set model, router.experts, clustering.clusters and suite.image_size as in that run"
            )
