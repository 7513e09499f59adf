"""Thirteen tiny pixel tasks with one agent, on a CPU: like pictures with opposite rules, memory, rare and huge rewards.

    python -m mow_jax.train --config=experiments/toy13.py --workdir=runs/toy13

Hardware: one CPU core.
Measured: not yet.
"""

import runpy
from pathlib import Path


def get_config():
    """experiments/toy.py for thirteen tasks."""
    config = runpy.run_path(str(Path(__file__).with_name("toy.py")))["get_config"]()
    config.suite.tasks = ("toy13",)
    config.router.update(experts=6, active=2)
    # One cluster fewer than there are tasks, so that grouping by cluster is not the same as knowing the task.
    config.clustering.clusters = 12
    return config
