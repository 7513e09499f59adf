"""All 50 tasks of Meta-World from its own 39 numbers, with the M3PO-style system (docs/m3po.md).

    python -m mow_jax.train --config=experiments/metaworld_mt50_state.py --workdir=runs/metaworld_mt50_state
    python -m mow_jax.train --config=experiments/metaworld_mt50_state.py:tdmpc2 --workdir=runs/metaworld_mt50_tdmpc2

Hardware: an accelerator, and a host that simulates 400 environments; sizes: --dry_run. Not yet run at this scale.
"""

from mow_jax import checks
from mow_jax.config import default
from mow_jax.config.m3po import PRESETS, preset


def get_config(variant="m3po"):
    """The sizes of TD-MPC2's 5 M model; the variant is a preset. Nothing is rendered."""
    checks.variant(__file__, variant, PRESETS)
    config = preset(default("m3po"), variant)
    config.suite.metaworld.update(action_repeat=2, horizon=250)
    config.train.update(steps=400_000, envs=8)
    config.warmup.update(steps=4000, updates=500)  # two episodes of every environment
    config.model.termination = False
    config.evaluation.update(episodes=50, parallel=2)
    return config
