"""The toy suite, briefly: no ROM, no GL, no accelerator.

    python -m mow_jax.train --config=experiments/demo.py --workdir=runs/demo      (or: make demo)

Hardware: two CPU cores, two minutes once installed.
Measured: mean normalised score 0.82, 0.95 and 0.94, three seeds (docs/results.md).
"""

import runpy
from pathlib import Path


def get_config():
    """experiments/toy.py with a short schedule."""
    config = runpy.run_path(str(Path(__file__).with_name("toy.py")))["get_config"]()
    config.suite.tasks = ("catch", "catch_swap", "grid")
    config.train.steps = 4800
    config.warmup.updates = 200
    config.evaluation.update(episodes=20, every=0)
    config.log.every = 20
    return config
