"""The toy suite, briefly: no ROM, no GL, no accelerator.

    python -m mow_jax.train --config=experiments/demo.py --workdir=runs/demo      (or: make demo)

Hardware: two CPU cores, about a minute once installed.
No score is claimed; experiments/toy.py is the learning run.
"""

import runpy
from pathlib import Path


def get_config():
    """experiments/toy.py with a short schedule."""
    config = runpy.run_path(str(Path(__file__).with_name("toy.py")))["get_config"]()
    config.suite.tasks = ("catch", "catch_swap", "grid")
    config.train.steps = 1600
    config.warmup.updates = 50
    config.evaluation.update(episodes=20, every=0)
    config.log.every = 20
    return config
