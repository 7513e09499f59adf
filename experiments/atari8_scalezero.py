"""ScaleZero on eight Atari games at paper scale: one agent, 400k agent steps a game.

    python -m mow_jax.train --config=experiments/atari8_scalezero.py --workdir=runs/atari8_scalezero

Hardware: not measured: 248 GB of scratch memory for an update on one device in float32 (--dry_run, commit 2619ffa), so
several accelerators of 80 GB, which share the tasks; 41 GB of replay on disk.
Not yet run at this scale; no score is claimed.
"""

from mow_jax.config import default

GAMES = ("Pong", "MsPacman", "Seaquest", "Boxing", "Alien", "ChopperCommand", "Hero", "RoadRunner")


def get_config():
    """The defaults are the setting for 26 games; eight take larger batches of each."""
    config = default("scalezero")
    config.suite.tasks = GAMES
    config.batch.windows = 64
    config.evaluation.every = 20_000
    return config
