"""What the world model knows of evaluation episodes: rewards, ends and frames, as numbers a task and as frames.npz.

`Rows` is fed while the environments are stepped and keeps a few numbers a row, never the frames. Every process sees to
its own tasks. Called by evaluate. docs/protocol.md says how to read the numbers.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mow_jax import files, processes
from mow_jax.learner import Learner
from mow_jax.types import Batch, Task

LONGEST_WINDOW = 64  # rows: bounds the memory of frames that wait for their predictions
BINS = 10  # of equal width, of the predicted probability of an end
SHOWN = 24  # frames of a strip ...
CONTEXT = 8  # ... of which so many are seen before imagination goes on alone
LONGEST_CLIP = 400  # frames of an episode kept for its GIF

Numbers = dict[str, Any]  # a number by its name, None where it is undefined


# --- Rows of evaluation episodes --------------------------------------------------------------------------------------


class Rows:
    """Predictions and truth of the rows of those episodes that count, for K tasks."""

    def __init__(self, predict: Callable[[Batch], dict[str, np.ndarray]], tasks: int, time: int):
        """`predict`: Learner.predictions, always called on windows of the same shape, [K, E, `time`]."""
        self._predict, self._time = predict, time
        self._window: Batch | None = None
        self._seen = 0  # joint steps
        self._columns: list[dict[str, np.ndarray]] = []  # of each full window, [K, E, T]
        self._counted: list[tuple[int, int, int, int]] = []  # task, environment, first and last row (exclusive)
        self.counts: np.ndarray = np.zeros(tasks, np.int64)  # rows of each task that count so far

    def add(self, row: Batch) -> None:
        """A joint step's row [K, E, ...]."""
        if self._window is None:
            self._open(row)
        assert self._window is not None
        place = self._seen % self._time
        for column, new in zip(self._window[:5], row[:5], strict=True):  # the world model is asked about no extras
            column[:, :, place] = new
        self._open_sum += row.observation
        frames = row.observation.reshape(*self._begun.shape, -1)
        self._open_squares += np.einsum("kep,kep->ke", frames, frames, dtype=np.int64)
        self._seen += 1
        if place + 1 == self._time:
            self._ask()

    def _open(self, row: Batch) -> None:
        """Empty windows, and sums of pixels: of the open episodes, and of all that count."""
        self._window = Batch(*(np.zeros((*x.shape[:2], self._time, *x.shape[2:]), x.dtype) for x in row[:5]))
        self._begun = np.zeros(row.reward.shape, np.int64)  # first row of the open episode
        self._open_sum = np.zeros(row.observation.shape, np.int64)
        self._open_squares = np.zeros(row.reward.shape, np.int64)
        self._sum = np.zeros(self._open_sum.shape[:1] + self._open_sum.shape[2:], np.int64)
        self._squares = np.zeros(len(self._sum), np.int64)

    def settle(self, task: int, env: int, counts: bool) -> None:
        """The open episode of an environment has ended with the row added last; whether its rows count."""
        if counts:
            self._counted.append((task, env, int(self._begun[task, env]), self._seen))
            self.counts[task] += self._seen - self._begun[task, env]
            self._sum[task] += self._open_sum[task, env]
            self._squares[task] += self._open_squares[task, env]
        self._begun[task, env] = self._seen
        self._open_sum[task, env], self._open_squares[task, env] = 0, 0

    def _ask(self) -> None:
        window = self._window
        assert window is not None
        said = {f"predicted_{name}": value for name, value in self._predict(window).items()}
        self._columns.append(said | {"reward": window.reward.copy(), "termination": window.termination.copy()})

    def numbers(self) -> list[Numbers]:
        """Each task's numbers, once all episodes have been added."""
        if over := self._seen % self._time:
            assert self._window is not None
            self._window.is_first[:, :, over:] = True  # old rows fill the window up: no row that counts sees them
            self._ask()
            self._seen += self._time - over
        columns = {name: np.concatenate([part[name] for part in self._columns], axis=2) for name in self._columns[0]}
        return [self._task_numbers(k, columns) for k in range(len(self._sum))]

    def _task_numbers(self, k: int, columns: dict[str, np.ndarray]) -> Numbers:
        parts = [(env, slice(first, end)) for task, env, first, end in self._counted if task == k]
        rows = {name: np.concatenate([column[k, env, part] for env, part in parts]) for name, column in columns.items()}
        told = np.concatenate([self._told(part) for _, part in parts])
        return {
            "rows": len(rows["reward"]),
            **reward_numbers(rows["reward"][told], rows["predicted_reward"][told]),
            **termination_numbers(rows["termination"], rows["predicted_termination"]),
            **frame_numbers(rows["predicted_error"], self._sum[k], int(self._squares[k])),
            **action_numbers(rows.get("predicted_action", np.empty(0))),
        }

    def _told(self, part: slice) -> np.ndarray:
        """[N] which rows of an episode are predicted from all that came before them in it: of one that fits into a
        window those up to a window's start, as behind it the cue may be cut off; all rows of longer ones."""
        window = np.arange(part.start, part.stop) // self._time
        return (window == window[0]) | (len(window) > self._time)


