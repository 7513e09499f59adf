"""Thirteen tiny pixel tasks with one agent, on a CPU: like pictures with opposite rules, memory, rare and huge rewards.

    python -m mow_jax.train --config=experiments/toy13.py --workdir=runs/toy13
    python -m mow_jax.train --config=experiments/toy13.py:one --workdir=runs/toy13_one     (one cluster, one expert)

Hardware: one CPU core; 4 to 7 minutes for MoW, 12 to 18 for "one".
Measured: three seeds each, mean normalised score 0.863 for MoW and 0.885 for "one" (results/toy13).
"""

import runpy
from pathlib import Path


def get_config(variant="mow"):
    """experiments/toy.py for thirteen tasks; "one": a single model of as many parameters, all tasks in it."""
    config = runpy.run_path(str(Path(__file__).with_name("toy.py")))["get_config"](variant)
    config.suite.tasks = ("toy13",)
    config.train.steps = 6400
    config.evaluation.every = 3200
    if variant == "one":
        config.model.update(channels=24, width=128, head_width=392)
        config.agent.width = 384
        return config
    # One cluster fewer than there are tasks, so that grouping by cluster is not the same as knowing the task.
    config.clustering.clusters = 12
    config.router.update(experts=6, active=2)
    config.model.channels = 8
    return config
