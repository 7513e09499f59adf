"""Boxing and RoadRunner with one agent of either system, on one CPU core: the same games, steps, environments, updates
a step, episodes and checkpoints.

    python -m mow_jax.sweep --config=experiments/atari_two.py --workdir=runs/atari_two \
        --variants=mow,one_equal,scalezero_mixture,scalezero_dense

"mow" has the settings of experiments/atari_cpu.py, so a cluster and two experts of each game's own: nothing is
grouped, nor routed. "one_equal" has one cluster and one expert of as many parameters. The search is Gumbel MuZero's:
the paper's rule, made for 50 simulations, tries 2.3 of these games' 18 actions in the 12 that a core affords
(docs/scalezero.md). "scalezero_budget" grows by updates alone: the paper's targets of these games, 12.1 and 7,845,
are the human scores, and MoW's Boxing has gone to twice that; an arm that stops a game at its target cannot be set
beside arms that go on. Each system keeps its own rewards in training, ScaleZero their signs.
Hardware: one CPU core; not yet run. By arithmetic 0.4 hours for "mow" and 1.6 for "scalezero_mixture", a dense arm 1.8:
some 9,000 updates of 129 and 499 ms of a core (shared with other work, by a script that was not kept, before experts
multiplied blocks of their own tokens), 9,000 joint steps of 4 and 63 ms, and an evaluation of at most 7,200 steps, of
five environments a game (it counts them as one each: of ScaleZero's searches it has so too few).
"""

import math
import runpy
from pathlib import Path

from mow_jax import checks
from mow_jax.config import default

ONE_EQUAL = {
    **{"clustering.method": "single", "router.experts": 1, "router.active": 1},
    **{"model.channels": 20, "model.width": 208, "model.head_width": 192, "agent.width": 192},
}
BUDGET = {"count": 5, "rank": 8, "alpha": 4.0, "first": 2400, "every": 1600, "target": math.inf}
VARIANTS = {  # what each changes
    "mow": {},
    "one_equal": ONE_EQUAL,
    "scalezero_mixture": {},
    "scalezero_dense": {"model.feed_forward": "dense", "model.shared": 7},
    "scalezero_budget": {"model.width": 128} | {f"stages.{key}": value for key, value in BUDGET.items()},
}


def get_config(variant="mow"):
    """Raises BadInput for a variant that is none."""
    checks.variant(__file__, variant, VARIANTS)
    config = scalezero() if variant.startswith("scalezero") else _mow()
    config.suite.tasks = ("Boxing", "RoadRunner")
    config.train.update(steps=10_000, envs=1, ratio=1.0)
    config.warmup.steps = 1024
    config.actors.workers = 0
    config.evaluation.update(episodes=20, parallel=5, every=0)
    config.checkpoint.every = 2500
    config.update_from_flattened_dict(VARIANTS[variant])
    return config


def _mow():
    return runpy.run_path(str(Path(__file__).with_name("atari_cpu.py")))["get_config"]()


def scalezero():
    """ScaleZero's sizes and search for one core."""
    config = default("scalezero")
    config.train.burst = 8
    config.batch.update(windows=4, unroll=10, steps=5)
    config.model.update(width=140, layers=2, heads=4, experts=4, dropout=0.0)
    config.model.update(vit_width=96, vit_layers=2, vit_heads=4, vit_head_width=24, vit_hidden=256)
    config.search.update(method="gumbel", simulations=12, considered=8, context=4)  # of 16 tried none is looked behind
    config.optimizer.lr = 6e-4
    config.log.gradients = True
    return config
