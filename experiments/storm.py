"""STORM itself: the same code with one game, one cluster, one expert, no shared Transformer and no embedding.

    python -m mow_jax.train --config=experiments/storm.py --workdir=runs/storm                     (Pong)
    python -m mow_jax.train --config=experiments/storm.py:Boxing --workdir=runs/storm_boxing
    python -m mow_jax.train --config=experiments/storm.py:small/Boxing --workdir=...               (for a CPU)

Hardware: one GPU; "small": one CPU core. STORM's published scores are in `python -m mow_jax.report --scores`; this port
has not yet been run at full length.
"""

from mow_jax import checks
from mow_jax.config import default


def get_config(variant="Pong"):
    """STORM mode on a game: every choice that MoW changed is set back, but for acting's context (docs/design.md);
    "small/GAME": with small networks."""
    size, _, game = variant.rpartition("/")
    checks.variant(__file__, variant, (game, f"small/{game}"))
    config = default()
    config.suite.tasks = (game,)
    config.batch.update(sequences=16, length=64)
    config.model.update(embedding=0, shared_layers=0, position_scale=1.0)
    config.router.update(experts=1, active=1)
    config.clustering.update(method="single", clusters=1)
    config.warmup.updates = 0
    config.train.overlap = False  # an action is of the newest weights
    config.loss.update(task=0.0, balance=0.0, harmony="off", mask_boundaries=False)
    config.optimizer.update(world_eps=1e-8, world_clip=1000.0, world_update_clip=0.0)  # losses are not divided
    config.agent.update(
        contexts=1024, act_on="prior", bootstrap="current", continuation="hard", weights=False, return_init="zero"
    )
    config.agent.unimix = 0.0
    return small(config) if size == "small" else config


def small(config):
    """The sizes of experiments/atari_search.py, and four windows where it has two."""
    config.train.update(steps=10_000, ratio=0.5)
    config.batch.update(sequences=4, length=32)
    config.model.update(categoricals=16, classes=16, channels=8, width=128, layers=1, heads=4, head_width=128)
    config.optimizer.update(world_lr=6e-4, agent_lr=3e-4)
    config.agent.update(contexts=16, context=4, horizon=12, act_context=8, width=128, entropy=1e-3)
    config.actors.workers = 0
    config.evaluation.update(episodes=10, parallel=5)
    return config
