"""Atari 100k at paper scale: one agent, 26 games, 100k agent steps each.

    python -m mow_jax.train --config=experiments/atari26.py --workdir=runs/atari26

Hardware, by the compiler for an H100, not measured: 3 GB of state and batches and 10 GB of temporaries on the device
(231 M learned parameters), and 32 GB of replay on disk.
Not yet run at this scale; the paper reports a mean human-normalised score of 110.4 % and a median of 37.7 %.
"""

from mow_jax.config import default


def get_config():
    """The defaults are the paper's sizes, with the choices of docs/design.md."""
    config = default()
    config.evaluation.every = 25_000
    return config
