"""What runs of different seeds allow one to say: intervals by drawing whole runs anew, and differences of means.

In: normalised scores [runs, tasks] or means [runs]. All tasks of a run come from one agent, so that the run is what is
drawn, never a task alone. Called by comparing, compare and sweeps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.stats import trim_mean

from mow_jax.report.scores import TRIM

DRAWS = 1000  # of the bootstrap
ENOUGH = 10  # runs: with fewer a bootstrap's 95% interval leaves out the truth far more often than 5 times in 100
LEVEL = 0.05
FEW = 5  # runs: fewer against more have a spread that is small by chance too often
UNEQUAL = (
    " Numbers of runs differ, and with so few on one side chance alone shows a difference more often than said: compare"
    " seeds that all have."
)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95% t interval of the mean of independent runs; one run has none."""
    if len(values) < 2:
        return float(values[0]), float(values[0])
    half = stats.t.ppf(1 - LEVEL / 2, len(values) - 1) * stats.sem(values)
    return float(np.mean(values) - half), float(np.mean(values) + half)


def ends(runs: int) -> list[float]:
    """The percentiles of a bootstrap's draws that are a 95% interval: wider than 2.5 and 97.5 for few runs, as their
    spread is known badly and looks too small (expanded percentile interval, Hesterberg 2015)."""
    low = 100 * float(stats.norm.cdf(np.sqrt(runs / (runs - 1)) * stats.t.ppf(LEVEL / 2, runs - 1)))
    return [low, 100 - low]


def iqm(scores: np.ndarray) -> tuple[float, tuple[float, float] | None]:
    """The interquartile mean of scores [runs, tasks], and its 95% interval by drawing whole runs; None of few runs."""
    value, count = float(trim_mean(scores, TRIM, axis=None)), len(scores)
    if count < ENOUGH:
        return value, None
    drawn = scores[np.random.default_rng(0).integers(count, size=(DRAWS, count))].reshape(DRAWS, -1)
    low, high = np.percentile(trim_mean(drawn, TRIM, axis=1), ends(count))
    return value, (float(low), float(high))


def beats(scores: np.ndarray, base: np.ndarray) -> tuple[float, float, float]:
    """P(scores > base) [runs, tasks] each, ties half (Agarwal et al. 2021), and its 95% interval by drawing whole runs;
    of few runs on a side the interval is everything."""
    wins = (0.5 * (np.sign(scores[:, None] - base[None]) + 1)).mean(-1)  # [runs, runs of base]
    if min(wins.shape) < ENOUGH:
        return float(wins.mean()), 0.0, 1.0
    random = np.random.default_rng(0)
    weights = [random.multinomial(count, np.full(count, 1 / count), DRAWS) / count for count in wins.shape]
    low, high = np.percentile((weights[0] @ wins * weights[1]).sum(1), ends(min(wins.shape)))
    return float(wins.mean()), float(low), float(high)


# --- Differences of means ---------------------------------------------------------------------------------------------


class Difference(NamedTuple):
    """A mean less another."""

    value: float
    low: float  # of its 95% interval; NaN where there is none
    high: float
    p: float  # of no difference


def difference(values: np.ndarray, base: np.ndarray) -> Difference:
    """The mean of runs' values less that of others, of unequal spread (Welch 1947). NaN for an interval that single
    runs, or runs without any spread, do not have."""
    value = float(np.mean(values) - np.mean(base))
    # Equal numbers have a variance of nothing but rounding, by which any difference would count.
    spread = lambda x: np.var(x, ddof=1) * (np.ptp(x) > 0) / len(x)
    parts = [spread(x) if len(x) > 1 else np.nan for x in (values, base)]
    squared = sum(parts)
    if not squared > 0:
        return Difference(value, np.nan, np.nan, np.nan)
    freedom = squared**2 / sum(part**2 / (len(x) - 1) for part, x in zip(parts, (values, base), strict=True))
    error = np.sqrt(squared)
    half, p = stats.t.ppf(1 - LEVEL / 2, freedom) * error, 2 * stats.t.sf(abs(value) / error, freedom)
    return Difference(value, float(value - half), float(value + half), float(p))


def holm(p: list[float]) -> list[bool]:
    """Which of several comparisons still show a difference when the chance of even one false one is to be 5% (Holm
    1979)."""
    survives, order = [False] * len(p), np.argsort(p, kind="stable")
    for rank, place in enumerate(order):
        if not p[place] <= LEVEL / (len(p) - rank):
            break
        survives[place] = True
    return survives


def against(first: str, pairs: dict[str, tuple[np.ndarray, np.ndarray] | None]) -> tuple[dict[str, str], str]:
    """Table cells "-0.022 [-0.134, 0.089]" of variants, each given as its runs' means and the first one's of the same
    tasks (None: nothing to compare), and the sentence below the table: how many comparisons, and which survive."""
    given = {name: pair for name, pair in pairs.items() if pair is not None}
    found = {name: difference(*pair) for name, pair in given.items()}
    cells = {}
    for name, one in found.items():
        cells[name] = f"{one.value:+.3f}" + (f" [{one.low:.3f}, {one.high:.3f}]" if one.p == one.p else "")
    several = [name for name, pair in given.items() if all(len(runs) > 1 for runs in pair)]
    if not several:
        return cells, ""
    # Runs that are all alike, on both sides, have no p: they count among the comparisons, and are named.
    alike = [name for name in several if np.isnan(found[name].p)]
    kept = holm([1.0 if name in alike else found[name].p for name in several])
    survive = [name for name, survives in zip(several, kept, strict=True) if survives]
    count = f"{len(several)} comparison{'s' * (len(several) > 1)} with {first} (difference of run means, Welch)"
    verdict = f"these differ from it: {', '.join(survive)}" if survive else "none shows a difference"
    more = f" Runs without any spread on either side, so not tested: {', '.join(alike)}." * bool(alike)
    counts = {len(runs) for name in several for runs in given[name]}
    more += UNEQUAL * (len(counts) > 1 and min(counts) < FEW)
    return cells, f"{count}; corrected for their number (Holm, 5%), {verdict}.{more}"
