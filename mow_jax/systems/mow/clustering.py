"""Gradient vectors to a task table, and the file `clusters.json` that holds it.

In: {layer: [K, V]} for the perceptual ("cluster") and the temporal ("experts") parameters. Out: Clusters. Called by
warmup and build; the file can be edited or handed to another run (`clustering.table`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mow_jax import files
from mow_jax.systems.mow.types import Table
from mow_jax.types import BadInput

METHODS = ("agglomerative", "kmeans", "spectral", "shuffled", "random", "single", "identity", "file")
VECTORS = ("layer_mean", "layer_scalar", "projection", "module_projection")
GRADIENT_METHODS = METHODS[:3]  # of which groups are found; "shuffled" needs gradients for their sizes alone


class Clusters(NamedTuple):
    """A task table and where it comes from."""

    tasks: list[str]
    table: Table
    method: str
    seed: int
    similarity: dict[str, Any]  # {"cluster": [K, K] or None, "experts": the same}


def unit_vectors(layers: dict[str, np.ndarray]) -> np.ndarray:
    """One vector a task [K, V]: the layers' vectors at unit norm each, side by side."""
    scaled = [v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in layers.values()]
    return np.concatenate(scaled, axis=1).astype(np.float64)


def cosine(vectors: np.ndarray) -> np.ndarray:
    """Cosine similarities [K, K] of vectors [K, V]."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return np.clip(unit @ unit.T, -1.0, 1.0)


def group(vectors: np.ndarray | None, tasks: int, groups: int, method: str, seed: int) -> np.ndarray:
    """Labels [K] in 0..groups-1, none empty when groups <= K, numbered by first appearance."""
    groups = min(groups, tasks)
    if method == "identity":
        return np.arange(tasks) % groups
    if groups == 1 or method == "single":
        return np.zeros(tasks, int)
    if method == "random":
        order = np.random.Generator(np.random.Philox(seed)).permutation(tasks)
        return _renumber(np.argsort(order) % groups)
    if groups == tasks:
        return np.arange(tasks)
    assert vectors is not None, method
    if method == "shuffled":  # a control: groups of the sizes that the gradients' have with this seed, tasks by lot
        labels = group(vectors, tasks, groups, "agglomerative", seed)
        return _renumber(np.random.Generator(np.random.Philox(seed)).permutation(labels))
    return _renumber(_fill_empty(_fit(vectors, groups, method, seed), cosine(vectors), groups))


def _fit(vectors: np.ndarray, groups: int, method: str, seed: int) -> np.ndarray:
    """Labels by scikit-learn on cosine similarity."""
    from sklearn import cluster  # slow to import, and needed once a run

    similarity = cosine(vectors)
    if method == "agglomerative":
        model = cluster.AgglomerativeClustering(groups, metric="precomputed", linkage="average")
        return model.fit_predict(1 - similarity)
    if method == "spectral":
        model = cluster.SpectralClustering(
            groups, affinity="precomputed", random_state=seed, assign_labels="cluster_qr"
        )
        return model.fit_predict((1 + similarity) / 2)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return cluster.KMeans(groups, n_init=10, random_state=seed).fit_predict(unit)


def _fill_empty(labels: np.ndarray, similarity: np.ndarray, groups: int) -> np.ndarray:
    """Moves the task least like its own group into each empty group."""
    labels = labels.copy()
    for missing in sorted(set(range(groups)) - set(labels.tolist())):
        same = labels[:, None] == labels[None, :]
        fit = np.where(same, similarity, 0).sum(1) / same.sum(1)
        movable = same.sum(1) > 1
        labels[np.where(movable, fit, np.inf).argmin()] = missing
    return labels


def _renumber(labels: np.ndarray) -> np.ndarray:
    """The same grouping, numbered by first appearance: equal groupings give equal files."""
    seen: dict[int, int] = {}
    return np.array([seen.setdefault(int(label), len(seen)) for label in labels])


def expert_table(
    vectors: np.ndarray | None, tasks: int, experts: int, active: int, method: str, seed: int
) -> np.ndarray:
    """Experts [K, n_k]: a task's own group first, then the groups whose mean gradient is nearest to it."""
    first = group(vectors, tasks, experts, method, seed)
    used = int(first.max()) + 1
    nearness = np.zeros((tasks, experts))
    nearness[:, used:] = -2.0  # rows that no group has come last
    if vectors is not None:
        means = np.stack([vectors[first == g].mean(0) for g in range(used)])
        nearness[:, :used] = cosine(np.concatenate([vectors, means]))[:tasks, tasks:]
    nearness[np.arange(tasks), first] = 2.0
    return np.argsort(-nearness, axis=1, kind="stable")[:, :active]


