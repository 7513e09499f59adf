"""One continuous toy task, `slide`, on a CPU: push a block onto a target.

    python -m mow_jax.train --config=experiments/toy_slide.py --workdir=runs/toy_slide
    python -m mow_jax.train --config=experiments/toy_slide.py:m3po --workdir=runs/toy_slide_m3po
    python -m mow_jax.train --config=experiments/toy_slide.py:m3po_pixels --workdir=runs/toy_slide_pixels
    python -m mow_jax.train --config=experiments/toy_slide.py:m3po_sparse --workdir=runs/toy_slide_sparse

Hardware: one CPU core, 8 minutes (results/toy_slide). The others are of the M3PO-style system (docs/m3po.md), two tasks
that only experience tells apart; one task with a sparse reward.
"""

import runpy
from pathlib import Path

from mow_jax.config import default
from mow_jax.config.m3po import preset


def m3po(variant):
    """Planning for `slide` and `slide_swap` from states or pixels, or for `slide_sparse` from states."""
    config = preset(default("m3po"), "m3po")
    tasks = ("slide_sparse",) if variant == "m3po_sparse" else ("slide", "slide_swap")
    config.suite.update(name="toy", tasks=tasks, image_size=16)
    config.suite.observation = "pixels" if variant == "m3po_pixels" else "state"
    config.train.update(steps=8000, envs=4, ratio=2.0)
    config.warmup.steps = 400
    config.batch.windows = 64
    config.model.update(latent=64, embedding=8, encoder=64, hidden=64, channels=16, dropout=0.0, termination=False)
    config.planner.update(samples=64, policy_samples=8, elites=8, iterations=4)
    config.fresh.minibatch = 32
    config.optimizer.lr = 1e-3
    config.actors.workers = 0
    config.evaluation.update(episodes=100, parallel=20, every=4000)
    config.checkpoint.every = 4000
    return config


def get_config(variant="mow"):
    """experiments/toy.py for a task of continuous actions: finer latents, a lower rate, more updates, less entropy."""
    if variant != "mow":
        return m3po(variant)
    config = runpy.run_path(str(Path(__file__).with_name("toy.py")))["get_config"]()
    config.suite.tasks = ("slide",)
    config.train.update(steps=20_000, ratio=3.0)
    config.model.update(categoricals=16, classes=16)
    config.optimizer.world_lr = 6e-4
    config.agent.entropy = 3e-4
    config.evaluation.every = 10_000
    return config
