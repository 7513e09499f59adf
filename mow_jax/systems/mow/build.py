"""From a ConfigDict to MoW: the Agent with its parts, and the System record that the house knows it by."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mow_jax.ops.precision import compute_dtype
from mow_jax.systems.mow import agent as algorithm
from mow_jax.systems.mow import clustering, imagination, inspection, playing, router, warmup
from mow_jax.systems.mow.actor_critic import ActorCritic
from mow_jax.systems.mow.agent import Agent
from mow_jax.systems.mow.imagination import Imagination
from mow_jax.systems.mow.router import Routing
from mow_jax.systems.mow.types import TrainState
from mow_jax.systems.mow.world_model import WorldModel
from mow_jax.types import Acted, Component, Plan, Playable, System, Task, Update, Window

BEHAVIOUR = ("width", "depth", "gamma", "lambda_", "value", "entropy", "unimix", "return_decay", "bootstrap", "weights")
EXPORTED = ("params", "statistics", "harmony", "actor", "critic", "return_scale", "table")
FRESH = ("embedding", "task_head")  # of the shared part: they belong to the tasks
STORM_PARAMETERS = 16_503_939 + 3_413_502  # of one published STORM model, slow critic included, without ...
STORM_PER_ACTION = 512 + 513  # ... what each action adds


def system(config: ConfigDict, tasks: list[Task], plan: Plan) -> System:
    """The record of a checked config."""
    return record(config, tasks, agent(config, tasks, plan))


def record(config: ConfigDict, tasks: list[Task], made: Agent) -> System:
    """The record of an agent that has been made."""
    batch, own, names = config.batch, config.agent, [task.name for task in tasks]
    world, contexts = Window(batch.sequences, batch.length), Window(own.contexts, own.context)
    bound = lambda function: functools.partial(function, made)
    scored = lambda function: (
        lambda state, *rest, **options: function(made, inspection.without_noise(made, state), *rest, **options)
    )
    return System(
        name=config.system,
        init=bound(algorithm.init),
        init_acting=functools.partial(imagination.init_acting, made.imagination, made.world),
        act=functools.partial(act, made, config.evaluation.actions == "best"),
        updates={
            "training": Update(bound(algorithm.update), {"world": world, "imagine": contexts}),
            "warmup": Update(bound(algorithm.warmup_update), {"world": world}),
        },
        facts=functools.partial(facts, config, made, tasks),
        protocol={
            "agent": {key: own[key] for key in ("act_context", "act_on", "unimix")},
            "model": {"compute_dtype": np.dtype(made.world.dtype).name},
        },
        components=bound(components),
        exported=EXPORTED + ("update",) * _scored_by_time(made.world.routing),
        carry_over=carry_over,
        check=functools.partial(warmup.check, config, names, made),
        after_warmup=functools.partial(warmup.end, config, names, made),
        after_save=bound(after_save),
        predictions=scored(inspection.predictions),
        open_loop=scored(inspection.open_loop),
        playable=Playable(
            rows=bound(playing.rows),
            see=bound(playing.see),
            choose=bound(playing.choose),
            move=bound(playing.move),
            scored=functools.partial(inspection.without_noise, made),
            experts=config.router.experts,
            chosen=playing.chosen,
            exchange=playing.exchange,
        ),
    )


def act(
    agent: Agent, best: bool, state: TrainState, acting, observation, is_first, step, shard, explore: bool
) -> Acted:
    """The same sampled policy, whether to learn or to be scored; or, to be scored, its `best` action. To be scored, the
    experts are chosen without noise. Nothing is stored beside a row."""
    state, best = (state, False) if explore else (inspection.without_noise(agent, state), best)
    action, acting = algorithm.act(agent, state, acting, observation, is_first, step, shard, best)
    return Acted(action, {}, acting)


def _scored_by_time(rules: Routing) -> bool:
    """Whether the experts that a policy is scored with depend on the update: noise until a freeze."""
    return bool(rules.noise) and rules.freeze and router.chooses(rules)


def agent(config: ConfigDict, tasks: list[Task], plan: Plan) -> Agent:
    """The agent of a checked config."""
    dtype = compute_dtype(config.model.compute_dtype)
    model = config.model.to_dict() | {"dtype": dtype}
    del model["compute_dtype"]
    embedding = model.pop("embedding")
    routing = config.router.to_dict()
    anneal = routing.pop("anneal") * plan.schedule_updates
    rules = Routing(tasks=len(tasks), embedding=embedding, anneal_updates=anneal, **routing)
    # Where tokens see over an episode's end their positions go on, too.
    longest = max(task.horizon for task in tasks) if config.loss.mask_boundaries else config.batch.length
    own = config.agent.to_dict()
    imagination = Imagination(
        **{key: own[key] for key in ("context", "horizon", "act_context", "act_on", "continuation")}
    )
    world = WorldModel(
        image_size=config.suite.image_size,
        action_size=tasks[0].action_size,
        discrete=tasks[0].discrete,
        clusters=clusters(config, len(tasks)),
        routing=rules,
        max_length=config.batch.length,
        positions=min(config.batch.length, longest),
        mask_boundaries=config.loss.mask_boundaries,
        free_bits=config.loss.free_bits,
        inverse=bool(config.loss.inverse),
        **model,
    )
    behaviour = ActorCritic(
        features=world.latent + world.width + embedding,
        action_size=world.action_size,
        discrete=world.discrete,
        clusters=world.clusters,
        activation=world.activation,
        zero_heads=world.zero_heads,
        return_scale=own["return_scale"],
        dtype=dtype,
        **{key: own[key] for key in BEHAVIOUR},
    )
    loss = config.loss
    scales = dict(reconstruction=1.0, reward=loss.reward, continuation=loss.continuation, task=loss.task)
    scales |= dict(dyn=loss.dyn, rep=loss.rep) | (dict(inverse=loss.inverse) if loss.inverse else {})
    return Agent(
        world=world,
        behaviour=behaviour,
        imagination=imagination,
        scales=tuple(scales.items()),
        balance=loss.balance,
        harmony=loss.harmony,
        return_init=own["return_init"],
        slow_decay=own["slow_decay"],
        **config.optimizer.to_dict(),
    )


def clusters(config: ConfigDict, tasks: int) -> int:
    """N_m: as configured, at most one a task."""
    methods = {"single": 1, "identity": tasks}
    return methods.get(config.clustering.method, min(config.clustering.clusters, tasks))


# --- What people are told ---------------------------------------------------------------------------------------------


def facts(config: ConfigDict, agent: Agent, tasks: list[Task], parameters: int) -> list[tuple[str, str]]:
    """MoW's lines of the first screen."""
    single, settings = sum(STORM_PARAMETERS + STORM_PER_ACTION * task.action_size for task in tasks), config.router
    return [
        ("precision", np.dtype(agent.world.dtype).name),
        ("clusters", f"{agent.world.clusters} (configured: {config.clustering.clusters}), {config.clustering.method}"),
        ("experts", f"{settings.experts}, {settings.active} active a task, router {settings.mode}"),
        ("against STORM", f"{parameters / single:.3f} of {len(tasks)} STORM models ({single:,} parameters)"),
    ]


