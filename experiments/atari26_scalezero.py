"""ScaleZero on Atari's 26 games at paper scale: one agent, 400k agent steps a game (its table of 26 games is of 100k).

    python -m mow_jax.train --config=experiments/atari26_scalezero.py --workdir=runs/atari26_scalezero
    python -m mow_jax.train --config=experiments/atari26_scalezero.py:stages --workdir=...     (a backbone that grows)

Beside MoW or that table give --config.train.steps=100000 (of ":stages" the first switch is then out of reach).
Hardware: not measured: 239 GB of scratch memory for an update on one device in float32 (--dry_run, commit 2619ffa), so
several accelerators of 80 GB, which share the tasks; 132 GB of replay on disk.
Not yet run at this scale; no score is claimed.
"""

from mow_jax import checks
from mow_jax.config import default


def get_config(variant="whole"):
    """The defaults are the setting of the paper's runs; "stages": half the layers, and adapters in five stages."""
    checks.variant(__file__, variant, ("whole", "stages"))
    config = default("scalezero")
    config.evaluation.every = 20_000
    if variant == "stages":
        config.model.layers = 4
        config.stages.count = 5
    return config
