"""Mixture-of-World Models: one agent that learns many tasks from pixels.

Users call `load_agent` and `make_env`; both load on first use, so that importing the package never imports jax.
"""

from __future__ import annotations

__all__ = ["__version__", "load_agent", "make_env"]

__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    if name in ("load_agent", "make_env"):
        from mow_jax import load

        return getattr(load, name)
    raise AttributeError(f"module 'mow_jax' has no attribute {name!r}")
