"""Intervals and differences over runs: what is called 95% leaves the truth out about five times in a hundred."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.stats import trim_mean

from mow_jax.report import inference

NULLS = 400


def runs(rng: np.random.Generator, count: int) -> np.ndarray:
    """Scores [count, 13] of runs of one kind: a run's tasks go up and down together, some are near their best."""
    own, each = rng.normal(size=(count, 1)), rng.normal(size=(count, 13))
    return np.clip(np.linspace(0.3, 1.1, 13) + 0.1 * own + 0.06 * each, 0.0, 1.0)


@pytest.mark.parametrize("count", [inference.ENOUGH, 20])
def test_what_is_called_95_leaves_out_the_truth_at_most_7_times_in_100(count: int):
    rng = np.random.default_rng(count)
    truth = trim_mean(runs(rng, 40_000), 0.25, axis=None)
    missed = np.zeros(3)
    for _ in range(NULLS):
        one, other = runs(rng, count), runs(rng, count)
        _, low, high = inference.beats(one, other)
        _, (start, end) = inference.iqm(one)  # type: ignore[misc]
        apart = inference.difference(one.mean(1), other.mean(1))
        missed += [not low <= 0.5 <= high, not start <= truth <= end, not apart.low <= 0 <= apart.high]
    assert (missed / NULLS <= 0.07).all(), missed / NULLS


@pytest.mark.parametrize("count", [3, 5])
def test_of_few_runs_only_welchs_difference_is_claimed(count: int):
    rng = np.random.default_rng(count)
    missed = 0
    for _ in range(NULLS):
        one, other = runs(rng, count), runs(rng, count)
        assert inference.beats(one, other)[1:] == (0.0, 1.0) and inference.iqm(one)[1] is None
        apart = inference.difference(one.mean(1), other.mean(1))
        missed += not apart.low <= 0 <= apart.high
    assert missed / NULLS <= 0.07


def test_a_run_is_drawn_whole_so_that_its_tasks_count_as_one():
    rng = np.random.default_rng(0)
    alike = np.repeat(rng.uniform(size=(12, 1)), 13, axis=1)  # thirteen tasks that say the same
    wide = np.ptp(inference.iqm(alike)[1])
    narrow = np.ptp(inference.iqm(rng.permuted(alike, axis=0))[1])
    assert wide > 2 * narrow


@pytest.mark.parametrize("counts", [(3, 5), (2, 2), (10, 4)])
def test_the_difference_of_means_is_scipys_of_unequal_spread(counts: tuple[int, int]):
    rng = np.random.default_rng(sum(counts))
    one, other = rng.normal(1.0, 0.3, counts[0]), rng.normal(0.5, 2.0, counts[1])
    made, known = inference.difference(one, other), stats.ttest_ind(one, other, equal_var=False)
    interval = known.confidence_interval()
    expected = (one.mean() - other.mean(), interval.low, interval.high, known.pvalue)
    np.testing.assert_allclose(made, expected, rtol=1e-12)


@pytest.mark.parametrize("scores", [(0.8, 0.95), (0.1, 0.7), (0.2, 0.4)])
def test_equal_numbers_have_no_spread_however_they_are_rounded(scores: tuple[float, float]):
    assert any(np.var([score] * 3, ddof=1) > 0 for score in scores), "or this shows nothing"
    one, other = (np.full(3, score) for score in scores)
    apart = inference.difference(one, other)
    assert apart.value == pytest.approx(scores[0] - scores[1]) and np.isnan([apart.low, apart.high, apart.p]).all()


def test_single_runs_and_runs_without_spread_have_no_interval():
    for one, other in (([1.0], [0.0, 1.0]), ([0.5, 0.5], [0.75, 0.75])):
        made = inference.difference(np.array(one), np.array(other))
        assert made.value == np.mean(one) - np.mean(other) and np.isnan(made[1:]).all()
    # One side without spread: the other's is all there is.
    assert inference.difference(np.array([0.5, 0.5]), np.array([0.0, 1.0])).high == pytest.approx(12.706 / 2, rel=1e-4)


def test_holm_by_hand():
    assert inference.holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]  # limits 0.0125, 0.0167, 0.025
    assert inference.holm([0.049]) == [True] and inference.holm([0.03, 0.03]) == [False, False]
    assert inference.holm([]) == []


def test_below_a_table_stand_the_number_of_comparisons_and_those_that_survive():
    base, far = np.array([0.80, 0.82, 0.81]), np.array([0.50, 0.52, 0.51])
    near = np.array([0.80, 0.83, 0.82])
    cells, text = inference.against(
        "mow", {"far": (far, base), "near": (near, base), "none": None, "1": (far[:1], base)}
    )
    assert cells["far"] == "-0.300 [-0.323, -0.277]" and cells["1"] == "-0.310" and "none" not in cells
    assert text.startswith("2 comparisons with mow") and text.endswith("these differ from it: far.")
    assert inference.against("mow", {"near": (near, base)})[1].endswith("none shows a difference.")
    assert inference.against("mow", {}) == ({}, "")
    for runs, told in (((3, 8), True), ((8, 3), True), ((3, 3), False), ((5, 8), False)):
        sides = tuple(np.linspace(0, 1, count) for count in runs)
        assert ("Numbers of runs differ" in inference.against("mow", {"v": sides})[1]) == told


def test_runs_that_are_all_alike_are_named_and_count_among_the_comparisons():
    one, three = np.full(5, 1.0), np.full(5, 3.0)
    cells, text = inference.against("mow", {"worse": (three, one), "other": (np.array([1.0, 2, 1, 1, 2]), one)})
    assert cells["worse"] == "+2.000" and text.startswith("2 comparisons with mow")
    assert text.endswith("none shows a difference. Runs without any spread on either side, so not tested: worse.")
    # p = 0.04 alone shows a difference; as one of two it does not.
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 6))
    shift = next(x for x in np.linspace(0, 5, 500) if inference.difference(noise[0] + x, noise[1]).p < 0.04)
    pair = noise[0] + shift, noise[1]
    assert inference.against("mow", {"near": pair})[1].endswith("these differ from it: near.")
    assert "none shows a difference" in inference.against("mow", {"near": pair, "alike": (three[:6], one)})[1]
