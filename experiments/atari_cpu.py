"""Four Atari games with one agent on one CPU core, at most 50,000 agent steps a game and 8 core-hours.

    python -m mow_jax.train --config=experiments/atari_cpu.py --workdir=runs/atari_cpu
    python -m mow_jax.train --config=experiments/atari_cpu.py:others --workdir=runs/atari_cpu_others

`:others` are four games that nobody looked at while the settings were sought; `:one` has nothing modular; `:Boxing` and
so on are agents of one game each. `:one`, and the four agents of a game taken together, have the parameters of the four
games' agent within 2%, moving averages of critics counted (4% for `:one` without them). Settings from the search in
results/atari_cpu: an autoencoder of patches a game, rewards read as their mean and weighted up.
Hardware: one CPU core, 3 to 4 hours; an agent of one game 1 to 1.6; ":one" 5.
Measured: the four games, two seeds: 0.99 and 0.74 of a human in the mean, `:one` 0.02, the four agents 0.77, `:others`
0.002, with loss.inverse and warmup.hold 0.028, one seed each (results/atari_cpu). `make watch` shows the first agent.
"""

import runpy
from pathlib import Path

from mow_jax import checks

FOUR = ("Boxing", "RoadRunner", "CrazyClimber", "Assault")
OTHERS = ("UpNDown", "Jamesbond", "Freeway", "MsPacman")
GAMES = {"four": FOUR, "others": OTHERS, "one": FOUR} | {game: (game,) for game in FOUR}
SINGLE = {"clustering.method": "single", "router.experts": 1, "router.active": 1}
ONE = SINGLE | {"model.channels": 26, "model.width": 288, "model.head_width": 256, "agent.width": 256}
SEPARATE = SINGLE | {"model.width": 112, "model.head_width": 96, "agent.width": 96}


def get_config(variant="four"):
    """`latents` of the search on the games of a variant: MoW, one cluster with one expert, or a game by itself."""
    checks.variant(__file__, variant, GAMES)
    config = runpy.run_path(str(Path(__file__).with_name("atari_search.py")))["get_config"]("latents")
    config.suite.tasks = GAMES[variant]
    config.evaluation.update(episodes=20, parallel=5, every=0)
    if variant == "one" or variant in FOUR:
        config.update_from_flattened_dict(ONE if variant == "one" else SEPARATE)
    return config
