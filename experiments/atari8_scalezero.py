"""ScaleZero on eight Atari games at paper scale: one agent, 400k agent steps a game.

    python -m mow_jax.train --config=experiments/atari8_scalezero.py --workdir=runs/atari8_scalezero

Hardware: an estimate, not measured: one accelerator with 80 GB. --dry_run says what it takes.
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
