"""From a ConfigDict to the objects of a run: tasks, environment settings, plan, agent. Used by train and evaluate."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mow_jax import envs
from mow_jax.agent import Agent
from mow_jax.config import ATARI_PROTOCOLS
from mow_jax.models.actor_critic import ActorCritic
from mow_jax.models.imagination import Imagination
from mow_jax.models.router import Routing
from mow_jax.models.world_model import WorldModel
from mow_jax.types import Task

BEHAVIOUR = ("width", "depth", "gamma", "lambda_", "entropy", "unimix", "return_decay", "bootstrap", "weights")


class Plan(NamedTuple):
    """How long a run is."""

    joint_steps: int  # joint steps in all
    warmup_joint: int  # of them at random
    warmup_updates: int
    updates: int  # after the warm-up
    schedule_updates: int  # in all, as first planned: what the router's temperature refers to


def env_settings(config: ConfigDict) -> dict[str, Any]:
    """What envs.resolve and envs.make take: the image size and the suite's own keys."""
    own = config.suite.get(config.suite.name, ConfigDict())
    named = ATARI_PROTOCOLS.get(own.get("protocol", ""), {})  # a preset wins over the fields that it names
    return {"image_size": config.suite.image_size, **own.to_dict(), **named}


def tasks(config: ConfigDict) -> list[Task]:
    """The run's tasks. Raises BadInput for names that do not exist."""
    return envs.resolve(config.suite.name, tuple(config.suite.tasks), env_settings(config))


def plan(config: ConfigDict) -> Plan:
    """Steps and updates of a run."""
    each, ratio, warmup = config.train.envs, config.train.ratio, config.warmup
    joint, random = config.train.steps // each, warmup.steps // each
    scheduled = (config.train.schedule_steps or config.train.steps) // each
    count = lambda joint_steps: int((joint_steps - random) * ratio + 1e-9)
    return Plan(joint, random, warmup.updates, count(joint), warmup.updates + count(scheduled))


def agent(config: ConfigDict, tasks: list[Task]) -> Agent:
    """The agent of a checked config."""
    dtype = compute_dtype(config.model.compute_dtype)
    model = config.model.to_dict() | {"dtype": dtype}
    del model["compute_dtype"]
    embedding = model.pop("embedding")
    routing = config.router
    steps = plan(config)
    rules = Routing(
        tasks=len(tasks),
        experts=routing.experts,
        active=routing.active,
        embedding=embedding,
        mode=routing.mode,
        margin=routing.margin,
        noise=routing.noise,
        gate=routing.gate,
        freeze=routing.freeze,
        tau_start=routing.tau_start,
        tau_end=routing.tau_end,
        anneal_updates=routing.anneal * steps.schedule_updates,
    )
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
        mask_boundaries=config.loss.mask_boundaries,
        free_bits=config.loss.free_bits,
        **model,
    )
    behaviour = ActorCritic(
        features=world.latent + world.width + embedding,
        action_size=world.action_size,
        discrete=world.discrete,
        clusters=world.clusters,
        activation=world.activation,
        zero_heads=world.zero_heads,
        dtype=dtype,
        **{key: own[key] for key in BEHAVIOUR},
    )
    loss = config.loss
    scales = dict(reconstruction=1.0, reward=loss.reward, continuation=loss.continuation, task=loss.task)
    return Agent(
        world=world,
        behaviour=behaviour,
        imagination=imagination,
        seed=config.seed,
        scales=tuple((scales | dict(dyn=loss.dyn, rep=loss.rep)).items()),
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


def compute_dtype(name: str) -> Any:
    """The precision of matrix products."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name).type
