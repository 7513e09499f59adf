"""STORM itself: the same code with one game, one cluster, one expert, no shared Transformer and no embedding.

    python -m mow_jax.train --config=experiments/storm.py --workdir=runs/storm --config.suite.tasks="('Pong',)"

Hardware: one GPU. STORM's published scores are in `python -m mow_jax.report --scores`; this port has not yet been run
at full length.
"""

from mow_jax.config import default


def get_config():
    """STORM mode: every choice that MoW changed is set back."""
    config = default()
    config.suite.tasks = ("Pong",)
    config.batch.update(sequences=16, length=64)
    config.model.update(embedding=0, shared_layers=0, position_scale=1.0)
    config.router.update(experts=1, active=1)
    config.clustering.update(method="single", clusters=1)
    config.warmup.updates = 0
    config.loss.update(task=0.0, balance=0.0, harmony="off", mask_boundaries=False)
    config.optimizer.update(world_eps=1e-8, world_clip=1000.0)  # losses are not divided
    config.agent.update(
        contexts=1024, act_on="prior", bootstrap="current", continuation="hard", weights=False, return_init="zero"
    )
    config.agent.unimix = 0.0
    return config
