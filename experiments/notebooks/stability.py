"""Do seeds agree on who belongs together? Every method and reduction of the gradients from ONE warm-up a seed.

    python experiments/notebooks/stability.py --experiment=toy13 --clusters=3,6 --seeds=0,1,2,3,4 --out=DIR

Writes DIR/stability.md and stability.json (every grouping). Beside them: groups of equal sizes, and of agglomerative's
own sizes, both by lot; and what groups of a row's sizes agree by chance.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import study
from sklearn.metrics import adjusted_rand_score

from mow_jax import origin
from mow_jax.summary import versions
from mow_jax.systems.mow import clustering

LOT = ("random", "shuffled")  # by lot: what agreement there is by chance alone


def groupings(gradients, tasks, groups):
    """{(method, reduction): {seed: labels [K]}} of gradients {seed: {reduction: {part: {layer: [K, V]}}}}."""
    found: dict[tuple[str, str], dict[int, Any]] = {}
    for seed, reduced in gradients.items():
        for vector, parts in reduced.items():
            unit = clustering.unit_vectors(parts["cluster"])
            for method in (*clustering.GRADIENT_METHODS, *LOT):
                by_lot = method in LOT and vector != clustering.VECTORS[0]
                if not by_lot:  # once is enough
                    labels = clustering.group(unit, tasks, groups, method, seed)
                    found.setdefault((method, "-" if method in LOT else vector), {})[seed] = labels
    return found


def agreement(labels):
    """(mean, lowest, highest) adjusted Rand index of all pairs of seeds' groupings."""
    pairs = [adjusted_rand_score(one, other) for one, other in itertools.combinations(labels.values(), 2)]
    return float(np.mean(pairs)), float(min(pairs)), float(max(pairs))


def by_chance(labels):
    """The middle 95% of the mean agreement of these groupings' sizes, tasks in them by lot, two hundred times."""
    rng = np.random.default_rng(0)
    drawn = [agreement({seed: rng.permutation(x) for seed, x in labels.items()})[0] for _ in range(200)]
    return np.percentile(drawn, (2.5, 97.5))


def table(found):
    """Markdown: a row a method and reduction."""
    count = len(next(iter(found.values())))
    pairs = count * (count - 1) // 2
    rows = [
        f"| method | reduction | agreement of {count} seeds | range of {pairs} pairs | by chance, 95% of means | sizes,"
        " seed by seed |",
        "|---|---|---|---|---|---|",
    ]
    for (method, vector), labels in found.items():
        mean, low, high = agreement(labels)
        chance = "{:.2f} to {:.2f}".format(*by_chance(labels))
        sizes = ", ".join("+".join(map(str, sorted(np.bincount(x).tolist(), reverse=True))) for x in labels.values())
        rows.append(f"| {method} | {vector} | {mean:.2f} | {low:.2f} to {high:.2f} | {chance} | {sizes} |")
    return "\n".join(rows) + "\n"


def main(arguments):
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="toy13", help="a file of experiments/, without .py, of MoW")
    parser.add_argument("--clusters", default="3", help="how many groups, a table each")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="two or more")
    parser.add_argument("--out", type=Path, required=True, help="folder of stability.md and stability.json")
    options = parser.parse_args(arguments)
    seeds, counts = ([int(x) for x in text.split(",")] for text in (options.seeds, options.clusters))
    if len(seeds) < 2:
        parser.error(f"--seeds={options.seeds}: agreement needs two seeds or more")
    options.out.mkdir(parents=True, exist_ok=True)  # what cannot be written then could not be at the end
    made = study.Study(study.ROOT / (study.MANY if study.TINY else f"experiments/{options.experiment}.py"))
    begun, gradients = origin.commit(), {}
    for seed in seeds:
        made.begin(seed)
        made.warm(made.config.warmup.updates)
        gradients[seed] = made.reductions(clustering.VECTORS)
        print(f"seed {seed}: {made.config.warmup.updates} updates", flush=True)
    by_count = {count: groupings(gradients, len(made.names), count) for count in counts}
    text = "\n".join(
        f"{count} groups of {len(made.names)} tasks:\n\n{table(found)}" for count, found in by_count.items()
    )
    (options.out / "stability.md").write_text(text)
    held = {"experiment": options.experiment, "tasks": made.names, "seeds": seeds}
    held |= {"commit": begun, "versions": versions(), "warmup": made.config.warmup.to_dict()}
    held["groupings"] = [
        {"clusters": count, "method": method, "reduction": vector, "labels": [labels[seed].tolist() for seed in seeds]}
        for count, found in by_count.items()
        for (method, vector), labels in found.items()
    ]
    (options.out / "stability.json").write_text(json.dumps(held, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
