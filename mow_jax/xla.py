"""What XLA's compiler is asked for. Used by learner and summary, by notebooks and by the tests."""

from __future__ import annotations

import jaxlib

# The older of two generators of CPU code takes half the time, for programs that are slower by some percent
# (docs/performance.md). From jaxlib 0.12 on there is one, and no such option.
OLDER_GENERATOR = {"xla_cpu_use_fusion_emitters": False} if jaxlib.version.__version_info__ < (0, 12) else {}


def options(platform: str, often: bool) -> dict[str, int | bool] | None:
    """`compiler_options` of a program for this platform that runs `often`, or takes longer to compile than to run."""
    if platform != "cpu":
        return None
    # On CPUs level 1 compiles in half the time of the default and runs as fast.
    return {"xla_backend_optimization_level": 1} if often else {"xla_backend_optimization_level": 0} | OLDER_GENERATOR
