"""Five tiny pixel tasks with one agent, on a CPU.

    python -m mow_jax.train --config=experiments/toy.py --workdir=runs/toy
    python -m mow_jax.train --config=experiments/toy.py:one --workdir=runs/toy_one     (one cluster, one expert)

Hardware: one CPU core, 3 to 5 minutes (results/toy).
Expected: mean normalised score 0.95 or more, no task under 0.82 (ten seeds).
"""

from mow_jax.config import default


def get_config(variant="mow"):
    """The toy suite at toy size; "one": all tasks on one set of rows and one expert, of the same sizes."""
    config = default()
    config.suite.name = "toy"
    config.suite.tasks = ("toy5",)
    config.suite.image_size = 16
    config.train.update(steps=11_000, envs=4)
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
    config.actors.workers = 0
    config.evaluation.update(episodes=100, parallel=20, every=5500)
    config.checkpoint.every = 4000
    if variant == "one":
        config.clustering.update(method="single", clusters=1)
        config.router.update(experts=1, active=1)
    return config
