"""Large arrays whose memory is used again once nobody has them: fresh memory costs a page fault every few kilobytes.

Called by replay.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import weakref

import numpy as np


class Memory:
    """Uninitialised arrays of bytes. Whoever holds one, or a view of it, keeps its memory: a device that reads from it
    too, as jax refers to what it still needs."""

    def __init__(self):
        self._free: dict[int, list[np.ndarray]] = {}  # by size: what nobody has

    def empty(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array [*shape] uint8, at the beginning of a page, of any content."""
        size = max(math.prod(shape), 1)
        free = self._free.setdefault(size, [])
        lease = _Lease(free.pop() if free else _pages(size))
        weakref.finalize(lease, free.append, lease.memory).atexit = False
        return np.asarray(lease)[: math.prod(shape)].reshape(shape)


class _Lease:
    """What an array and all views of it refer to (numpy passes by arrays in between, but not by this)."""

    def __init__(self, memory: np.ndarray):
        self.memory, self.__array_interface__ = memory, memory.__array_interface__


def _pages(size: int) -> np.ndarray:
    """Fresh memory [size], in large pages where the system has them."""
    pages = mmap.mmap(-1, size)
    with contextlib.suppress(AttributeError, OSError):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)
