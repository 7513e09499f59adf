"""Two robot tasks, reach and button press, learned from pixels by one small agent on a CPU within the hour.

    python -m mow_jax.train --config=experiments/metaworld_reach.py --workdir=runs/metaworld_reach

Hardware: two CPU cores, no GPU.
"""

from mow_jax.config import default


def get_config():
    """Meta-World with four simulated steps an agent step, episodes of 60 agent steps, and a small model."""
    config = default()
    config.suite.name = "metaworld"
    config.suite.tasks = ("reach-v3", "button-press-topdown-v3")
    config.suite.metaworld.update(render_quality="fast", action_repeat=4, horizon=60)
    config.train.update(steps=16_000, ratio=0.75)
    config.warmup.update(steps=1200, updates=400)
    config.batch.update(sequences=2, length=32)
    config.model.update(
        embedding=32,
        categoricals=16,
        classes=16,
        channels=8,
        width=128,
        layers=1,
        shared_layers=1,
        heads=4,
        dropout=0.0,
        head_width=128,
        zero_heads=True,
    )
    config.router.update(experts=4, active=2)
    config.clustering.update(clusters=2, batches=4)
    config.optimizer.update(world_lr=1e-3, agent_lr=3e-4)
    config.agent.update(contexts=16, context=4, horizon=12, act_context=8, width=128, entropy=1e-3)
    config.evaluation.update(episodes=50, parallel=5)
    config.checkpoint.every = 2000
    return config