def components(agent: Agent, state: TrainState) -> dict[str, Component]:
    """What has parameters (slow critics included, batch-norm statistics not). A task uses one of the rows by cluster
    and n_k of those by expert."""
    cluster, shared, rules = state.params["cluster"], state.params["shared"], agent.world.routing
    own = functools.partial(Component, share=1 / agent.world.clusters)
    return {
        "encoders and posteriors": own([cluster["encoder"], cluster["posterior"]]),
        "decoders": own(cluster["decoder"]),
        "priors, rewards, continuations": own([cluster[name] for name in ("prior", "reward", "continuation")]),
        **({"inverses": own(cluster["inverse"])} if "inverse" in cluster else {}),
        "mixers and expert Transformers": Component(state.params["expert"], rules.active / rules.experts),
        "shared Transformer": Component(shared["dynamics"]),
        "router, embeddings, task head": Component(
            [shared[n] for n in ("router", "embedding", "task_head") if n in shared]
        ),
        "actor": Component(state.actor),
        "critics": own(state.critic),
        "slow critics": own(state.slow_critic, learned=False),
    }


# --- Weights and files ------------------------------------------------------------------------------------------------


def carry_over(old: TrainState, new: TrainState) -> TrainState:
    """A new run's state with another run's weights; embeddings, task head, table, optimisers and return scales stay
    new."""
    known = {name: leaf for name, leaf in old.params["shared"].items() if name not in FRESH}
    fresh = {name: leaf for name, leaf in new.params["shared"].items() if name in FRESH}
    weights = dict(statistics=old.statistics, actor=old.actor, critic=old.critic, slow_critic=old.slow_critic)
    return new._replace(params=old.params | {"shared": known | fresh}, **weights)


def after_save(agent: Agent, learner: Any, directory: Path) -> None:
    """Keeps clusters.json up to date with the router's selection, as it is scored: without noise."""
    path, state = directory / "clusters.json", learner.state
    if not path.exists():
        return
    table = learner.single(state.table)
    if agent.world.routing.noise:  # else nothing needs computing between updates
        named = learner.single(dict(params={"shared": state.params["shared"]}, update=state.update))
        table = inspection.without_noise(agent, state._replace(table=table, **named)).table
    clustering.write_experts(path, np.asarray(table.experts))
