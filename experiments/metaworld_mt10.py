"""The ten tasks of MT10 from pixels with one agent: the setting of MT50, with fewer clusters and experts.

    python -m mow_jax.train --config=experiments/metaworld_mt10.py --workdir=runs/metaworld_mt10

Hardware: one accelerator and a host whose cores render ten environments; sizes: --dry_run. Not yet run at this scale.
"""

from mow_jax.config import default


def get_config():
    """MT10 at the paper's model width."""
    config = default()
    config.suite.name = "metaworld"
    config.suite.tasks = ("mt10",)
    config.train.steps = 300_000
    config.warmup.steps = 1000  # two episodes
    config.router.update(experts=5, active=2)
    config.clustering.clusters = 5
    config.evaluation.update(episodes=50, parallel=2)
    return config
