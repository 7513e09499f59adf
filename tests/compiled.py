"""Compiles what runs a few times and is not worth optimising."""

from __future__ import annotations

import functools
import os
from unittest import mock

import jax

from mow_jax import xla

# The suite for GPUs runs parity there.
OPTIONS = xla.options("gpu" if "cuda" in os.environ.get("JAX_PLATFORMS", "") else "cpu", often=False)
quick = functools.partial(jax.jit, compiler_options=OPTIONS)


def hastily():
    """A context in which learners take all their programs for such."""
    return mock.patch.object(xla, "options", return_value=OPTIONS)