def cluster_tasks(
    names: list[str],
    layers: dict[str, dict[str, np.ndarray]] | None,
    *,
    clusters: int,
    experts: int,
    active: int,
    method: str,
    seed: int,
) -> Clusters:
    """The table from per-layer gradient vectors (None for the methods that need no gradients)."""
    parts = {name: unit_vectors(part) for name, part in layers.items()} if layers else {}
    tasks = len(names)
    table = Table(
        group(parts.get("cluster"), tasks, clusters, method, seed),
        expert_table(parts.get("experts"), tasks, experts, active, method, seed),
    )
    similarity = {part: cosine(parts[part]) if parts else None for part in ("cluster", "experts")}
    return Clusters(names, table, method, seed, similarity)


def write(path: Path, clusters: Clusters) -> None:
    """Writes clusters.json, whole or not at all."""
    plain = lambda x: None if x is None else np.round(np.asarray(x), 6).tolist()
    content = {
        "tasks": clusters.tasks,
        "cluster": np.asarray(clusters.table.cluster).tolist(),
        "experts": np.asarray(clusters.table.experts).tolist(),
        "method": clusters.method,
        "seed": clusters.seed,
        "similarity": {part: plain(matrix) for part, matrix in clusters.similarity.items()},
    }
    _replace(path, content)


def write_experts(path: Path, experts: np.ndarray) -> None:
    """Brings the experts [K, n_k] in clusters.json up to date: a router may go on selecting after the warm-up.

    Raises BadInput where the file is damaged.
    """
    try:
        content = json.loads(path.read_text())
        old = content["experts"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is damaged ({error!r}): restore it, or remove it to go on without it") from None
    if old != experts.tolist():
        _replace(path, content | {"experts": experts.tolist()})


def _replace(path: Path, content: dict) -> None:
    with files.whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def read(path: str | Path, names: list[str], *, clusters: int, experts: int, active: int) -> Clusters:
    """The table of a clusters.json, its rows matched to `names` by task name.

    Raises BadInput where the file is no such table or does not fit the run.
    """
    try:
        content = json.loads(Path(path).read_text())
        rows = {name: i for i, name in enumerate(content["tasks"])}
        cluster, chosen = np.array(content["cluster"]), np.array(content["experts"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(
            f"clustering.table={path} cannot be read as a task table ({error!r}): give a clusters.json"
        ) from None
    missing = [name for name in names if name not in rows]
    if missing:
        raise BadInput(
            f"clustering.table={path} has no row for {', '.join(missing)}; it knows {', '.join(map(str, rows))}"
        )
    _check(path, "cluster", cluster, (len(rows),), clusters, "clustering.clusters")
    _check(path, "experts", chosen, (len(rows), active), experts, "router.experts (and router.active entries a task)")
    if any(len(set(row)) < active for row in chosen.tolist()):
        raise BadInput(
            f"clustering.table={path}: a task names the same expert twice; give {active} different ones each"
        )
    order = [rows[name] for name in names]
    try:
        matrices, seed = content.get("similarity", {}), int(content.get("seed", 0))
        similarity = {part: _submatrix(matrices.get(part), len(rows), order) for part in ("cluster", "experts")}
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise BadInput(
            f'clustering.table={path}: "similarity" must hold a matrix {(len(rows),) * 2} a part, "seed" a whole number'
            f" ({error!r}); mend or remove them"
        ) from None
    return Clusters(names, Table(cluster[order], chosen[order]), "file", seed, similarity)


def _check(path, field: str, values: np.ndarray, shape: tuple, limit: int, key: str) -> None:
    whole = values.shape == shape and values.dtype.kind == "i"
    if not whole or values.min() < 0 or values.max() >= limit:
        raise BadInput(
            f'clustering.table={path}: "{field}" must be whole numbers 0..{limit - 1} of shape {shape}, it has shape'
            f" {values.shape} and values {values.ravel().tolist()[:20]}; mend the file or set {key}"
        )


def _submatrix(matrix: Any, tasks: int, order: list[int]) -> np.ndarray | None:
    """The rows and columns of `order`. Raises ValueError or TypeError where it is no [tasks, tasks] of numbers: only
    after the warm-up it is written again."""
    if matrix is None:
        return None
    numbers = np.array(matrix)
    if numbers.shape != (tasks, tasks) or numbers.dtype.kind not in "iuf":
        raise ValueError(f"{numbers.dtype} {numbers.shape}")
    return numbers[np.ix_(order, order)]
