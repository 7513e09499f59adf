"""Random streams by name: every sampler and environment derives its seed from the run's one seed and its own name."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_of(root: int, *names: object) -> int:
    """A 32-bit seed for the stream called `names` of the run seeded `root`; the same names give the same seed."""
    text = ":".join(str(part) for part in (root, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def generator(root: int, *names: object) -> np.random.Generator:
    """A fresh numpy generator for the stream called `names`."""
    return np.random.Generator(np.random.Philox(seed_of(root, *names)))
