"""The ten tasks of MT10 from Meta-World's own 39 numbers, with the M3PO-style system (docs/m3po.md).

    python -m mow_jax.train --config=experiments/metaworld_mt10_state.py --workdir=runs/metaworld_mt10_state
    python -m mow_jax.train --config=experiments/metaworld_mt10_state.py:tdmpc2 --workdir=runs/metaworld_mt10_tdmpc2
    python -m mow_jax.train --config=experiments/metaworld_mt10_state.py:three --workdir=runs/metaworld_three_state

Hardware: an accelerator, and a host that simulates 80 environments; "three": two CPU cores, 3 hours planned. Sizes:
--dry_run. Not yet run.
"""

import runpy
from pathlib import Path


def get_config(variant="m3po"):
    """experiments/metaworld_mt50_state.py for ten tasks; "three": the tasks of experiments/metaworld_reach.py and one
    more, with a small model for a CPU."""
    make = runpy.run_path(str(Path(__file__).with_name("metaworld_mt50_state.py")))["get_config"]
    config = make("m3po" if variant == "three" else variant)
    config.suite.tasks = ("mt10",)
    config.batch.windows = 32
    if variant != "three":
        return config
    config.suite.tasks = ("reach-v3", "button-press-topdown-v3", "drawer-close-v3")
    config.suite.metaworld.update(action_repeat=4, horizon=125)
    config.train.update(steps=24_000, envs=4, ratio=2.0)
    config.warmup.steps = 2000
    config.batch.windows = 64
    config.model.update(latent=128, embedding=16, encoder=128, hidden=128, dropout=0.0)
    config.planner.update(samples=128, policy_samples=8, elites=16, iterations=4)
    config.fresh.minibatch = 32
    config.optimizer.lr = 1e-3
    config.evaluation.update(episodes=50, parallel=5, every=8000)
    config.checkpoint.every = 4000
    return config
