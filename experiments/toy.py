"""Five tiny pixel tasks with one agent, on a CPU.

    python -m mow_jax.train --config=experiments/toy.py --workdir=runs/toy
    python -m mow_jax.train --config=experiments/toy.py:one --workdir=runs/toy_one     (one cluster, one expert)
    python -m mow_jax.train --config=experiments/toy.py:scalezero --workdir=runs/toy_scalezero

Arms of the comparison of systems, of as many learned parameters as MoW has within 5%: mow, one_equal,
scalezero_mixture (its router fixed, as released; "scalezero" is the same), scalezero_all (its router learns),
scalezero_dense, scalezero_stages (solved tasks leave), scalezero_kept (they keep a quarter of their weight),
scalezero_budget (stages by updates alone, nothing leaves). experiments/toy13.py has all but scalezero_kept, and not the
short name scalezero, on thirteen tasks. "one" is a third of their size.
Hardware: one CPU core, 3 to 7 minutes (results/toy); ScaleZero's arms 7 to 11 core-minutes (results/toy_scalezero).
Expected: mean normalised score 0.98 (0.980 to 0.989), no task under 0.93 (ten seeds); the other arms 0.94 to 1.00,
scalezero_stages 0.33 to 0.89, three seeds (results/toy_scalezero).
"""

import math

from mow_jax import checks
from mow_jax.config import default

SINGLE = {"clustering.method": "single", "clustering.clusters": 1, "router.experts": 1, "router.active": 1}
ONE_EQUAL = SINGLE | {"model.channels": 24, "model.width": 104, "model.head_width": 224, "agent.width": 240}
STAGES = {
    **{"stages.count": 5, "stages.rank": 8, "stages.alpha": 4.0, "stages.first": 700, "stages.every": 500},
    # Not 1: the best policy's grid is at 0.9963 on some hundred episodes, by luck of their starts.
    "stages.target": 0.9,
    "evaluation.every": 1000,
}
BUDGET = STAGES | {"stages.target": math.inf, "evaluation.every": 5500}  # which decides nothing there
MIXTURE = {"model.width": 72}
VARIANTS = {  # what each changes
    "mow": {},
    "one": SINGLE,
    "one_equal": ONE_EQUAL,
    "scalezero": MIXTURE,
    "scalezero_mixture": MIXTURE,
    "scalezero_all": MIXTURE | {"model.gate_norm": "all"},
    "scalezero_dense": MIXTURE | {"model.feed_forward": "dense", "model.shared": 7},
    "scalezero_stages": STAGES | {"model.width": 60},
    "scalezero_kept": STAGES | {"model.width": 60, "stages.keep": 0.25},
    "scalezero_budget": BUDGET | {"model.width": 60},
}


def get_config(variant="mow"):
    """The toy suite at toy size. Raises BadInput for a variant that is none."""
    checks.variant(__file__, variant, VARIANTS)
    config = scalezero() if variant.startswith("scalezero") else mow()
    config.suite.update(name="toy", tasks=("toy5",), image_size=16)
    config.train.update(steps=11_000, envs=4)
    config.actors.workers = 0
    config.evaluation.update(episodes=100, parallel=20, every=5500)
    config.checkpoint.every = 4000
    config.update_from_flattened_dict(VARIANTS[variant])
    return config


def mow():
    """MoW's sizes for pictures of 16 pixels."""
    config = default("mow")
    config.warmup.update(steps=800, updates=300)
    config.batch.update(sequences=4, length=16)
    config.model.update(
        embedding=32,
        categoricals=8,
        classes=8,
        channels=16,
        norm="rms",
        activation="silu",
        posterior_scale=4.0,
        width=64,
        layers=1,
        shared_layers=1,
        heads=4,
        dropout=0.0,
        head_width=64,
        zero_heads=True,
    )
    config.router.update(experts=4, active=2)
    config.clustering.update(clusters=4, batches=4)
    config.optimizer.update(world_lr=1e-3, agent_lr=1e-3)
    config.agent.update(contexts=16, context=6, horizon=8, act_context=8, width=64, entropy=3e-2)
    return config


def scalezero():
    """ScaleZero's sizes and search for pictures of 16 pixels."""
    config = default("scalezero")
    config.train.update(burst=8, ratio=1.0)
    config.warmup.steps = 200
    # H as released: windows of six steps left half of the questions without their cue.
    config.batch.update(windows=8, unroll=10, steps=3)
    config.model.update(width=64, layers=2, heads=4, experts=4, dropout=0.0)
    # Patches wider than an object: each is normed by itself, so that one that is all white is as one that is all black.
    config.model.update(patch=8, vit_width=64, vit_layers=2, vit_heads=4, vit_head_width=16, vit_hidden=128)
    config.search.update(simulations=12, context=5, gamma=0.97)
    config.search.update(temperature_start=1.0, temperature_updates=2696)  # all updates of the run
    config.loss.entropy = 1e-2
    config.optimizer.lr = 1e-3
    config.log.gradients = True
    return config