# --- Numbers of a task's rows -----------------------------------------------------------------------------------------


def reward_numbers(real: np.ndarray, predicted: np.ndarray) -> Numbers:
    """Of rewards [N]: their correlation (0 where the prediction never varies), and the average precision of telling
    the rows whose reward is not the commonest one, beside the share of those rows, which is what chance scores."""
    numbers: Numbers = dict.fromkeys(("reward_correlation", "reward_precision", "reward_base"))
    if not np.isfinite(predicted).all():
        return numbers
    real, predicted = real.astype(np.float64), predicted.astype(np.float64)
    if np.ptp(real) > 0:
        numbers["reward_correlation"] = float(np.corrcoef(real, predicted)[0, 1]) if np.ptp(predicted) > 0 else 0.0
    values, counts = np.unique(real, return_counts=True)
    commonest = values[counts.argmax()]
    if 2 * counts.max() >= len(real):  # else the rewards are dense: every row is a rewarded one
        rewarded = real != commonest
        numbers["reward_base"] = float(rewarded.mean())
        if rewarded.any():
            from sklearn.metrics import average_precision_score  # takes a second to import

            numbers["reward_precision"] = float(average_precision_score(rewarded, abs(predicted - commonest)))
    return numbers


def termination_numbers(real: np.ndarray, predicted: np.ndarray) -> Numbers:
    """Of ends [N] bool and their predicted probabilities: shares, the expected calibration error, and for each bin of
    probabilities that is not empty [mean probability, share of ends, rows]."""
    names = ("share", "predicted", "at_ends", "error", "bins")
    numbers: Numbers = dict.fromkeys(f"termination_{name}" for name in names)
    numbers["termination_share"] = float(real.mean())
    if not np.isfinite(predicted).all():
        return numbers
    predicted = predicted.astype(np.float64)
    place = np.minimum((predicted * BINS).astype(int), BINS - 1)
    inside = [place == number for number in np.unique(place)]
    bins = [[float(predicted[rows].mean()), float(real[rows].mean()), int(rows.sum())] for rows in inside]
    numbers["termination_predicted"] = float(predicted.mean())
    if real.any():
        numbers["termination_at_ends"] = float(predicted[real].mean())
    numbers["termination_error"] = sum(rows * abs(said - share) for said, share, rows in bins) / len(real)
    numbers["termination_bins"] = bins
    return numbers


def frame_numbers(errors: np.ndarray, total: np.ndarray, squares: int) -> Numbers:
    """Mean of the reconstruction's errors [N], beside the error of painting the mean of all N frames every time; from
    the frames' sum [S, S, 3] and the sum of their squares, in pixel values up to 255."""
    error, count = float(errors.mean(dtype=np.float64)), len(errors)
    spread = squares - (total.astype(np.float64) ** 2).sum() / count
    if spread <= 1e-9 * squares:  # rounding: all frames are the same
        spread = 0.0
    mean_frame = spread / count / 255**2
    finite = bool(np.isfinite(error))
    return {
        "reconstruction_error": error if finite else None,
        "mean_frame_error": float(mean_frame),
        "ratio": float(error / mean_frame) if finite and mean_frame > 0 else None,
    }


def action_numbers(told: np.ndarray) -> Numbers:
    """The mean of what actions tell of the next latent [N] in nats, NaN where a row has none; None if nobody says."""
    told = told[~np.isnan(told)]
    mean = float(told.mean(dtype=np.float64)) if len(told) else np.nan
    return {"action_nats": mean if np.isfinite(mean) else None}


