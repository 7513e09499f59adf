"""One continuous toy task, `slide`, on a CPU: push a block onto a target.

    python -m mow_jax.train --config=experiments/toy_slide.py --workdir=runs/toy_slide
    python -m mow_jax.train --config=experiments/toy_slide.py:m3po --workdir=runs/toy_slide_m3po
    python -m mow_jax.train --config=experiments/toy_slide.py:m3po_pixels --workdir=runs/toy_slide_pixels
    python -m mow_jax.sweep --config=experiments/toy_slide.py --seeds=0,1,2,3,4 --workdir=runs/bonus \
        --variants=sparse_clipped,sparse_reward,sparse_none,sparse_tdmpc2

Hardware: one CPU core, 8 minutes (results/toy_slide). The others are of the M3PO-style system (docs/m3po.md): two tasks
that only experience tells apart, from states (0.97 after 3 minutes of a core, one seed, results/m3po) or pixels (not
run yet); one task with a sparse reward (not run yet).
"""

import runpy
from pathlib import Path

from mow_jax.config import default
from mow_jax.config.m3po import preset

PAIR, SPARSE = ("slide", "slide_swap"), ("slide_sparse",)
VARIANTS = {  # tasks, what is seen of them, preset, bonus
    "m3po": (PAIR, "state", "m3po", "clipped"),
    "m3po_pixels": (PAIR, "pixels", "m3po", "clipped"),
    "sparse_clipped": (SPARSE, "state", "m3po", "clipped"),
    "sparse_reward": (SPARSE, "state", "m3po", "reward"),
    "sparse_none": (SPARSE, "state", "m3po", "none"),  # the trust region alone
    "sparse_tdmpc2": (SPARSE, "state", "tdmpc2", "none"),  # neither
}


def m3po(tasks, seen, name, bonus):
    """Small networks and few action sequences; every variant learns in rounds of 32 joint steps."""
    config = preset(default("m3po"), name)
    config.bonus.kind = bonus
    config.suite.update(name="toy", tasks=tasks, image_size=16, observation=seen)
    config.train.update(steps=8000, envs=4, ratio=2.0, burst=32)
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
        return m3po(*VARIANTS[variant])
    config = runpy.run_path(str(Path(__file__).with_name("toy.py")))["get_config"]()
    config.suite.tasks = ("slide",)
    config.train.update(steps=20_000, ratio=3.0)
    config.model.update(categoricals=16, classes=16)
    config.optimizer.world_lr = 6e-4
    config.agent.entropy = 3e-4
    config.evaluation.every = 10_000
    return config
