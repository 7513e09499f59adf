"""One continuous toy task, `slide`, on a CPU: push a block onto a target.

    python -m mow_jax.train --config=experiments/toy_slide.py --workdir=runs/toy_slide

Hardware: one CPU core, 8 minutes (results/toy_slide).
"""

import runpy
from pathlib import Path


def get_config():
    """experiments/toy.py for a task of continuous actions: finer latents, a lower rate, more updates, less entropy."""
    config = runpy.run_path(str(Path(__file__).with_name("toy.py")))["get_config"]()
    config.suite.tasks = ("slide",)
    config.train.update(steps=20_000, ratio=3.0)
    config.model.update(categoricals=16, classes=16)
    config.optimizer.world_lr = 6e-4
    config.agent.entropy = 3e-4
    config.evaluation.every = 10_000
    return config
