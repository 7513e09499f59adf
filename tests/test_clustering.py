"""Gradients to a task table: planted groups come back, no group is empty, and misfits in the file are refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from mow_jax.ops.gradients import layer_vectors
from mow_jax.systems.mow import clustering
from mow_jax.systems.mow.clustering import GRADIENT_METHODS
from mow_jax.types import BadInput

PLANTED = np.array([0, 1, 0, 2, 1, 2, 0, 2])
NAMES = [f"task{i}" for i in range(len(PLANTED))]
SIZES = dict(clusters=3, experts=4, active=2)


def planted_layers(labels: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Gradient vectors of two layers whose lengths differ a thousandfold and more, between tasks and between layers."""
    rng = np.random.default_rng(seed)
    layers = {}
    for name, size, length in (("kernel", 40, 1e3), ("bias", 12, 1e-3)):
        centres = rng.normal(size=(labels.max() + 1, size))
        noise = rng.normal(size=(len(labels), size))
        layers[name] = length * rng.uniform(1, 1000, (len(labels), 1)) * (centres[labels] + 0.4 * noise)
    return layers


def made(**changes: Any) -> clustering.Clusters:
    layers = {"cluster": planted_layers(PLANTED), "experts": planted_layers(PLANTED[::-1].copy())}
    return clustering.cluster_tasks(NAMES, layers, **(SIZES | dict(method="agglomerative", seed=0) | changes))


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_planted_groups_come_back_whatever_the_size_of_a_gradient(method: str):
    clusters = made(method=method, experts=3)
    np.testing.assert_array_equal(clusters.table.cluster, PLANTED)  # planted in the order of first appearance
    np.testing.assert_array_equal(clusters.table.experts[:, 0], clustering._renumber(PLANTED[::-1]))


