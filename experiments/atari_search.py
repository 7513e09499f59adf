"""The search for settings that learn four Atari games on one CPU core: a baseline, and one change to it at a time.

    python -m mow_jax.sweep --config=experiments/atari_search.py --variants=baseline,agent_lr,... --seeds=0,1,2 \
        --minutes=60 --workdir=runs/atari_search

Hardware: one CPU core a run. Variants are compared at equal time, hence --minutes.
Measured: results/atari_cpu/search.md; eight of these variants, one seed each (`latents`: two), most stopped early.
"""

from mow_jax import checks
from mow_jax.config import default

TOGETHER = {
    "batch.sequences": 4,
    "batch.length": 16,
    "loss.reward": 10.0,
    "agent.contexts": 32,
    "agent.context": 3,
    "optimizer.world_lr": 1e-3,
    "optimizer.agent_lr": 5e-4,
}
MEAN = TOGETHER | {"model.reward": "mean", "agent.entropy": 5e-3}
APART = MEAN | {"clustering.method": "identity", "router.experts": 4, "router.active": 2}
PATCHES = APART | {
    "model.autoencoder": "patches",
    "model.channels": 16,
    "model.posterior_scale": 8.0,
    "model.activation": "silu",
}
SLOW = PATCHES | {"train.ratio": 1.0, "agent.contexts": 16}
# What each variant changes. Predictions of all, outcomes of the eight that were run: results/atari_cpu/search.md.
VARIANTS = {
    "baseline": {},
    "agent_lr": {"optimizer.agent_lr": 1e-3},
    "agent_width": {"agent.width": 256},
    "entropy_high": {"agent.entropy": 3e-3},
    "unimix_off": {"agent.unimix": 0.0},
    "norm_rms": {"model.norm": "rms"},
    "windows_short": {"batch.sequences": 4, "batch.length": 16},
    "windows_more": {"batch.sequences": 4},
    "contexts_more": {"agent.contexts": 32},
    "horizon_short": {"agent.horizon": 8},
    "ratio_one": {"train.ratio": 1.0},
    "reward_weight": {"loss.reward": 10.0},
    "posterior_scale": {"model.posterior_scale": 4.0},
    "channels": {"model.channels": 16},
    "image_32": {"suite.image_size": 32, "model.channels": 16},
    "harmony_off": {"loss.harmony": "off", "optimizer.world_eps": 1e-8, "optimizer.world_clip": 1000.0},
    "positions_large": {"model.position_scale": 1.0},
    "router_gated": {"router.gate": "straight_through"},
    "router_table": {"router.mode": "table"},
    "together": TOGETHER,
    "together_mean": MEAN,
    "apart": APART,
    "small_batches": APART
    | {
        "train.ratio": 1.0,
        "batch.sequences": 1,
        "agent.contexts": 8,
        "agent.entropy": 3e-3,
        "optimizer.agent_lr": 3e-4,
        "model.posterior_scale": 4.0,
    },
    "apart_short": APART
    | {
        "batch.sequences": 8,
        "batch.length": 9,
        "agent.horizon": 5,
        "agent.act_context": 7,
        "agent.entropy": 3e-3,
        "model.posterior_scale": 4.0,
        "train.ratio": 0.35,
    },
    "patches": PATCHES,
    "patches_slow": SLOW,
    "latents": SLOW | {"model.categoricals": 32, "model.channels": 12},
    "one": {"clustering.method": "single", "router.experts": 1},
}


def get_config(variant="baseline"):
    """Four games, a small model, the baseline of the search with a variant's changes."""
    checks.variant(__file__, variant, VARIANTS)
    config = default()
    config.suite.tasks = ("Boxing", "RoadRunner", "CrazyClimber", "Assault")
    config.train.update(steps=50_000, ratio=0.5)
    config.warmup.update(steps=1024, updates=200)
    config.batch.update(sequences=2, length=32)
    config.model.update(embedding=32, categoricals=16, classes=16, channels=8, width=128, head_width=128)
    config.model.update(layers=1, shared_layers=1, heads=4, dropout=0.0, zero_heads=True)
    config.router.update(experts=2, active=1)
    config.clustering.clusters = 2
    config.optimizer.update(world_lr=6e-4, agent_lr=3e-4)
    config.agent.update(contexts=16, context=4, horizon=12, act_context=8, width=128, entropy=1e-3)
    config.actors.workers = 0
    config.evaluation.update(episodes=10, parallel=5, every=5000)
    config.update_from_flattened_dict(VARIANTS[variant])
    return config
