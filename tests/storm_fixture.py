"""The recorded numbers of the STORM reference, and the weights and inputs they came from, made again by their recipe.

Everything is drawn from named streams of the set's seed; weights have PyTorch's names and layouts. Used by
test_storm_parity.py.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PATH = Path(os.environ.get("MOW_PARITY_FIXTURE") or Path(__file__).parent / "fixtures" / "storm_small.npz")
CATEGORICALS = CLASSES = 32  # of a latent, in every set


class Sizes(NamedTuple):
    """What the JSON file says besides the parameters."""

    seed: int
    actions: int
    hidden: int
    layers: int
    heads: int
    batch: int
    agent_batch: int
    time: int
    max_length: int


class Window(NamedTuple):
    """Inputs of the world model."""

    observation: np.ndarray  # [B, T, 64, 64, 3] uint8
    action: np.ndarray  # [B, T]
    reward: np.ndarray  # [B, T]
    termination: np.ndarray  # [B, T] bool
    latent: np.ndarray  # [B, T, 32] class indices


class Rollouts(NamedTuple):
    """Inputs of actor and critics."""

    latent: np.ndarray  # [B, T + 1, 32] class indices
    hidden: np.ndarray  # [B, T + 1, D]
    action: np.ndarray  # [B, T]
    reward: np.ndarray  # [B, T]
    termination: np.ndarray  # [B, T] bool


class Recording(NamedTuple):
    """One set: sizes, {name: shape} of the parameters of each module, {key: recorded array}."""

    sizes: Sizes
    world: dict[str, tuple[int, ...]]
    agent: dict[str, tuple[int, ...]]
    expected: dict[str, np.ndarray]


def load(path: Path) -> Recording:
    """The set in an .npz file with its .json beside it."""
    described = json.loads(path.with_suffix(".json").read_text())
    shapes: dict[str, dict] = {"world_model": {}, "agent": {}}
    for parameter in described["parameters"]:
        shapes[parameter["module"]][parameter["name"]] = tuple(parameter["shape"])
    with np.load(path, allow_pickle=False) as arrays:
        expected = dict(arrays)
    sizes = Sizes(**{name: described[name] for name in Sizes._fields})
    return Recording(sizes, shapes["world_model"], shapes["agent"], expected)


def stream(sizes: Sizes, name: str) -> np.random.Generator:
    """The generator of a named stream."""
    digest = hashlib.sha256(f"{sizes.seed}:{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))


def weights(sizes: Sizes, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The parameters of a module, float32 in PyTorch's layout."""
    return {name: _weight(sizes, name, shape).astype(np.float32) for name, shape in shapes.items()}


def _weight(sizes: Sizes, name: str, shape: tuple[int, ...]) -> np.ndarray:
    noise = stream(sizes, name).standard_normal(shape)
    if name.endswith("bias"):
        return 0.1 * noise
    if len(shape) == 1:
        return 1 + 0.1 * noise
    if "pos_emb" in name:
        return 0.5 * noise
    transposed = len(shape) == 4 and name.startswith("image_decoder")
    return noise / np.sqrt(4 * shape[0] if transposed else np.prod(shape[1:]))


def window(sizes: Sizes) -> Window:
    """The world model's batch."""
    shape = (sizes.batch, sizes.time)
    return Window(
        observation=stream(sizes, "obs").integers(0, 256, (*shape, 64, 64, 3)).astype(np.uint8),
        action=stream(sizes, "action").integers(0, sizes.actions, shape).astype(np.int32),
        reward=(3 * stream(sizes, "reward").standard_normal(shape)).astype(np.float32),
        termination=stream(sizes, "termination").random(shape) < 0.2,
        latent=stream(sizes, "latent").integers(0, CLASSES, (*shape, CATEGORICALS)),
    )


def rollouts(sizes: Sizes) -> Rollouts:
    """The dream that actor and critics learn from."""
    shape, states = (sizes.agent_batch, sizes.time), (sizes.agent_batch, sizes.time + 1)
    return Rollouts(
        latent=stream(sizes, "agent_latent").integers(0, CLASSES, (*states, CATEGORICALS)),
        hidden=stream(sizes, "agent_hidden").standard_normal((*states, sizes.hidden)).astype(np.float32),
        action=stream(sizes, "agent_action").integers(0, sizes.actions, shape).astype(np.int32),
        reward=(2 * stream(sizes, "agent_reward").standard_normal(shape)).astype(np.float32),
        termination=stream(sizes, "agent_termination").random(shape) < 0.15,
    )


def gradient_numbers(sizes: Sizes, gradients: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """(key, value): of every gradient in PyTorch's layout its norm, and its product with its stream's direction."""
    for name, gradient in gradients.items():
        gradient = np.asarray(gradient, np.float64)
        direction = stream(sizes, f"dir:{prefix.replace('/', ':')}{name}").standard_normal(gradient.shape)
        yield f"{prefix}grad_norm/{name}", float(np.linalg.norm(gradient))
        yield f"{prefix}grad_dot/{name}", float((gradient * direction).sum())
