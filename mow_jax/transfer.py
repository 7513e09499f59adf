"""Starting other tasks from a run's weights (`train.init_from`). Called by preflight and run."""

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
from mow_jax.types import BadInput, System


def check(config: ConfigDict, system: System) -> None:
    """Raises BadInput where the run in `train.init_from`, if one is named, has no weights that fit the system."""
    if config.train.init_from:
        source = Path(config.train.init_from)
        whose, old, checkpoints = _source(source, system)
        _newest(source, checkpoints)
        _refuse_sizes(source, jax.eval_shape(whose.carry_over, old, abstract_state(system)), abstract_state(system))


def init_from(config: ConfigDict, learner: Learner) -> None:
    """Replaces the weights of a new run by those of the run in `train.init_from`, if one is named: what of them, the
    old run's system says by its `carry_over`. Raises BadInput where sizes differ."""
    if not config.train.init_from:
        return
    source = Path(config.train.init_from)
    whose, like, checkpoints = _source(source, learner.system)
    _, old, _ = checkpoints.load(_newest(source, checkpoints), like)
    new = learner.snapshot()
    carried = whose.carry_over(old, new)
    _refuse_sizes(source, carried, new)
    learner.load(carried)


def _source(source: Path, system: System) -> tuple[System, Any, Checkpoints]:
    """The run's own system, the shapes of its state, and its checkpoints."""
    config = workdir.read(source)
    if config.system != system.name:
        raise BadInput(f"train.init_from={source} holds a run of {config.system}, this is one of {system.name}")
    whose = build.system(config, build.tasks(config))
    return whose, abstract_state(whose), Checkpoints(source / "checkpoints", keep=1)


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


def _refuse_sizes(source: Path, carried: Any, new: Any) -> None:
    """Raises BadInput where a new state with the old one's weights is not of the new one's shapes."""
    wanted, found = _shapes(new), _shapes(carried)
    for name in sorted(wanted | found):
        if wanted.get(name) != found.get(name):
            raise BadInput(
                f"train.init_from={source} does not fit: {name} is {found.get(name)} there, {wanted.get(name)} here;"
                f" give this run the sizes of that one, {source}/config.json has them"
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path).removeprefix("."): np.shape(leaf) for path, leaf in leaves}
