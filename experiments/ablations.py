"""MoW with one part changed at a time, by name, on any suite: what is each part worth?

    python -m mow_jax.train --config=experiments/ablations.py:experts=3 --workdir=runs/experts_3
    python -m mow_jax.train --config=experiments/ablations.py:toy/routing=gated+no_balance_loss --workdir=...
    python -m mow_jax.sweep --config=experiments/ablations.py:toy13 --variants=mow,one --seeds=0,1,2 --workdir=...

A variant is NAME or NAME=VALUE of the tables below, several with "+" between; EXPERIMENT/ before it is the experiment
file that it changes (default toy13). table=FILE groups by a clusters.json, made or edited, whose path has no "," or
"+". A variant that comes out equal to another for want of tasks is refused.
Hardware and time: those of the experiment (results/ablations).
"""

import runpy
from pathlib import Path
from typing import Any

from mow_jax.config import default, effective
from mow_jax.envs.suites import expand
from mow_jax.types import BadInput

# Settings without a value. "mow" is the experiment as it is.
NAMED: dict[str, dict[str, Any]] = {
    "mow": {},
    # The temporal module.
    "no_expert_transformers": {"model.layers": 0},
    "no_shared_transformer": {"model.shared_layers": 0},
    # Terms of the loss. Undivided losses can be thousands (of Atari's pictures): Adam and its clip as STORM has them.
    "no_task_loss": {"loss.task": 0.0},
    "no_balance_loss": {"loss.balance": 0.0},
    "no_harmony": {"loss.harmony": "off", "optimizer.world_eps": 1e-8, "optimizer.world_clip": 1000.0},
    # The paper to the letter where this project chose otherwise; that noise is meant is our reading.
    "literal_router": {
        "router.noise": 1.0,
        "router.margin": 0.0,
        "router.freeze": False,
        "router.first": "scores",
        "router.rest": False,
    },
    "literal_harmony": {"loss.harmony": "zero"},
    # One model of STORM for all tasks, told the task by its embedding. The paper: does not train.
    "storm_embedding": {
        "model.shared_layers": 0,
        "model.position_scale": 1.0,
        "router.experts": 1,
        "router.active": 1,
        "clustering.method": "single",
        "clustering.clusters": 1,
        "loss.task": 0.0,
        "loss.balance": 0.0,
        "loss.harmony": "off",
        "loss.mask_boundaries": False,
        "optimizer.world_eps": 1e-8,
        "optimizer.world_clip": 1000.0,
        "optimizer.world_update_clip": 0.0,
        "agent.act_on": "prior",
        "agent.bootstrap": "current",
        "agent.continuation": "hard",
        "agent.weights": False,
        "agent.return_init": "zero",
        "agent.unimix": 0.0,
    },
}
# Settings with a choice of values, {name: {value: changes}}. Where two come out equal the first one is the one to run.
CHOICES: dict[str, dict[str, dict[str, Any]]] = {
    "clusters": {
        "1": {"clustering.method": "single", "clustering.clusters": 1},
        "each": {"clustering.method": "identity"},  # one a task
        **{str(count): {"clustering.clusters": count} for count in (2, 3, 6, 12)},
    },
    # "random": groups of equal sizes; "shuffled": of the sizes that the gradients' groups have; "file": also needs
    # --config.clustering.table=clusters.json, which in a sweep would reach every run: table=FILE does both.
    "grouping": {
        method: {"clustering.method": method}
        for method in ("agglomerative", "kmeans", "spectral", "random", "shuffled", "single", "file")
    },
    "vector": {
        how: {"clustering.vector": how} for how in ("layer_mean", "layer_scalar", "projection", "module_projection")
    },
    "experts": {
        "1": {"router.experts": 1, "router.active": 1},
        **{str(count): {"router.experts": count} for count in (3, 6, 12)},
    },
    "active": {str(count): {"router.active": count} for count in (1, 2, 4)},
    "routing": {
        "learned": {"router.mode": "learned", "router.gate": "none"},
        # Losses reach the router until it freezes: at 0.2 of all updates that would be just after a toy's warm-up.
        "gated": {"router.mode": "learned", "router.gate": "straight_through", "router.anneal": 0.5},
        "table": {"router.mode": "table", "router.gate": "none"},
    },
    "act_on": {"posterior": {}, "prior": {"agent.act_on": "prior", "loss.mask_boundaries": False}},
    "norm": {norm: {"model.norm": norm} for norm in ("batch", "rms", "none")},
    "return_scale": {scale: {"agent.return_scale": scale} for scale in ("task", "shared")},
}
# Settings with a whole number of the user's.
NUMBERS = {"warmup": "warmup.updates"}
# Settings with a file of the user's, and what goes with them.
FILES = {"table": ("clustering.table", {"clustering.method": "file"})}
# Fewer parts with as many parameters as MoW has, by widths alone: {name: (choices, {experiment: widths})}. Tests hold
# "one" within 1%, the others within 2%; slow critics, which are copies, are not counted.
EQUAL_SIZES: dict[str, tuple[tuple[tuple[str, str], ...], dict[str, dict[str, int]]]] = {
    "one": (
        (("clusters", "1"), ("experts", "1")),
        {
            "toy": {"model.channels": 24, "model.width": 104, "model.head_width": 224, "agent.width": 240},
            "toy13": {"model.channels": 24, "model.width": 128, "model.head_width": 392, "agent.width": 384},
        },
    ),
    "one_cluster": (
        (("clusters", "1"),),
        {
            "toy": {"model.head_width": 256, "agent.width": 256},
            "toy13": {"model.channels": 24, "model.head_width": 416, "agent.width": 416},
        },
    ),
    "one_expert": (
        (("experts", "1"),),
        {"toy": {"model.width": 96}, "toy13": {"model.width": 100}},
    ),
}


