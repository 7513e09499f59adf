"""Thirteen tiny pixel tasks with one agent, on a CPU: like pictures with opposite rules, memory, rare and huge rewards.

    python -m mow_jax.train --config=experiments/toy13.py --workdir=runs/toy13
    python -m mow_jax.train --config=experiments/toy13.py:one --workdir=runs/toy13_one     (one cluster, one expert)

The other variants are the arms of experiments/toy.py, of as many learned parameters as MoW has here within 5%.
Hardware: one CPU core; 4 to 7 minutes for MoW, 12 to 18 for "one"; the others have not been run yet.
Measured: three seeds each, mean normalised score 0.863 for MoW and 0.885 for "one" (results/toy13).
"""

import runpy
from pathlib import Path

from mow_jax import checks

# One cluster fewer than there are tasks, so that grouping by cluster is not the same as knowing the task.
MOW = {"clustering.clusters": 12, "router.experts": 6, "router.active": 2, "model.channels": 8}
# "one": a single model of as many parameters, all tasks in it.
ONE = {"model.channels": 24, "model.width": 128, "model.head_width": 392, "agent.width": 384}
SCHEDULE = {"search.temperature_updates": 1544}  # all updates of the run
STAGES = SCHEDULE | {"model.width": 76, "stages.first": 400, "stages.every": 285, "evaluation.every": 640}
VARIANTS = {  # what each changes beside the variant of experiments/toy.py
    "mow": MOW,
    "one": ONE,
    "one_equal": ONE,  # its name in experiments/toy.py
    "scalezero_mixture": SCHEDULE | {"model.width": 88},
    "scalezero_all": SCHEDULE | {"model.width": 88},
    "scalezero_dense": SCHEDULE | {"model.width": 88},
    "scalezero_stages": STAGES,
    "scalezero_budget": STAGES | {"evaluation.every": 3200},  # more of them would decide nothing
}


def get_config(variant="mow"):
    """experiments/toy.py for thirteen tasks. Raises BadInput for a variant that is none."""
    checks.variant(__file__, variant, VARIANTS)
    config = runpy.run_path(str(Path(__file__).with_name("toy.py")))["get_config"](variant)
    config.suite.tasks = ("toy13",)
    config.train.steps = 6400
    config.evaluation.every = 3200
    config.update_from_flattened_dict(VARIANTS[variant])
    return config
