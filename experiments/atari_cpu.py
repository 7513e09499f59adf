"""Four Atari games with one agent on one CPU core, at most 50,000 agent steps a game and 8 core-hours.

    python -m mow_jax.train --config=experiments/atari_cpu.py --workdir=runs/atari_cpu
    python -m mow_jax.train --config=experiments/atari_cpu.py:others --workdir=runs/atari_cpu_others    (unseen games)

Settings from the search in results/atari_cpu: an autoencoder of patches a game, rewards read as their mean and weighted
up. Hardware: one CPU core; 3 to 4 hours, an estimate.
Not yet run to its end; no score is claimed.
"""

import runpy
from pathlib import Path

GAMES = {
    "four": ("Boxing", "RoadRunner", "CrazyClimber", "Assault"),
    "others": ("UpNDown", "Jamesbond", "Freeway", "MsPacman"),  # never looked at while the settings were sought
}


def get_config(games="four"):
    """`latents` of the search."""
    config = runpy.run_path(str(Path(__file__).with_name("atari_search.py")))["get_config"]("latents")
    config.suite.tasks = GAMES[games]
    config.evaluation.update(episodes=20, parallel=5, every=0)
    return config