def metrics(diagnostics: dict[str, Numbers]) -> dict[str, float]:
    """The defined ones of the numbers that a curve is drawn of, by their names in metrics.jsonl."""
    names = {key: key for key in ("reward_correlation", "reward_precision", "termination_error", "action_nats")}
    names["reconstruction_ratio"] = "ratio"
    return {
        f"evaluation/{task}/{name}": numbers[key]
        for task, numbers in diagnostics.items()
        for name, key in names.items()
        if numbers[key] is not None
    }


# --- Frames to look at ------------------------------------------------------------------------------------------------


class Recorder:
    """Keeps the frames and actions of the first episode of every task's first environment, as far as a GIF shows it."""

    def __init__(self, tasks: int):
        self._rows: list[list[tuple]] = [[] for _ in range(tasks)]
        self._open = [True] * tasks

    def add(self, row: Batch) -> None:
        """A joint step's row [K, E, ...]."""
        for k, rows in enumerate(self._rows):
            self._open[k] &= not (rows and row.is_first[k, 0]) and len(rows) < LONGEST_CLIP
            if self._open[k]:
                rows.append((row.observation[k, 0], row.action[k, 0]))

    def clips(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Frames [N, S, S, 3] and actions [N, ...] of each task."""
        return [(np.stack(frames), np.stack(actions)) for frames, actions in (zip(*r, strict=True) for r in self._rows)]


def films(learner: Learner, clips: list[tuple[np.ndarray, np.ndarray]], longest: int) -> dict[str, np.ndarray]:
    """Arrays of frames.npz: of each task of this process the clip, its begin, that reconstructed, that imagined; the
    last two where the system has such films. `longest`: rows of a window."""
    if learner.system.open_loop is None:
        clip_of = {f"episode/{place}": clip for place, (clip, _) in zip(learner.mine, clips, strict=True)}
        return {"imagined_from": np.array(0), **clip_of}
    time = min(SHOWN, longest)
    shortest = min(processes.gather(min(time, *(len(frames) for frames, _ in clips))))
    context = min(CONTEXT, max(shortest // 3, 1))
    frames, actions = (np.stack([_fit(clip[part], time) for clip in clips])[:, None] for part in (0, 1))
    shape = (len(clips), 1, time)
    batch = Batch(frames, actions, np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape, bool))
    film = functools.partial(learner.system.open_loop, context=context)
    reconstructed, imagined = learner.measure(film)(batch)
    found: dict[str, np.ndarray] = {"imagined_from": np.array(context)}
    for k, (place, (clip, _)) in enumerate(zip(learner.mine, clips, strict=True)):
        shown = slice(0, min(time, len(clip)))
        found |= {f"episode/{place}": clip, f"real/{place}": clip[shown]}
        found |= {f"reconstructed/{place}": reconstructed[k, 0][shown], f"imagined/{place}": imagined[k, 0][shown]}
    return found


def _fit(x: np.ndarray, length: int) -> np.ndarray:
    """The first `length` rows of x [N, ...], the last one repeated where there are fewer."""
    return x[np.minimum(np.arange(length), len(x) - 1)]


def write_frames(directory: Path, frames: dict[str, np.ndarray], tasks: list[Task]) -> None:
    """Writes frames.npz, whole or not at all: every process its part, and process 0 what they make together. Raises
    OSError, in all processes where one of them cannot write its part."""
    own = processes.from_first(secrets.token_hex(8))  # another evaluation of the run may be at the same point
    parts = [directory / f"frames-{own}-{index}.npz" for index in range(processes.count())]
    fault = None
    try:
        np.savez(parts[processes.index()], **frames)  # type: ignore[arg-type]
    except OSError as error:
        fault = [error.errno, error.strerror]
    faults = [fault for fault in processes.gather(fault) if fault]  # when all parts are there
    whole: dict[str, np.ndarray] = {"names": np.array([task.name for task in tasks])}
    for path in () if processes.index() else parts:
        if not faults:
            with np.load(path) as file:
                whole |= dict(file)
        path.unlink(missing_ok=True)
    if faults:
        raise OSError(*faults[0])
    if not processes.index():
        with files.whole(directory / "frames.npz") as temporary:
            np.savez_compressed(temporary, **whole)  # type: ignore[arg-type]
