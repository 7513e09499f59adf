"""Atari 100k at paper scale: one agent, 26 games, 100k agent steps each.

    python -m mow_jax.train --config=experiments/atari26.py --workdir=runs/atari26

Hardware: an estimate, not measured: one accelerator with 80 GB or more (246 M parameters; 32 GB of replay on disk).
Not yet run at this scale; the paper reports a mean human-normalised score of 110.4 % and a median of 37.7 %.
"""

from mow_jax.config import default


def get_config():
    """The defaults are the paper's setting."""
    config = default()
    config.evaluation.every = 25_000
    return config