def test_one_number_a_layer_keeps_the_layers_proportions():
    """Two layers whose means are 5 and 12 for one task, 12 and 5 for the other, 5 and -12 for the third."""
    means = {"kernel": np.array([5.0, 12.0, 5.0]), "bias": np.array([12.0, 5.0, -12.0])}
    gradients = {
        "kernel": means["kernel"][:, None, None] + np.array([[2.0, -1], [-4, 3]]),
        "bias": means["bias"][:, None],
    }
    vectors = clustering.unit_vectors(
        {k: np.asarray(v) for k, v in layer_vectors(gradients, "layer_scalar", 0, 0).items()}
    )
    expected = np.array([[1, 120 / 169, -119 / 169], [120 / 169, 1, 0], [-119 / 169, 0, 1]])
    np.testing.assert_allclose(clustering.cosine(vectors), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")  # k-means says so where tasks are equal
@pytest.mark.parametrize("method", [*GRADIENT_METHODS, "shuffled", "random", "identity"])
@pytest.mark.parametrize("groups", [2, 5, 7, 8, 12])
def test_no_group_is_empty_and_they_are_numbered_by_first_appearance(method: str, groups: int):
    vectors = clustering.unit_vectors(planted_layers(PLANTED))
    vectors[PLANTED == 0] = vectors[0]  # three tasks with the very same gradient
    labels = clustering.group(vectors, len(PLANTED), groups, method, seed=3)
    appearance = list(dict.fromkeys(labels.tolist()))
    assert appearance == list(range(min(groups, len(PLANTED))))


def test_an_empty_group_gets_the_task_least_like_its_own():
    vectors = np.array([[1.0, 0], [1, 0.1], [1, -0.1], [0, 1], [0.6, 0.8]])
    labels = clustering._fill_empty(np.array([0, 0, 0, 2, 0]), clustering.cosine(vectors), 3)
    np.testing.assert_array_equal(labels, [0, 0, 0, 2, 1])


def test_random_groups_depend_on_the_seed_and_are_of_equal_size():
    draws = [clustering.group(None, 26, 12, "random", seed).tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert set(np.bincount(draws[0])) == {2, 3}


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_groups_are_of_the_sizes_of_the_gradients_and_of_other_tasks(seed: int):
    labels = np.repeat([0, 1, 2, 3], [7, 3, 2, 1])  # groups by gradients are seldom of equal size
    layers = {part: planted_layers(labels, seed) for part in ("cluster", "experts")}
    names = [f"task{i}" for i in range(13)]

    def grouped(method: str, seed: int = seed) -> np.ndarray:
        made = clustering.cluster_tasks(names, layers, clusters=4, experts=4, active=2, method=method, seed=seed)
        return made.table.cluster

    sizes = lambda labels: sorted(np.bincount(labels).tolist())
    assert sizes(grouped("shuffled")) == sizes(grouped("agglomerative")) == [1, 2, 3, 7]
    assert sizes(grouped("random")) == [3, 3, 3, 4]
    assert (
        adjusted_rand_score(grouped("shuffled"), labels)
        < 0.5
        < 1.0
        == adjusted_rand_score(grouped("agglomerative"), labels)
    )
    np.testing.assert_array_equal(grouped("shuffled"), grouped("shuffled"))
    assert (grouped("shuffled") != grouped("shuffled", seed + 10)).any()


def test_a_tasks_experts_are_its_own_group_then_the_nearest_others():
    angle = np.deg2rad([0, 2, 50, 52, 170, 172])
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    table = clustering.expert_table(vectors, 6, 3, 3, "agglomerative", 0)
    np.testing.assert_array_equal(table, [[0, 1, 2], [0, 1, 2], [1, 0, 2], [1, 0, 2], [2, 1, 0], [2, 1, 0]])
    few = clustering.expert_table(
        vectors[::2], 3, 5, 4, "agglomerative", 0
    )  # more rows than tasks: unused ones come last
    np.testing.assert_array_equal(few, [[0, 1, 2, 3], [1, 0, 2, 3], [2, 1, 0, 3]])


@pytest.mark.parametrize("method", clustering.METHODS[:-1])
def test_every_method_gives_each_task_different_experts_in_range(method: str):
    table = made(method=method).table
    assert table.experts.shape == (8, 2) and (table.experts[:, 0] != table.experts[:, 1]).all()
    assert table.experts.min() >= 0 and table.experts.max() < 4


# --- clusters.json ----------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path):
    clusters, path = made(seed=7), tmp_path / "clusters.json"
    clustering.write(path, clusters)
    back = clustering.read(path, NAMES, **SIZES)
    np.testing.assert_array_equal(back.table.cluster, clusters.table.cluster)
    np.testing.assert_array_equal(back.table.experts, clusters.table.experts)
    for part in ("cluster", "experts"):
        np.testing.assert_allclose(back.similarity[part], clusters.similarity[part], atol=1e-6)
    assert (back.method, back.seed) == ("file", 7)
    assert [file.name for file in tmp_path.iterdir()] == ["clusters.json"]


def test_rows_are_found_by_name_so_that_a_run_can_take_some_of_the_tasks_in_another_order(tmp_path):
    clusters, path = made(), tmp_path / "clusters.json"
    clustering.write(path, clusters)
    back = clustering.read(path, ["task5", "task0"], **SIZES)
    np.testing.assert_array_equal(back.table.cluster, clusters.table.cluster[[5, 0]])
    assert back.similarity["cluster"][0, 1] == pytest.approx(clusters.similarity["cluster"][5, 0], abs=1e-6)


HAND_WRITTEN = {"tasks": ["a", "b"], "cluster": [2, 0], "experts": [[3, 1], [1, 0]]}


def test_the_three_fields_that_matter_are_enough(tmp_path):
    path = tmp_path / "by_hand.json"
    path.write_text(json.dumps(HAND_WRITTEN))
    table = clustering.read(path, ["b", "a"], **SIZES).table
    assert (table.cluster.tolist(), table.experts.tolist()) == ([0, 2], [[1, 0], [3, 1]])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"cluster": [3, 0]}, ["cluster", "0..2", "3", "clustering.clusters"]),
        ({"cluster": [-1, 0]}, ["cluster", "0..2", "-1"]),
        ({"cluster": [0.5, 0]}, ["cluster", "whole numbers", "0.5"]),
        ({"cluster": [0]}, ["cluster", "(2,)", "(1,)"]),
        ({"experts": [[4, 0], [1, 0]]}, ["experts", "0..3", "4", "router.experts"]),
        ({"experts": [[3, 1, 0], [1, 0, 2]]}, ["experts", "(2, 2)", "(2, 3)", "router.active"]),
        ({"experts": [[3, 1], [1]]}, ["by_hand.json", "clusters.json"]),
        ({"experts": [[3, 3], [1, 0]]}, ["same expert twice", "2 different"]),
        ({"experts": None}, ["experts", "(2, 2)"]),
        ({"cluster": [1, None]}, ["cluster", "(2,)", "[1, None]"]),
        ({"cluster": ["1", 0]}, ["cluster", "['1', '0']"]),
        ({"cluster": [{}, 0]}, ["cluster", "[{}, 0]"]),
        ({"cluster": [10**30, 0]}, ["cluster", "0..2"]),
        ({"cluster": [True, False]}, ["cluster", "whole numbers"]),
        ({"experts": [[3, "b"], [1, 0]]}, ["experts", "'b'"]),
        ({"experts": [[3, None], [None, 0]]}, ["experts", "[3, None, None, 0]"]),
        ({"tasks": ["a", "c"]}, ["no row for b", "a, c"]),
        ({"tasks": ["a", "b", "c"]}, ["cluster", "(3,)", "(2,)"]),
        ({"tasks": [1, 2]}, ["no row for a, b", "1, 2"]),
        ({"tasks": 5}, ["by_hand.json", "clusters.json"]),
        ({"similarity": {"cluster": [[1.0]]}}, ["similarity"]),
        ({"similarity": {"cluster": [["a", "b"], ["c", "d"]]}}, ["similarity", "(2, 2)"]),
        ({"similarity": {"experts": [[1.0, None], [0.5, 1.0]]}}, ["similarity", "(2, 2)"]),
        ({"similarity": {"experts": [[1.0] * 3] * 3}}, ["similarity", "(3, 3)"]),
        ({"similarity": 3}, ["similarity"]),
        ({"seed": "x"}, ["seed"]),
        ({"seed": float("inf")}, ["seed"]),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_value_and_remedy(tmp_path, change: dict, named: list[str]):
    path = tmp_path / "by_hand.json"
    path.write_text(json.dumps(HAND_WRITTEN | change))
    with pytest.raises(BadInput) as refusal:
        clustering.read(path, ["a", "b"], **SIZES)
    assert all(text in str(refusal.value) for text in [*named, "clustering.table"]), refusal.value


@pytest.mark.parametrize("text", ["", "[1, 2]", "[" * 10**5, '{"tasks": ["a", "b"]}', "\udcff"])
def test_what_is_no_table_at_all_is_refused(tmp_path, text: str):
    path = tmp_path / "by_hand.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadInput, match="clustering.table=.*by_hand.json cannot be read"):
        clustering.read(path, ["a", "b"], **SIZES)
    with pytest.raises(BadInput, match="nowhere.json"):
        clustering.read(tmp_path / "nowhere.json", ["a"], **SIZES)


def test_experts_selected_later_reach_the_file_and_nothing_else_changes(tmp_path):
    path = tmp_path / "clusters.json"
    made = clustering.cluster_tasks(["a", "b"], None, clusters=2, experts=3, active=2, method="identity", seed=5)
    clustering.write(path, made)
    before = json.loads(path.read_text())
    clustering.write_experts(path, np.array([[2, 0], [1, 2]]))
    assert json.loads(path.read_text()) == before | {"experts": [[2, 0], [1, 2]]}
