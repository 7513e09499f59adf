"""Normalised scores and their aggregates over tasks.

In: raw scores (a score file, or the bundled STORM seeds) or normalised ones. Out: dicts of numbers, ready for JSON.
Called by python -m mow_jax.report --scores and, for results.json, by mow_jax.evaluate.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import binomtest, trim_mean

from mow_jax.envs import suites
from mow_jax.types import BadInput

# Scores of STORM's published runs, five seeds a game, sticky actions 0.25: results/storm.json of its repository.
BUNDLED = Path(__file__).parent / "data" / "storm_atari100k.json"
DRAWS = 2000  # of the bootstrap
TRIM = 0.25  # cut off at each end: what is left is the interquartile mean


def normalise(score: float, random: float, reference: float) -> float:
    """The score on the scale where the random policy is 0 and the reference (a human, the best known) is 1."""
    return (score - random) / (reference - random)


def success_interval(successes: list) -> list[float]:
    """The 95% Wilson interval of a success rate, from the successes of independent episodes."""
    interval = binomtest(sum(successes), len(successes)).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def at_reference(means: Sequence[float] | np.ndarray) -> str:
    """How many of tasks' normalised scores reach the reference, in Atari human level: "9 of 26"; a dash of none."""
    return f"{sum(score >= 1 for score in means)} of {len(means)}" if len(means) else "–"


def iqm_text(total: dict, digits: int = 3) -> str:
    """The IQM of `aggregate` and its interval, "0.62 [0.48, 0.76]"; alone where it has none, a dash where there is no
    IQM."""
    if total["iqm"] is None:
        return "–"
    between = ", ".join(f"{end:.{digits}f}" for end in total["interval"] or ())
    return f"{total['iqm']:.{digits}f}" + (f" [{between}]" if between else "")


def success_text(result: dict) -> str:
    """A task's success rate in words: "62% [48%, 74%], random 4%"; a dash where it has none."""
    if not result.get("success"):
        return "–"
    low, high = success_interval(result["success"])
    text = f"{np.mean(result['success']):.0%} [{low:.0%}, {high:.0%}]"
    random = result.get("random_success")
    return text if random is None else f"{text}, random {random:.0%}"


def aggregate(normalised: dict[str, list[float]], successes: bool = False) -> dict:
    """Mean, median, IQM and its interval of normalised runs, {task: [one value a run, ...]}.

    Mean and median are over the tasks' means; the IQM pools all runs; the interval is the 95% stratified bootstrap of
    the IQM (Agarwal et al. 2021), None of single runs. Tasks without runs are left out; with none left every value is
    None. So are IQM and interval where tasks have unequal numbers of runs, as one with many would count for many, and
    of successes, as of pooled 0 and 1 that mean says 1 from three quarters on.
    """
    runs = [np.asarray(values, np.float64) for values in normalised.values() if len(values)]
    if not runs:
        return {"mean": None, "median": None, "iqm": None, "interval": None}
    means = [values.mean() for values in runs]
    total = {"mean": float(np.mean(means)), "median": float(np.median(means)), "iqm": None, "interval": None}
    if successes or len({len(values) for values in runs}) > 1:
        return total
    interval = _interval(np.stack(runs)) if len(runs[0]) > 1 else None
    return total | {"iqm": float(trim_mean(np.concatenate(runs), TRIM)), "interval": interval}


def _interval(runs: np.ndarray) -> list[float]:
    """[low, high] of runs [tasks, runs], drawn again with replacement inside each task."""
    random = np.random.default_rng(0)
    draws = [values[random.integers(len(values), size=(DRAWS, len(values)))] for values in runs]
    return np.percentile(trim_mean(np.concatenate(draws, axis=1), TRIM, axis=1), [2.5, 97.5]).tolist()


def atari_scores(path: str | None = None) -> dict:
    """Human-normalised Atari 100k scores of a score file, {"Game": [score a seed, ...]}; None: STORM's published seeds.

    Returns {"games": {name: score}, "mean", "median", "iqm", "interval", "superhuman"}. Raises BadInput.
    """
    raw = _read(path or str(BUNDLED))
    normalised = {
        game: [normalise(score, suites.ATARI[game].random, suites.ATARI[game].human) for score in scores]
        for game, scores in raw.items()
    }
    games = {game: float(np.mean(values)) for game, values in normalised.items()}
    superhuman = sum(value >= 1 for value in games.values())
    return {"games": games, **aggregate(normalised), "superhuman": superhuman}


def _read(path: str) -> dict[str, list[float]]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except OSError as problem:
        raise BadInput(f"cannot read the score file {path!r}: {problem.strerror}; give --scores=FILE.json") from None
    except (ValueError, RecursionError) as problem:
        raise BadInput(f'{path} is not a score file ({problem}); write {{"Game": [score of each seed, ...]}}') from None
    if not isinstance(content, dict) or not content:
        raise BadInput(f'{path} holds no scores; write one JSON object {{"Game": [score of each seed, ...], ...}}')
    return {_game(game, path): _numbers(game, scores, path) for game, scores in content.items()}


def _without_repeats(pairs: list[tuple]) -> dict:
    """A JSON object; the standard reader would silently keep only the last of two equal names."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice")
    return content


def _game(game: str, path: str) -> str:
    if game in suites.ATARI:
        return game
    plain = {name.lower(): name for name in suites.ATARI}
    near = difflib.get_close_matches(game.lower().replace("_", ""), plain, n=1, cutoff=0.5)
    hint = f"did you mean {plain[near[0]]!r}? " if near else ""
    raise BadInput(f"{path}: unknown game {game!r}; {hint}The games are {', '.join(suites.ATARI)}")


def _numbers(game: str, scores: object, path: str) -> list[float]:
    if not isinstance(scores, list) or not scores:
        raise BadInput(f"{path}: {game!r} has {json.dumps(scores)}; give a list, one score for each seed")
    for score in scores:
        if not is_number(score):
            raise BadInput(f"{path}: {game!r} has the score {json.dumps(score)}; scores are finite numbers")
    return [float(score) for score in scores]


def is_number(value: object) -> bool:
    """Whether a value out of a JSON file is a finite number (a bool is not, nor an integer too large for a float)."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False
