"""Numbers recorded from a public code, in tests/fixtures/NAME_parity.npz or the file that NAME_PARITY_FIXTURE names."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parent / "fixtures"


@functools.cache
def recorded(fixture: str) -> dict[str, np.ndarray]:
    """All arrays of a fixture."""
    path = os.environ.get(f"{fixture.upper()}_PARITY_FIXTURE") or FIXTURES / f"{fixture}_parity.npz"
    with np.load(path) as arrays:
        return dict(arrays)


def part(fixture: str, name: str, what: str) -> dict[str, np.ndarray]:
    """The arrays "name/what/..." by the rest of their key."""
    start = f"{name}/{what}/"
    return {key.removeprefix(start): value for key, value in recorded(fixture).items() if key.startswith(start)}
