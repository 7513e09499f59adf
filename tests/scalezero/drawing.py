"""Parameters drawn by numpy in the shapes of a real initialisation, none of them zero: compiling that one takes longer
than the tests that need it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def parameters(init: Callable[[], Any], seed: int = 0) -> Any:
    """A pytree like that of `init`: matrices by their fan-in, norms around one, adapters as they start."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name, adapter = path[-1].key, path[0].key == "adapters"
        x = rng.normal(size=leaf.shape).astype(np.float32)
        if adapter:
            return 0.01 * x if name == "down" else 0 * x
        if name in ("scale", "bias"):
            return (name == "scale") + 0.1 * x
        return x * np.float32(leaf.shape[-2] ** -0.5)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init))


def grown(params: Any, seed: int = 0) -> Any:
    """The parameters with adapters that have learned: none of them is zero, and they count beside what they add to."""
    rng = np.random.default_rng(seed)
    adapters = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params["adapters"])
    return params | {"adapters": adapters}