def get_config(variant="mow"):
    """The experiment with the variant's changes. Raises BadInput for a variant that is none, or that is another one."""
    experiment, slash, name = str(variant).partition("/")
    if not slash or "=" in experiment:  # a file's path has slashes too
        experiment, name = "toy13", str(variant)
    base = _experiment(experiment)
    made, count = _changed(base, changes(name, experiment)), _tasks(base)
    for other in others(name):
        if effective(_changed(base, changes(other, experiment)), count) == effective(made, count):
            raise BadInput(
                f"variant {name!r} of experiments/{experiment}.py is {other!r} over again: with {count} tasks and this"
                f" experiment's other settings it changes nothing beside it. Run {other!r}, or change what it depends"
                " on with '+', as in routing=gated+no_balance_loss"
            )
    return made


def changes(name, experiment):
    """{key: value} that the parts of a variant's name mean, later ones over earlier ones. Raises BadInput."""
    found: dict[str, Any] = {}
    for part in name.split("+"):
        found |= _part(part, experiment)
    return found


def _part(part, experiment):
    key, equals, value = part.partition("=")
    if not equals and key in NAMED:
        return NAMED[key]
    if not equals and key in EQUAL_SIZES:
        parts, sizes = EQUAL_SIZES[key]
        if experiment not in sizes:
            raise BadInput(
                f"variant {key!r} has as many parameters as MoW, and experiments/ablations.py knows such sizes for"
                f" {', '.join(sizes)} only, not for {experiment}: add them to EQUAL_SIZES, or use"
                f" {'+'.join(map('='.join, parts))}"
            )
        return {key: x for name, value in parts for key, x in CHOICES[name][value].items()} | sizes[experiment]
    if equals and value in CHOICES.get(key, {}):
        return CHOICES[key][value]
    if equals and key in NUMBERS and value.isdecimal():
        return {NUMBERS[key]: int(value)}
    if value and key in FILES:
        return {FILES[key][0]: value} | FILES[key][1]
    raise BadInput(f"variant {part!r} of experiments/ablations.py is not known: use one of {', '.join(catalogue())}")


def catalogue():
    """Every variant by name, in order; NUMBERS with N in place of the number, FILES with FILE."""
    chosen = [f"{key}={value}" for key, values in CHOICES.items() for value in values]
    given = [*(f"{key}=N" for key in NUMBERS), *(f"{key}=FILE" for key in FILES)]
    return [next(iter(NAMED)), *EQUAL_SIZES, *chosen, *given, *list(NAMED)[1:]]


def others(name):
    """The variants that this one must differ from: those before it in the catalogue, and itself without one part."""
    parts = name.split("+")
    known = [other for other in catalogue() if other not in EQUAL_SIZES and not other.endswith(("=N", "=FILE"))]
    if len(parts) > 1:
        return known + ["+".join(parts[:i] + parts[i + 1 :]) for i in range(len(parts))]
    return known[: known.index(name)] if name in known else known[:1] if name != "mow" else []


def _experiment(name):
    """The config of experiments/NAME.py. Raises BadInput where there is none, or it is of another system."""
    path = Path(__file__).with_name(f"{name}.py")
    known = sorted(file.stem for file in path.parent.glob("*.py") if file.stem != Path(__file__).stem)
    if name not in known:
        raise BadInput(f"experiment {name!r} is not known: EXPERIMENT/VARIANT takes one of {', '.join(known)}")
    config = runpy.run_path(str(path))["get_config"]()
    if config.system != default().system:
        raise BadInput(f"experiments/{name}.py is of another system, {config.system}: ablations change MoW's parts")
    return config


def _changed(base, changed):
    config = base.copy_and_resolve_references()
    config.update_from_flattened_dict(changed)
    if changed.get("agent.act_on") == "prior":  # imagines one token more of a window than acting on the posterior does
        agent = config.agent
        agent.horizon = min(agent.horizon, config.batch.length - 1 - agent.context)
    return config


def _tasks(config):
    return len(expand(config.suite.name, config.suite.tasks))
