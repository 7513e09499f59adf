"""What the world model knows, in numbers worked out by hand, and which rows of an evaluation enter them."""

from __future__ import annotations

import numpy as np
import pytest

from mow_jax import diagnostics
from mow_jax.diagnostics import action_numbers, frame_numbers, reward_numbers, termination_numbers
from mow_jax.types import Batch

# --- Numbers ----------------------------------------------------------------------------------------------------------

SPARSE = np.array([0, 1, 0, 0, 1, 0, 0, 0], np.float32)
WALK = np.array([-0.05, -0.05, -0.05, 1.0, -0.05, -0.05, -0.05, 1.0], np.float32)  # the commonest reward is not 0


@pytest.mark.parametrize(
    ("real", "predicted", "correlation", "precision", "base"),
    [
        (SPARSE, SPARSE, 1.0, 1.0, 0.25),
        (SPARSE, np.full(8, 0.3), 0.0, 0.25, 0.25),
        (SPARSE, 1 - SPARSE, -1.0, 0.25, 0.25),  # the two rewarded rows come last: 1/2 * 2/8 + 1/2 * 2/8
        (WALK, WALK, 1.0, 1.0, 0.25),
        (WALK, np.full(8, -0.05), 0.0, 0.25, 0.25),
        # Nearest to -0.05 is 0: by size alone the rewarded rows would come first.
        (WALK, np.where(WALK > 0, 0.0, -0.5), 1.0, 0.25, 0.25),
        # One of two found first, the other third.
        (SPARSE, np.array([0.5, 1, 0, 0, 0.2, 0, 0, 0]), 0.6566, (1 / 1 + 2 / 3) / 2, 0.25),
        (np.arange(8.0), np.arange(8.0), 1.0, None, None),  # dense
        (np.zeros(8), np.arange(8.0), None, None, 0.0),  # never paid
    ],
)
def test_rewards(real, predicted, correlation, precision, base):
    numbers = reward_numbers(real, np.asarray(predicted, np.float32))
    assert numbers["reward_correlation"] == (
        correlation if correlation is None else pytest.approx(correlation, abs=1e-3)
    )
    assert numbers["reward_precision"] == (precision if precision is None else pytest.approx(precision))
    assert numbers["reward_base"] == base


def test_terminations():
    real = np.array([True, True, False, False, False, False, True, False])
    predicted = np.array([1.0, 0.95, 0.93, 0.02, 0.06, 0.0, 0.45, 0.42], np.float32)
    numbers = termination_numbers(real, predicted)
    assert numbers["termination_share"] == 3 / 8 and numbers["termination_predicted"] == pytest.approx(3.83 / 8)
    assert numbers["termination_at_ends"] == pytest.approx((1.0 + 0.95 + 0.45) / 3)
    bins = [[0.08 / 3, 0.0, 3], [0.435, 0.5, 2], [0.96, 2 / 3, 3]]  # a probability of 1 is in the last one
    np.testing.assert_allclose(numbers["termination_bins"], bins, atol=1e-6)
    assert numbers["termination_error"] == pytest.approx((0.08 + 0.13 + 0.88) / 8, abs=1e-6)


def test_without_ends_there_is_no_probability_at_them():
    numbers = termination_numbers(np.zeros(4, bool), np.full(4, 0.25, np.float32))
    assert numbers["termination_at_ends"] is None and numbers["termination_error"] == 0.25
    assert numbers["termination_bins"] == [[0.25, 0.0, 4]]


def test_a_prediction_that_is_not_finite_says_nothing():
    broken = np.array([0.1, np.nan], np.float32)
    assert set(reward_numbers(np.array([0.0, 1.0]), broken).values()) == {None}
    numbers = termination_numbers(np.array([False, True]), broken)
    assert numbers.pop("termination_share") == 0.5 and set(numbers.values()) == {None}
    assert frame_numbers(broken, np.ones((2, 2, 3)), 100)["ratio"] is None


def test_frames_that_never_change_have_no_ratio():
    frames = np.full((7, 4, 4, 3), 99, np.int64)
    numbers = frame_numbers(np.ones(7), frames.sum(0), int((frames**2).sum()))
    assert numbers == {"reconstruction_error": 1.0, "mean_frame_error": 0.0, "ratio": None}


def test_what_actions_tell_is_the_mean_of_rows_that_have_a_successor():
    assert action_numbers(np.array([0.5, np.nan, 1.0], np.float32)) == {"action_nats": 0.75}
    for silent in ([], [np.nan], [1.0, np.inf]):
        assert action_numbers(np.array(silent)) == {"action_nats": None}


def test_metrics_leave_out_what_is_undefined():
    numbers = {"reward_correlation": 0.5, "reward_precision": None, "termination_error": 0.1, "ratio": None}
    numbers["action_nats"] = None
    assert diagnostics.metrics({"a": numbers}) == {
        "evaluation/a/reward_correlation": 0.5,
        "evaluation/a/termination_error": 0.1,
    }


# --- Rows -------------------------------------------------------------------------------------------------------------

TIME = 4


class Model:
    """Predicts, of every row, what its frame's first pixel and its action say; remembers the windows it has seen."""

    def __init__(self):
        self.windows = []

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        self.windows.append(Batch(*(column.copy() for column in batch[:5])))
        pixel = batch.observation[..., 0, 0, 0].astype(np.float32)
        return {"reward": pixel, "termination": batch.action / 1000, "error": 2 * pixel}


