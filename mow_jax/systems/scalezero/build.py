"""From a ConfigDict to ScaleZero's Agent."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mow_jax.systems.scalezero.agent import Agent
from mow_jax.systems.scalezero.search import Search
from mow_jax.systems.scalezero.stages import Stages
from mow_jax.systems.scalezero.types import State
from mow_jax.systems.scalezero.world_model import WorldModel
from mow_jax.types import BadInput, Task


def agent(config: ConfigDict, tasks: list[Task]) -> Agent:
    """The agent of a checked config. Raises BadInput for tasks whose actions are not choices."""
    for task in tasks:
        if not task.discrete:
            raise BadInput(f"{task.name} has continuous actions, and scalezero searches among choices: use system=mow")
    sizes, look = config.model.to_dict(), config.search.to_dict()
    dtype = compute_dtype(sizes.pop("compute_dtype"))
    loss = config.loss.to_dict()
    smoothing = loss.pop("smoothing")
    loss["entropy"] *= -1  # a bonus
    world = WorldModel(
        image_size=config.suite.image_size,
        tasks=len(tasks),
        action_size=tasks[0].action_size,
        unroll=config.batch.unroll,
        context=look.pop("context"),
        dtype=dtype,
        **sizes,
    )
    return Agent(
        world=world,
        search=Search(**look),
        stages=Stages(**config.stages.to_dict()),
        seed=config.seed,
        scales=tuple(loss.items()),
        steps=config.batch.steps,
        smoothing=smoothing,
        **config.optimizer.to_dict(),
    )


def compute_dtype(name: str) -> Any:
    """The precision of matrix products."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name).type


def components(state: State) -> dict[str, Any]:
    """What has parameters, but for the moving average of all of it."""
    names = dict(encoder="encoder", tokens="positions and actions", backbone="Transformer and experts", heads="heads")
    names |= dict(adapters="adapters")
    return {says: state.params[name] for name, says in names.items() if name in state.params}


def carry_over(old: State, new: State) -> State:
    """A new run's state with another run's weights; heads, which belong to the tasks, optimiser and stages stay new."""
    shared = lambda params, start: {name: start[name] if name == "heads" else part for name, part in params.items()}
    return new._replace(params=shared(old.params, new.params), target=shared(old.target, new.target))
