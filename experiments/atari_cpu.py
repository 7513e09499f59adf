"""Four Atari games with one agent on one CPU core, at most 50,000 agent steps a game and 8 core-hours.

    python -m mow_jax.train --config=experiments/atari_cpu.py --workdir=runs/atari_cpu
    python -m mow_jax.train --config=experiments/atari_cpu.py:others --workdir=runs/atari_cpu_others    (unseen games)

Settings from the search in results/atari_cpu: an autoencoder a game, rewards read as their mean and weighted up.
Hardware: one CPU core; 5 to 7 hours, an estimate.
Not yet run to its end; no score is claimed.
"""

import runpy
from pathlib import Path

GAMES = {
    "four": ("Boxing", "RoadRunner", "CrazyClimber", "Assault"),
    "others": ("UpNDown", "Jamesbond", "Freeway", "MsPacman"),  # never looked at while the settings were sought
}


def get_config(games="four"):
    """`apart` of the search with an update a step and half of its contexts."""
    config = runpy.run_path(str(Path(__file__).with_name("atari_search.py")))["get_config"]("apart")
    config.suite.tasks = GAMES[games]
    config.train.ratio = 1.0
    config.agent.contexts = 16
    config.model.posterior_scale = 4.0
    config.evaluation.update(episodes=20, parallel=5, every=0)
    return config
