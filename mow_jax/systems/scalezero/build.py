"""From a ConfigDict to ScaleZero: the Agent with its parts, and the System record that the house knows it by."""

from __future__ import annotations

import functools
import math

import numpy as np
from ml_collections import ConfigDict

from mow_jax.ops.precision import compute_dtype
from mow_jax.systems.scalezero import agent as algorithm
from mow_jax.systems.scalezero import inspection, stages
from mow_jax.systems.scalezero.agent import Agent
from mow_jax.systems.scalezero.search import Search
from mow_jax.systems.scalezero.stages import Stages
from mow_jax.systems.scalezero.types import State
from mow_jax.systems.scalezero.world_model import WorldModel
from mow_jax.types import AfterEvaluation, BadInput, Batch, Component, Plan, Shard, System, Task, Update, Window


def system(config: ConfigDict, tasks: list[Task], plan: Plan) -> System:
    """The record of a checked config. Raises BadInput for tasks whose actions are not choices."""
    made, batch, grows = agent(config, tasks), config.batch, config.stages.count > 1
    bound = lambda function: functools.partial(function, made)
    window = Window(batch.windows, batch.unroll + batch.steps)
    updates = {"training": Update(bound(update), {"windows": window})}
    if config.log.gradients:
        updates["inspection"] = Update(bound(inspection.conflict), {"inspection": window})
    # A solved task leaves the loss and is forgotten where all goes on learning: only stages ask for that.
    after = AfterEvaluation(bound(algorithm.after_evaluation), lambda state: {"stages": state.reached})
    return System(
        name=config.system,
        init=bound(algorithm.init),
        init_acting=bound(algorithm.init_acting),
        act=bound(algorithm.act),
        updates=updates,
        extras={"policy": ("float32", (made.world.action_size,))},
        facts=functools.partial(facts, config, made),
        protocol={"search": config.search.to_dict(), "model": {"compute_dtype": np.dtype(made.world.dtype).name}},
        components=components,
        exported=("update", "params", "stage"),
        carry_over=bound(carry_over),
        check=functools.partial(check, config, plan),
        after_evaluation=after if grows else None,
    )


def check(config: ConfigDict, plan: Plan) -> None:
    """Raises BadInput for what no new run should begin with: patches that hide the toys' objects, stages too late."""
    patch, size = config.model.patch, config.suite.image_size
    if config.suite.name == "toy" and config.model.encoder == "vit" and 4 * patch <= size:
        raise BadInput(
            f"model.patch={patch} is no wider than the toys' objects at suite.image_size={size}: as each patch is"
            f" normed by itself, one that is all white would be as one that is all black; use model.patch={size // 2}"
        )
    check_stages(config, plan)


def check_stages(config: ConfigDict, plan: Plan) -> None:
    """Raises BadInput for stages that a new run would not reach, or whose target nothing would be measured by."""
    stages, every, steps = config.stages, config.evaluation.every, config.train.steps
    if stages.count == 1 or not plan.updates:  # a run that only collects has nothing that could grow
        return
    last = max(stages.first, stages.every) + (stages.count - 2) * stages.every
    if last >= plan.updates:
        raise BadInput(
            f"stages.count={stages.count} is out of reach: by stages.first={stages.first} and stages.every="
            f"{stages.every} the last stage may begin after update {last} only, and the run has {plan.updates} updates:"
            " lower them, or raise train.steps"
        )
    if math.isfinite(stages.target) and not 0 < every < steps:
        raise BadInput(
            f"stages.target={stages.target} needs evaluations while the run learns, and evaluation.every={every} makes"
            f" none in train.steps={steps}: set it between, or stages.target=inf, so that stages end by their budget"
        )


def update(agent: Agent, state: State, batch: Batch, shard: Shard) -> tuple[State, dict]:
    """Learns from windows and from the searches stored with them."""
    return algorithm.update(agent, state, batch, batch.extras["policy"], shard)


def agent(config: ConfigDict, tasks: list[Task]) -> Agent:
    """The agent of a checked config. Raises BadInput for tasks whose actions are not choices."""
    for task in tasks:
        if not task.discrete:
            raise BadInput(
                f"{task.name} has continuous actions, and {config.system} searches among choices: name tasks that have"
                " some, or use an experiment file of another system"
            )
    sizes, look = config.model.to_dict(), config.search.to_dict()
    dtype = compute_dtype(sizes.pop("compute_dtype"))
    loss = config.loss.to_dict()
    smoothing = loss.pop("smoothing")
    loss["entropy"] *= -1  # a bonus
    if not loss["continuation"]:
        del loss["continuation"]
    world = WorldModel(
        image_size=config.suite.image_size,
        tasks=len(tasks),
        action_size=tasks[0].action_size,
        unroll=config.batch.unroll,
        context=look.pop("context"),
        continuation="continuation" in loss,
        dtype=dtype,
        **sizes,
    )
    return Agent(
        world=world,
        search=Search(**look),
        stages=Stages(**config.stages.to_dict()),
        scales=tuple(loss.items()),
        steps=config.batch.steps,
        smoothing=smoothing,
        sampled=config.evaluation.actions == "sampled",
        **config.optimizer.to_dict(),
    )


# --- What people are told ---------------------------------------------------------------------------------------------


def facts(config: ConfigDict, agent: Agent, parameters: int) -> list[tuple[str, str]]:
    """ScaleZero's lines of the first screen."""
    del parameters
    model, search, stages = config.model, config.search, config.stages
    mixture = f"{model.experts} a layer, {model.active} active a token, {model.shared} always on"
    if model.gate_norm == "topk" and model.active == 1:
        mixture += "; router fixed, as released"
    return [
        ("precision", np.dtype(agent.world.dtype).name),
        ("experts", mixture if model.feed_forward == "mixture" else "none, dense layers"),
        ("search", f"{search.simulations} simulations an action ({search.method})"),
        ("stages", f"{stages.count}, adapters of rank {stages.rank}" if stages.count > 1 else "1, no adapters"),
    ]


def components(state: State) -> dict[str, Component]:
    """What has parameters, but for the moving average of all of it. A task uses one of the heads' rows."""
    names = dict(encoder="encoder", tokens="positions and actions", backbone="Transformer and experts", heads="heads")
    names |= dict(adapters="adapters")
    share = {"heads": 1 / len(state.solved)}
    parts = state.params
    return {says: Component(parts[name], share.get(name, 1.0)) for name, says in names.items() if name in parts}


# --- Weights ----------------------------------------------------------------------------------------------------------


def carry_over(agent: Agent, old: State, new: State) -> State:
    """A new run's state with the weights of another run, that of `agent`: its backbone as it was used, adapters merged
    into it. Heads, which belong to the tasks, adapters, optimiser and stages stay new."""

    def shared(params, start):
        whole = stages.merge(agent.stages, params, old.stage)
        return start | {name: part for name, part in whole.items() if name != "heads"}

    return new._replace(params=shared(old.params, new.params), target=shared(old.target, new.target))
