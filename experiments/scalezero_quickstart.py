"""ScaleZero on two Atari games in minutes on a CPU: a first look, not a result.

    python -m mow_jax.train --config=experiments/scalezero_quickstart.py --workdir=runs/scalezero_quickstart

Hardware: two CPU cores, some two minutes (no run was kept).
Expected: random scores or worse, of episodes cut at 500 steps.
"""

from mow_jax.config import default


def get_config():
    """The Atari setting with a small model, few simulations and a short schedule."""
    config = default("scalezero")
    config.suite.tasks = ("Pong", "Boxing")
    config.train.update(steps=1280, envs=4, burst=8, ratio=0.5)
    config.warmup.steps = 256
    config.batch.update(windows=4, unroll=6, steps=3)
    config.model.update(width=64, layers=2, heads=4, experts=4, dropout=0.0)
    config.model.update(vit_width=64, vit_layers=2, vit_heads=4, vit_head_width=16, vit_hidden=128)
    config.search.update(method="gumbel", simulations=12, context=4)  # Boxing has 18 actions
    config.optimizer.lr = 1e-3
    config.actors.workers = 0
    config.evaluation.update(episodes=2, parallel=2, max_steps=500)
    config.checkpoint.every = 640
    config.log.every = 10
    return config