def row_of(step: int, first: np.ndarray) -> Batch:
    """Joint step `step` of two tasks with two environments each, every number telling step, task and environment."""
    number = 20 * step + np.array([[0, 1], [2, 3]])
    frames = np.broadcast_to(number[..., None, None, None], (2, 2, 2, 2, 3)).astype(np.uint8)
    return Batch(frames, number.astype(np.int32), number.astype(np.float32), number % 3 == 0, first)


@pytest.fixture
def played():
    """Ten joint steps: (task, environment, whether it counts) of the episodes that end with a step."""
    ends = {
        2: [(0, 0, True), (1, 1, True)],
        4: [(0, 0, False), (1, 0, True)],  # that environment's share is used up
        5: [(0, 1, False), (0, 1, False)],  # lost: the open episode, and the row in which its successor was cut
        6: [(1, 1, True)],
        8: [(0, 1, True)],
    }
    model = Model()
    rows, first = diagnostics.Rows(model, 2, TIME), np.ones((2, 2), bool)
    for step in range(10):
        rows.add(row_of(step, first))
        first = np.zeros((2, 2), bool)
        for task, env, counts in ends.get(step, []):
            rows.settle(task, env, counts)
            first[task, env] = True
    numbers = rows.numbers()
    assert rows.counts.tolist() == [entry["rows"] for entry in numbers]
    return numbers, model


# Joint steps that count, by task: what environment 0 played, and environment 1.
COUNTED = {0: (range(0, 3), range(6, 9)), 1: (range(0, 5), range(0, 7))}


def test_only_rows_of_episodes_that_count_enter(played):
    for task, numbers in enumerate(played[0]):
        values = np.array([20 * t + 2 * task + env for env, steps in enumerate(COUNTED[task]) for t in steps])
        assert numbers["rows"] == len(values) and numbers["reward_correlation"] == pytest.approx(1.0)
        assert numbers["termination_share"] == pytest.approx((values % 3 == 0).mean())
        assert numbers["termination_predicted"] == pytest.approx(values.mean() / 1000)
        frames = np.broadcast_to(values[:, None], (len(values), 12)) / 255
        spread = ((frames - frames.mean(0)) ** 2).sum(1).mean()
        assert numbers["reconstruction_error"] == pytest.approx(2 * values.mean())
        assert numbers["mean_frame_error"] == pytest.approx(spread)
        assert numbers["ratio"] == pytest.approx(2 * values.mean() / spread)


def test_rewards_behind_a_window_s_start_count_of_episodes_alone_that_fit_into_none():
    """Of a reward that asks for the first frame: short episodes' rows that have lost it say nothing of the model."""
    rows = diagnostics.Rows(lambda batch: {"reward": batch.reward * (np.arange(TIME) > 0), **ones(batch)}, 1, TIME)
    first = np.ones((1, 1), bool)
    for step in range(3 * TIME):
        reward = np.array([[step % 3]], np.float32)
        rows.add(Batch(np.zeros((1, 1, 2, 2, 3), np.uint8), np.zeros((1, 1), np.int32), reward, first, first))
        first = np.array([[step % 3 == 2]])
        if step % 3 == 2:
            rows.settle(0, 0, True)
    (numbers,) = rows.numbers()
    told = [0, 1, 2, 3, 6, 7, 9, 10, 11]  # 4, 5 and 8 lie behind a start in their episode
    real = np.array([step % 3 for step in told])
    predicted = np.array([(step % 3) * (step % TIME > 0) for step in told])
    assert numbers["rows"] == 3 * TIME
    assert numbers["reward_correlation"] == pytest.approx(np.corrcoef(real, predicted)[0, 1])
    np.testing.assert_array_equal(rows._told(slice(2, 2 + TIME)), [True, True, False, False])
    assert rows._told(slice(2, 3 + TIME)).all()


def ones(batch: Batch) -> dict[str, np.ndarray]:
    """What a model says that nobody asks for."""
    return {name: np.ones(batch.reward.shape, np.float32) for name in ("termination", "error")}


def test_windows_have_one_shape_and_the_last_is_filled_up_with_first_rows(played):
    windows = played[1].windows
    assert [window.reward.shape for window in windows] == [(2, 2, TIME)] * 3
    np.testing.assert_array_equal(windows[1].reward[1, 1], [83, 103, 123, 143])
    np.testing.assert_array_equal(windows[0].is_first[0, 0], [True, False, False, True])
    assert windows[-1].is_first[:, :, 2:].all() and not windows[-1].is_first[1, :, :2].any()


def test_actions_of_several_dimensions_keep_them():
    shapes = []

    def predict(batch: Batch) -> dict[str, np.ndarray]:
        shapes.append(batch.action.shape)
        return dict.fromkeys(("reward", "termination", "error"), np.zeros(batch.reward.shape, np.float32))

    rows = diagnostics.Rows(predict, 2, TIME)
    rows.add(row_of(0, np.ones((2, 2), bool))._replace(action=np.zeros((2, 2, 5), np.float32)))
    for task in range(2):
        rows.settle(task, 0, True)
    assert [numbers["rows"] for numbers in rows.numbers()] == [1, 1] and shapes == [(2, 2, TIME, 5)]
