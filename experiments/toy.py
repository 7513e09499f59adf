"""Five tiny pixel tasks with one agent, on a CPU.

    python -m mow_jax.train --config=experiments/toy.py --workdir=runs/toy
    python -m mow_jax.train --config=experiments/toy.py:one --workdir=runs/toy_one     (one cluster, one expert)
    python -m mow_jax.train --config=experiments/toy.py:scalezero --workdir=runs/toy_scalezero

Hardware: one CPU core, 3 to 5 minutes (results/toy); "scalezero": about 12 minutes on a shared core.
Expected: mean normalised score 0.95 or more, no task under 0.82 (ten seeds); "scalezero": 0.999 (one seed).
"""

from mow_jax.config import default


def get_config(variant="mow"):
    """The toy suite at toy size; "one": all tasks on one set of rows and one expert; "scalezero": tree search."""
    config = default("scalezero" if variant == "scalezero" else "mow")
    config.suite.name = "toy"
    config.suite.tasks = ("toy5",)
    config.suite.image_size = 16
    config.train.update(steps=11_000, envs=4)
    config.actors.workers = 0
    config.evaluation.update(episodes=100, parallel=20, every=5500)
    config.checkpoint.every = 4000
    if variant == "scalezero":
        return scalezero(config)
    config.warmup.update(steps=800, updates=300)
    config.batch.update(sequences=4, length=16)
    config.model.update(
        embedding=32,
        categoricals=8,
        classes=8,
        channels=16,
        norm="rms",
        activation="silu",
        posterior_scale=4.0,
        width=64,
        layers=1,
        shared_layers=1,
        heads=4,
        dropout=0.0,
        head_width=64,
        zero_heads=True,
    )
    config.router.update(experts=4, active=2)
    config.clustering.update(clusters=4, batches=4)
    config.optimizer.update(world_lr=1e-3, agent_lr=1e-3)
    config.agent.update(contexts=16, context=6, horizon=8, act_context=8, width=64, entropy=3e-2)
    if variant == "one":
        config.clustering.update(method="single", clusters=1)
        config.router.update(experts=1, active=1)
    return config


def scalezero(config):
    """Its sizes and search for pictures of 16 pixels."""
    config.train.update(burst=8, ratio=1.0)
    config.warmup.steps = 200
    config.batch.update(windows=8, unroll=6, steps=3)
    config.model.update(width=64, layers=2, heads=4, experts=4, dropout=0.0)
    config.model.update(patch=4, vit_width=64, vit_layers=2, vit_heads=4, vit_head_width=16, vit_hidden=128)
    config.search.update(simulations=12, context=5, gamma=0.97, temperature_start=1.0, temperature_updates=5000)
    config.loss.update(entropy=1e-2, smoothing=0.0)
    config.optimizer.lr = 1e-3
    return config
