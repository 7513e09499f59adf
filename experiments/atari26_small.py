"""Atari 100k for one consumer GPU: 26 games, half the width, fewer rows.

    python -m mow_jax.train --config=experiments/atari26_small.py --workdir=runs/atari26_small

Hardware: an estimate, not measured: one GPU with 16 GB or more.
Not yet run at this scale; no score is claimed. Four games at half this width have been learned on a CPU
(experiments/atari_cpu.py): with an autoencoder of patches and rewards read as their mean by heads that start at zero,
which are worth a trial here.
"""

from mow_jax.config import default


def get_config():
    """The paper's setting with smaller networks and batches."""
    config = default()
    config.model.update(channels=16, width=256, head_width=256)
    config.router.experts = 6
    config.clustering.clusters = 6
    config.batch.update(sequences=2, length=64)
    config.agent.update(contexts=32, width=256)
    config.evaluation.every = 25_000
    return config
