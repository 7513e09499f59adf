"""From a ConfigDict to the M3PO-style system: the Agent with its parts, and the System record for the house."""

from __future__ import annotations

import functools

import numpy as np
from ml_collections import ConfigDict

from mow_jax.ops.precision import compute_dtype
from mow_jax.systems.m3po import agent as algorithm
from mow_jax.systems.m3po.agent import Agent
from mow_jax.systems.m3po.fresh import Trust
from mow_jax.systems.m3po.planner import Planner
from mow_jax.systems.m3po.types import State
from mow_jax.systems.m3po.world_model import WorldModel
from mow_jax.types import BadInput, Component, Plan, System, Task, Update, Window


def system(config: ConfigDict, tasks: list[Task], plan: Plan) -> System:
    """The record of a checked config. Raises BadInput for tasks whose actions are choices."""
    made, batch = agent(config, tasks, plan), config.batch
    bound = lambda function: functools.partial(function, made)
    replayed = Update(bound(algorithm.update), {"replay": Window(batch.windows, batch.horizon + 1)})
    updates = {"training": replayed, "warmup": replayed}  # on random rows as on all others
    extras: dict[str, tuple[str, tuple[int, ...]]] = {}
    if made.trust:
        # The newest rows of a burst, all acted by one policy; the last one's next frame is not there yet.
        updates["on_policy"] = Update(bound(algorithm.on_policy), {"fresh": Window(0, config.train.burst)})
        extras = {"raw": ("float32", (made.world.action_size,)), "log_prob": ("float32", ())}
    return System(
        name=config.system,
        init=bound(algorithm.init),
        init_acting=bound(algorithm.init_acting),
        act=bound(algorithm.act),
        updates=updates,
        extras=extras,
        facts=functools.partial(facts, config, made),
        protocol={"planner": config.planner.to_dict(), "model": {"compute_dtype": np.dtype(made.world.dtype).name}},
        components=components,
        exported=("update", "params"),
        carry_over=carry_over,
    )


def agent(config: ConfigDict, tasks: list[Task], plan: Plan) -> Agent:
    """The agent of a checked config. Raises BadInput for tasks of discrete actions, or that nothing tells apart."""
    for task in tasks:
        if task.discrete:
            raise BadInput(
                f"{task.name} has discrete actions, and {config.system} plans with continuous ones: name tasks that"
                " have such, or use an experiment file of another system"
            )
    if len(tasks) > 1 and not config.model.embedding:
        raise BadInput(f"model.embedding=0: nothing would tell {len(tasks)} tasks apart, choose 1 or more")
    sizes, fresh, loss = config.model.to_dict(), config.fresh.to_dict(), config.loss.to_dict()
    bonus, rho = config.bonus, loss.pop("rho")
    world = WorldModel(
        tasks=len(tasks),
        action_size=tasks[0].action_size,
        numbers=tasks[0].numbers,
        image_size=config.suite.image_size,
        dtype=compute_dtype(sizes.pop("compute_dtype")),
        values=sizes.pop("value_functions"),
        squashed=config.policy.squashed,
        **sizes,
    )
    return Agent(
        world=world,
        planner=Planner(**config.planner.to_dict()),
        trust=Trust(bonus=bonus.kind, beta=bonus.beta, steps=bonus.steps, **fresh) if fresh["weight"] else None,
        gammas=tuple(discount(task.horizon, **config.discount.to_dict()) for task in tasks),
        scales=tuple(loss.items()),
        rho=rho,
        entropy=config.policy.entropy,
        climbs=config.policy.replay,
        updates=plan.schedule_updates,
        **config.optimizer.to_dict(),
    )


def discount(length: int, divisor: float, low: float, high: float) -> float:
    """gamma of a task with episodes of `length` agent steps (TD-MPC2)."""
    share = length / divisor
    return min(max((share - 1) / share, low), high)


# --- What people are told ---------------------------------------------------------------------------------------------


def facts(config: ConfigDict, agent: Agent, parameters: int) -> list[tuple[str, str]]:
    """The system's lines of the first screen."""
    del parameters
    planner, trust, envs = config.planner, agent.trust, config.train.envs
    kind = {"none": "none", "clipped": "on advantages, clipped", "reward": "on rewards"}[config.bonus.kind]
    text = "none: nobody acts by the bare policy, nothing learns from fresh rows"
    if trust:
        text = f"{agent.by_policy(envs)} of {envs} environments a task, slices of {config.train.burst} rows"
    return [
        ("method", "M3PO-style (paper details unavailable), on TD-MPC2's model and planner"),
        ("precision", np.dtype(agent.world.dtype).name),
        ("sees", f"vectors of {agent.world.numbers} numbers" if agent.world.numbers else "pictures"),
        ("planner", f"{planner.iterations} x {planner.samples} sequences of {planner.horizon} actions"),
        ("trust region", text),
        ("bonus", f"{kind}, weight {trust.beta:g} falling to 0" if trust and trust.bonus != "none" else "none"),
    ]


def components(state: State) -> dict[str, Component]:
    """What has parameters, but for the moving average of the value functions."""
    names = dict(embedding="task embeddings", encoder="encoder", dynamics="dynamics", reward="reward")
    names |= dict(
        termination="ends", q="value functions", policy="policy", value="critic", augmented="critic of bonuses"
    )
    return {says: Component(state.params[name]) for name, says in names.items() if name in state.params}


# --- Weights ----------------------------------------------------------------------------------------------------------


def carry_over(old: State, new: State) -> State:
    """A new run's state with another run's weights; embeddings, which belong to the tasks, and optimisers stay new."""
    params = {name: old.params.get(name, part) for name, part in new.params.items()} | {
        "embedding": new.params["embedding"]
    }
    return new._replace(params=params, target=old.target, anchor=params["policy"] if new.anchor else ())
