"""The keys of the M3PO-style system (paper details unavailable): their defaults are TD-MPC2's 5 M model on Meta-World's
50 tasks, with what M3PO is said to add to it, at our own strength (docs/m3po.md)."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from mow_jax import checks
from mow_jax.types import BadInput

# What `preset` sets, by key. "m3po" is the default; "tdmpc2" is the same without what M3PO adds, which is all that it
# differs in: both learn in equal rounds, so that a difference between runs is the additions'.
PRESETS: dict[str, dict[str, Any]] = {
    "m3po": {"fresh.weight": 0.1, "fresh.share": 0.25, "bonus.kind": "clipped"},
    "m3po_onpolicy": {
        **{"train.burst": 128, "fresh.weight": 1.0, "fresh.share": 1.0, "bonus.kind": "clipped"},
        "policy.replay": False,
    },
    "tdmpc2": {"fresh.weight": 0.0, "bonus.kind": "none"},
}


def add(config: ConfigDict) -> None:
    """Puts them beside the common ones."""
    config.suite.update(name="metaworld", tasks=("mt50",), observation="state")
    config.train.update(steps=200_000, envs=8, burst=32, overlap=False)
    config.warmup.update(steps=4000, updates=500)  # as many as those joint steps would have had
    config.evaluation.actions = "best"  # the first of the plan's mean
    config.batch = ConfigDict(
        dict(
            windows=16,  # B, a task
            horizon=3,  # H, steps that the model is unrolled for: a window has one row more
        )
    )
    config.model = _model()
    config.planner = ConfigDict(
        dict(
            horizon=3,
            iterations=6,
            samples=512,  # action sequences an iteration ...
            policy_samples=24,  # ... so many of them the policy's
            elites=64,
            temperature=0.5,
            std_min=0.05,
            std_max=2.0,
        )
    )
    config.loss = ConfigDict(
        dict(
            consistency=20.0,
            reward=0.1,
            value=0.1,
            termination=1.0,
            rho=0.5,  # a step weighs this times the step before it
        )
    )
    config.policy = ConfigDict(
        dict(
            replay=True,  # climbs the value functions in latents from replay
            entropy=1e-4,
            squashed=False,  # True: entropy is of the action, behind tanh; else of what tanh squashes (as released)
        )
    )
    config.fresh = ConfigDict(
        dict(
            weight=0.1,  # of the policy's steps on fresh rows beside its steps on replay; 0: none, nobody acts for them
            share=0.25,  # of a task's environments that act by the bare policy and give fresh rows
            epochs=4,
            minibatch=256,  # rows of a task
            clip=0.2,  # trust region: how far the ratio of probabilities may lead from 1
            kl=0.0,  # the policy rests once a minibatch is so far from what acted; 0: it never does
            lambda_=0.95,  # of the advantages
            entropy=1e-3,
        )
    )
    config.bonus = ConfigDict(
        dict(
            kind="clipped",  # on advantages, never turning one; "reward": on rewards, for a critic of its own; "none"
            beta=0.1,  # falls in a line to 0 over the run
            steps=1,  # k of the model-based value
        )
    )
    config.discount = ConfigDict(dict(divisor=5.0, low=0.95, high=0.995))  # (L/5 - 1) / (L/5) of a task of L steps
    config.optimizer = ConfigDict(dict(lr=3e-4, encoder_rate=0.3, clip=20.0, target_rate=0.01))


def _model() -> ConfigDict:
    return ConfigDict(
        dict(
            compute_dtype="auto",  # float32 on CPUs, else bfloat16
            latent=512,  # D
            simnorm=8,  # numbers of a latent's group, each of which is a distribution
            embedding=96,  # of a task
            encoder=256,  # width of the encoder's hidden layers, of vectors
            encoder_layers=2,
            channels=32,  # of the encoder's convolutions, of pictures
            hidden=512,  # width of all other hidden layers
            bins=101,
            limit=10.0,  # bins reach so far in symlog space
            value_functions=5,
            dropout=0.01,  # of their first layer
            termination=True,  # predict ends; False where tasks never end by themselves
            shift=0,  # pixels that pictures are moved by at most while learning
            log_std_min=-5.0,  # of the policy; TD-MPC2 has -10: so narrow a policy has no exact ratio in float32
            log_std_max=2.0,
        )
    )


def preset(config: ConfigDict, name: str) -> ConfigDict:
    """The config with the settings of a preset. Raises BadInput for one that is none."""
    if name not in PRESETS:
        raise BadInput(f"preset {name!r} is not allowed: use one of {', '.join(PRESETS)}")
    for key, value in PRESETS[name].items():
        section, _, field = key.partition(".")
        config[section][field] = value
    return config


# --- Checks -----------------------------------------------------------------------------------------------------------

CHOICES = {
    "model.compute_dtype": ("auto", "float32", "bfloat16"),
    "bonus.kind": ("clipped", "reward", "none"),
    "evaluation.actions": ("best",),
}
RANGES = {
    "whole [1, 1000000]": (
        "batch.windows batch.horizon model.latent model.simnorm model.encoder model.channels model.hidden"
        " planner.samples planner.elites fresh.minibatch"
    ),
    "whole [1, 1000]": (
        "model.encoder_layers model.value_functions planner.horizon planner.iterations fresh.epochs bonus.steps"
    ),
    "whole [0, 1000000]": "model.embedding planner.policy_samples",
    "whole [0, 128]": "model.shift",
    "whole [3, 1000001]": "model.bins",
    "[0, 1)": "model.dropout",
    "[0, 1]": "loss.rho fresh.share fresh.lambda_ bonus.beta discount.low discount.high",
    "(0, 1]": "optimizer.target_rate",
    "(0, 1)": "fresh.clip",
    "[0, 1e30]": (
        "loss.consistency loss.reward loss.value loss.termination policy.entropy fresh.weight fresh.kl"
        " fresh.entropy planner.temperature optimizer.encoder_rate"
    ),
    "(0, 1e30]": "planner.std_min planner.std_max discount.divisor optimizer.lr optimizer.clip",
    # Of exponents, which float32 holds up to 88.
    "(0, 80]": "model.limit",
    "[-80, 80]": "model.log_std_min model.log_std_max",
}


def check(config: ConfigDict) -> None:
    """Raises BadInput for the first of these settings that cannot work."""
    model, planner = config.model, config.planner
    if model.latent % model.simnorm:
        raise BadInput(
            f"model.latent={model.latent} does not divide by model.simnorm={model.simnorm}: choose a multiple"
        )
    if planner.policy_samples >= planner.samples:
        raise BadInput(
            f"planner.policy_samples={planner.policy_samples} leaves none of planner.samples={planner.samples} to draw:"
            " lower the first"
        )
    if planner.elites > planner.samples:
        raise BadInput(f"planner.elites={planner.elites} cannot be chosen among planner.samples={planner.samples}")
    for room, low, high in (
        (planner, "std_min", "std_max"), (model, "log_std_min", "log_std_max"), (config.discount, "low", "high")
    ):  # fmt: skip
        if room[low] > room[high]:
            raise BadInput(f"{low}={room[low]} is above {high}={room[high]}: lower it")
    if not config.policy.replay and not config.fresh.weight:
        raise BadInput("policy.replay=False with fresh.weight=0: nothing would teach the policy, set one of them")
    checks.rows(config, config.batch.horizon + 1, "batch.horizon")
    _check_fresh(config)


def _check_fresh(config: ConfigDict) -> None:
    fresh, train = config.fresh, config.train
    if not fresh.weight:
        if config.bonus.kind != "none":
            raise BadInput(
                f"bonus.kind={config.bonus.kind!r} with fresh.weight=0: a bonus shapes what is learned from fresh rows;"
                " raise fresh.weight, or set bonus.kind='none'"
            )
        return
    if not round(fresh.share * train.envs):
        raise BadInput(
            f"fresh.share={fresh.share} of train.envs={train.envs} leaves no environment for fresh rows: raise one of"
            " them, or set fresh.weight=0 and bonus.kind='none'"
        )
    if train.burst < 2:
        raise BadInput(
            f"train.burst={train.burst} leaves fresh rows without a next one, by which values disagree: set it to 2 or"
            " more, or fresh.weight=0 and bonus.kind='none'"
        )
    if train.overlap:
        raise BadInput("train.overlap=True lets an older policy act for the first of the fresh rows: set it to False")
    if config.replay.capacity and config.replay.capacity // train.envs < train.burst:
        raise BadInput(
            f"replay.capacity={config.replay.capacity} holds fewer rows than train.burst={train.burst}: raise it"
        )


# --- Older runs -------------------------------------------------------------------------------------------------------

# Keys of older runs' config.json, and what they are called now: "values" is a method of every ConfigDict, which no flag
# could set.
RENAMED = {"model.values": "model.value_functions"}
# Keys that older runs' config.json lack, and the values that those runs had.
BEFORE: dict[str, dict[str, Any]] = {"policy": {"squashed": False}}
# Keys that a resumed run of other systems may change, and this one's may not.
LOCKED: tuple[str, ...] = ()
