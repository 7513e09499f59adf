"""The picture of a foreign environment: chosen once, then every frame is held against what it is said to be.

In: spaces and frames of others. Out: [H, W, 3] uint8 frames, or a refusal with source, kind and range. Called by
envs/gymnasium.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from mow_jax.envs.foreign import numbers
from mow_jax.types import BadInput

WIDEST = 65535  # between a picture's bounds: 16 bits. A space with more means "any number"
NEEDED = "image observations (uint8, HxWx3 or HxW; other numbers: HxWx3 or HxWx1 within bounds) or rgb_array rendering"


class Picture(NamedTuple):
    """Where an environment's frames come from, and what they are said to be."""

    task: str
    space: spaces.Box | None  # of the observations; None: they are rendered
    why: str
    plain: bool  # uint8 frames are levels already: nothing to check, nothing to scale

    @property
    def source(self) -> str:
        return "observation" if self.space else "rgb_array rendering"

    @property
    def text(self) -> str:
        """For the first screen."""
        return f"its {self.source}, {self.said()} ({self.why})"

    def said(self) -> str:
        """What every frame should be."""
        if self.space is None:
            return "uint8 (H, W, 3) in 0..255"
        low, high = self.space.low.min(), self.space.high.max()
        return f"{self.space.dtype} {self.space.shape} in {low:g}..{high:g}"

    def frame(self, given: Any, first: bool = False) -> np.ndarray:
        """`given` as [H, W, 3] uint8: its bounds become 0 and 255, a grey picture gets three equal channels.

        `first`: of this environment nothing but zeros has been seen before. Raises BadInput for what is not as said.
        """
        array = numbers(given)
        if array is None or not self._shaped(array.shape) or (first and self._is_black(array)):
            raise self._refusal(given)
        levels = array if self.plain and array.dtype == np.uint8 else self._scaled(array)
        if levels.ndim == 2 or levels.shape[2] == 1:
            levels = np.repeat(levels.reshape(*levels.shape[:2], 1), 3, axis=2)
        return levels

    def _shaped(self, shape: tuple[int, ...]) -> bool:
        return shape == self.space.shape if self.space else _is_picture(shape)

    def _is_black(self, array: np.ndarray) -> bool:
        """Whether its numbers are in 0..1 where larger ones are announced: a picture that nobody could see. All zeros
        say nothing, and later in an episode a dark frame may be a true one."""
        high = self.space.high.max() if self.space else 255
        return high > 1 and 0 < array.max() <= 1

    def _scaled(self, array: np.ndarray) -> np.ndarray:
        low, high = (self.space.low, self.space.high) if self.space else (np.zeros(1), np.full(1, 255))
        low, high = low.astype(np.float64), high.astype(np.float64)
        levels = np.rint((array - low) * (255 / np.where(high > low, high - low, 1)))
        kinds = "iuf" if self.space and self.space.dtype.kind == "f" else "iu"
        kinds += "b" if high.max() <= 1 else ""
        if array.dtype.kind not in kinds or not ((levels >= 0) & (levels <= 255)).all():
            raise self._refusal(array)
        return levels.astype(np.uint8)

    def _refusal(self, given: Any) -> BadInput:
        announced = "its observation space says" if self.space else "rendering should give"
        return BadInput(
            f"{self.task}: its {self.source} is {described(given)}, where {announced} {self.said()}: give frames as"
            " said" + (", or a space that says what is given" if self.space else "")
        )


def choose(task: str, space: Any, render_modes: Any) -> Picture:
    """Observations that are uint8 pictures; else rendering; else observations that are pictures of other numbers.

    Raises BadInput where there is none of these.
    """
    image = isinstance(space, spaces.Box) and _is_picture(space.shape)
    if image and space.dtype == np.uint8:
        whole = bool((space.low == 0).all() and (space.high == 255).all())
        return Picture(task, space, "a picture as it is" if whole else "scaled to 0..255", whole)
    if "rgb_array" in (render_modes or ()):
        return Picture(task, None, f"its observations are {_kind(space)}, no uint8 picture", True)
    if image and len(space.shape) == 3 and _span(space) <= WIDEST:
        return Picture(task, space, "scaled to 0..255, as there is no rgb_array rendering", False)
    raise BadInput(f"{task} has no picture: its observations are {_kind(space)}, and it needs {NEEDED}")


def described(given: Any) -> str:
    """Kind, shape and range of what should be a frame."""
    array = numbers(given)
    if array is None:
        return "None" if given is None else f"a {type(given).__name__}, no array of numbers"
    if not array.size:
        return f"{array.dtype} {array.shape}"
    return f"{array.dtype} {array.shape} in {float(array.min()):g}..{float(array.max()):g}"


def _span(space: spaces.Box) -> float:
    """Between its bounds; infinite where it has none."""
    with np.errstate(over="ignore"):
        return float((space.high.astype(np.float64) - space.low.astype(np.float64)).max())


def _is_picture(shape: tuple[int, ...]) -> bool:
    return (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))) and 0 not in shape


def _kind(space: Any) -> str:
    return f"{space.dtype} {space.shape}" if isinstance(space, spaces.Box) else f"a {type(space).__name__}"
