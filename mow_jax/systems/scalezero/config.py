"""Every key of ScaleZero with its default (26 Atari games); `dynamic` are the changes that make it ScaleZero-DPS.

Imports no jax. Keys that all systems share are not here, but for the values that this one needs of them.
"""

from __future__ import annotations

from typing import Any


def defaults() -> dict[str, dict[str, Any]]:
    """Sections and their keys."""
    return dict(
        train=dict(
            envs=8,
            burst=20,  # joint steps collected between rounds of learning: 160 steps a task ...
            ratio=4.0,  # ... and then 80 updates
            steps=400_000,
            overlap=False,
        ),
        batch=dict(
            windows=19,  # B, a task
            unroll=10,  # H, steps of a window that are learned
            steps=5,  # n of the value target: a window has H + n rows
        ),
        model=dict(
            compute_dtype="auto",
            width=768,  # D
            layers=8,
            heads=24,
            feed_forward="mixture",  # or "dense": multi-task UniZero
            experts=8,  # N_e
            active=1,  # k, experts a token
            shared=1,  # experts that are always on
            gate_norm="topk",  # softmax over the chosen (with active=1 the gate learns nothing); "all": over all
            encoder="vit",  # or "convolution"
            patch=8,  # pixels
            vit_width=768,
            vit_layers=6,  # 12 with vit_heads=12, vit_hidden=3072: "base"
            vit_heads=6,
            vit_head_width=64,
            vit_hidden=2048,
            channels=32,  # of the convolution encoder's first block
            dropout=0.1,
            bins=101,  # integers around zero, on MuZero's scale; odd
        ),
        search=dict(
            simulations=50,
            context=4,  # L, steps that acting and search attend to; less than batch.unroll
            method="puct",  # or "gumbel"
            c1=1.25,
            c2=19652.0,
            value_range=0.01,
            alpha=0.3,  # Dirichlet noise on the root's prior; 0 < alpha
            fraction=0.25,  # of the prior; 0: no noise
            temperature=0.25,
            temperature_start=0.25,
            temperature_updates=0,
            considered=16,  # actions that "gumbel" tries at the root
            gamma=0.997,
        ),
        loss=dict(
            latent=10.0,
            reward=1.0,
            value=0.5,
            policy=1.0,
            entropy=1e-4,  # taken away
            smoothing=0.1,  # of the categories of value and reward
        ),
        optimizer=dict(lr=1e-4, decay=1e-4, clip=5.0, target_rate=0.05),
        stages=dict(
            count=1,  # S; 1: no adapters
            rank=64,
            alpha=32.0,
            first=50_000,  # updates
            every=20_000,  # updates
            target=1.0,  # normalised score of a solved task
        ),
    )


DYNAMIC = dict(stages=dict(count=5), model=dict(layers=4))  # ScaleZero-DPS

TOY = dict(  # two cores, pictures of 16 pixels
    train=dict(envs=4, burst=8, ratio=1.0, steps=11_000),
    batch=dict(windows=8, unroll=6, steps=3),
    model=dict(width=64, layers=2, heads=4, experts=4, patch=4, vit_width=64, vit_layers=2, vit_heads=4, dropout=0.0)
    | dict(vit_head_width=16, vit_hidden=128),
    search=dict(simulations=12, context=5, gamma=0.97, temperature_start=1.0, temperature_updates=5000),
    loss=dict(entropy=1e-2, smoothing=0.0),
    optimizer=dict(lr=1e-3),
)
