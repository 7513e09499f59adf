"""All 50 tasks of Meta-World from pixels with one agent at the paper's scale: 300k steps a task, 15 million in all.

    python -m mow_jax.train --config=experiments/metaworld_mt50.py --workdir=runs/metaworld_mt50

Hardware: an accelerator, a host whose cores render 50 environments, some 185 GB of disk for replay (by arithmetic);
sizes: --dry_run. Not yet run at this scale.
"""

from mow_jax.config import default


def get_config():
    """MT50 for as many steps as the paper's; what it does not say of the robots is ours (docs/protocol.md)."""
    config = default()
    config.suite.name = "metaworld"
    config.suite.tasks = ("mt50",)
    config.train.steps = 300_000
    config.warmup.steps = 1000  # two episodes
    config.evaluation.update(episodes=50, parallel=1)
    return config
