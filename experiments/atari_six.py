"""Six Atari games with one small agent on a CPU core, enough to be grouped in several ways (docs/first_experiments.md).

    python -m mow_jax.train --config=experiments/atari_six.py --workdir=runs/atari_six

Hardware: one CPU core, some hours (an estimate, not measured).
Not yet run at its length, so no score is claimed; its warm-ups and 5,000 steps of a gated router have been
(results/ablations, results/first_experts).
"""

import runpy
from pathlib import Path


def get_config():
    """The search's baseline on two games each of balls and bats, of shooting, and of roads and ladders."""
    config = runpy.run_path(str(Path(__file__).with_name("atari_search.py")))["get_config"]()
    config.suite.tasks = ("Pong", "Breakout", "Assault", "DemonAttack", "RoadRunner", "CrazyClimber")
    config.train.steps = 20_000
    config.router.update(experts=6, active=2)
    config.clustering.clusters = 6
    return config
