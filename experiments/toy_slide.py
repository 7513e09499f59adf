"""One continuous toy task, `slide`, on a CPU: push a block onto a target.

    python -m mow_jax.train --config=experiments/toy_slide.py --workdir=runs/toy_slide
    python -m mow_jax.train --config=experiments/toy_slide.py:m3po --workdir=runs/toy_slide_m3po
    python -m mow_jax.train --config=experiments/toy_slide.py:m3po_pixels --workdir=runs/toy_slide_pixels
    python -m mow_jax.sweep --config=experiments/toy_slide.py --seeds=0,1,2,3,4 --workdir=runs/bonus \
        --variants=sparse_tdmpc2,sparse_acts,sparse_none,sparse_clipped,sparse_reward

Hardware: one CPU core, 8 minutes (results/toy_slide). The others are of the M3PO-style system (docs/m3po.md): two
tasks that only experience tells apart, from states (0.97 after 5 minutes of a core, three seeds, results/m3po) or
pixels (0.94 after 11); one task with a sparse reward, which few random episodes meet, to compare bonus and trust region
(no effect shown, five seeds: results/m3po/bonus).
"""

import runpy
from pathlib import Path

from mow_jax import checks
from mow_jax.config import default

PAIR, SPARSE = ("slide", "slide_swap"), ("slide_sparse",)
SEEN = {"m3po": "state", "m3po_pixels": "pixels"}
SPARSE_VARIANTS = {  # weight of a step on fresh rows, bonus
    "sparse_tdmpc2": (0.0, "none"),  # neither trust region nor bonus; all environments plan
    "sparse_acts": (1e-6, "none"),  # half of them act by the bare policy, which learns nothing from it
    "sparse_none": (1.0, "none"),  # the trust region alone
    "sparse_clipped": (1.0, "clipped"),
    "sparse_reward": (1.0, "reward"),
}
VARIANTS = ("mow", *SEEN, *SPARSE_VARIANTS)


def small():
    """Small networks and few action sequences, in rounds of 32 joint steps."""
    config = default("m3po")
    config.suite.update(name="toy", image_size=16, observation="state")
    config.train.update(steps=8000, envs=4, ratio=2.0)
    config.warmup.update(steps=400, updates=200)
    config.batch.windows = 64
    config.model.update(latent=64, embedding=8, encoder=64, hidden=64, channels=16, dropout=0.0, termination=False)
    config.planner.update(samples=64, policy_samples=8, elites=8, iterations=4)
    config.fresh.minibatch = 32
    config.optimizer.update(lr=1e-3, target_rate=0.02)
    config.actors.workers = 0
    config.evaluation.update(episodes=100, parallel=20, every=4000)
    config.checkpoint.every = 4000
    return config


def sparse(weight, kind):
    """The ablation of bonus and trust region: a fresh round moves the policy about as far as the updates from replay
    between two rounds do, and a policy stays wide enough for ratios to stay in the trust region."""
    config = small()
    config.suite.tasks = SPARSE
    config.train.steps = 12_000
    config.evaluation.every = 1000
    config.model.update(embedding=0, log_std_min=-2.0)
    config.fresh.update(weight=weight, share=0.5, minibatch=8, kl=0.05)
    config.bonus.update(kind=kind, beta=0.5)
    return config


def get_config(variant="mow"):
    """experiments/toy.py for a task of continuous actions: finer latents, a lower rate, more updates, less entropy."""
    checks.variant(__file__, variant, VARIANTS)
    if variant in SPARSE_VARIANTS:
        return sparse(*SPARSE_VARIANTS[variant])
    if variant in SEEN:
        config = small()
        config.suite.update(tasks=PAIR, observation=SEEN[variant])
        if SEEN[variant] == "pixels":
            # Drawn to whole pixels: of 16 they leave a third of one to guess on either axis: 0.07 of the score, in a
            # simulation that was not kept.
            config.suite.image_size = 32
            # Twice the updates on half the rows, and rewards that say more to the encoder: with what numbers do with,
            # the model was slow to see where things are, and one seed of three stayed at 0.74 (results/m3po).
            config.train.update(steps=11_000, ratio=4.0)
            config.batch.windows = 32
            config.loss.reward = 0.5
        return config
    config = runpy.run_path(str(Path(__file__).with_name("toy.py")))["get_config"]()
    config.suite.tasks = ("slide",)
    config.train.update(steps=20_000, ratio=3.0)
    config.model.update(categoricals=16, classes=16)
    config.optimizer.world_lr = 6e-4
    config.agent.entropy = 3e-4
    config.evaluation.every = 10_000
    return config
