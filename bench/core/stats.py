"""Statistics of samples, by numpy and scipy; seeded, so that the same samples say the same twice.

Nothing here drops a value: an outlier is told (`outliers`) and kept. scipy.stats takes a second to load,
as long as a thousand short runs take: tests and fits load it, a median's interval does without (in our tests
scipy's bootstrap is its oracle).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SEED = 20_260_721
RESAMPLES = 2000
_JACKKNIFE_AT_ONCE = 1000
CONFIDENCE = 0.95
Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate with its confidence interval; low and high are NaN where the data cannot bound it."""

    estimate: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the interval over the estimate: 0.02 reads "plus or minus 2 %"."""
        return (self.high - self.low) / 2 / abs(self.estimate) if self.estimate else math.nan

    def holds(self, value: float) -> bool:
        """Whether the value lies inside."""
        return self.low <= value <= self.high


class Slope(NamedTuple):
    """A straight line through points: the slope with its interval, and where it starts."""

    slope: Interval
    intercept: float


class Test(NamedTuple):
    """A test's p-value and the name of the test."""

    p: float
    method: str


class Equivalence(NamedTuple):
    """Two one-sided tests: `p` is the larger one; equivalent where it is below alpha."""

    p: float
    equivalent: bool
    margin: float


def _array(values: Sequence[float]) -> Floats:
    return np.asarray(values, dtype=np.float64)


def median_interval(values: Sequence[float], seed: int = SEED) -> Interval:
    """The median with its BCa bootstrap interval (Efron 1987); one value alone has no interval."""
    data = _array(values)
    if data.size == 0:
        return Interval(math.nan, math.nan, math.nan)
    middle = float(np.median(data))
    if data.size < 3:
        return Interval(middle, math.nan, math.nan)
    if np.ptp(data) == 0:
        return Interval(middle, middle, middle)
    return Interval(middle, *_bca((data,), np.median, seed))


def _bca(data: tuple[Floats, ...], statistic: Callable[..., Any], seed: int) -> tuple[float, float]:
    """BCa limits of paired columns (Efron and Tibshirani, Introduction to the Bootstrap, 14.3).

    Percentile limits where the jackknife has no acceleration (all leave-one-outs equal).
    """
    size = len(data[0])
    drawn = np.random.default_rng(seed).integers(0, size, (RESAMPLES, size))
    found = statistic(*(column[drawn] for column in data), axis=-1)
    estimate, normal = statistic(*data, axis=-1), NormalDist()
    tails = np.array([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    below = float(np.mean(found < estimate) + np.mean(found <= estimate)) / 2
    away = np.mean(left_out := _jackknife(data, statistic)) - left_out
    if 0 < below < 1 and away.any():
        bias, speed = normal.inv_cdf(below), float(np.sum(away**3) / (6 * np.sum(away**2) ** 1.5))
        moved = [bias + normal.inv_cdf(float(tail)) for tail in tails]
        tails = np.array([normal.cdf(bias + one / (1 - speed * one)) for one in moved])
    low, high = np.quantile(found, tails)
    return float(low), float(high)


def _jackknife(data: tuple[Floats, ...], statistic: Callable[..., Any]) -> Floats:
    """The statistic with each value left out once."""
    size, found = len(data[0]), []
    for first in range(0, size, _JACKKNIFE_AT_ONCE):
        out = np.arange(first, min(first + _JACKKNIFE_AT_ONCE, size))
        kept = np.arange(size - 1) + (np.arange(size - 1) >= out[:, None])
        found.append(statistic(*(column[kept] for column in data), axis=-1))
    return np.concatenate(found)


def ratio_interval(pairs: Sequence[tuple[float, float]], seed: int = SEED) -> Interval:
    """The median of target/base over blocks, with its BCa interval: drift that hits a whole block cancels.

    `pairs` are (target, base), one a block; pairs with a base of zero are left out, since they have no ratio.
    """
    ratios = [target / base for target, base in pairs if base > 0]
    return median_interval(ratios, seed)


def ratio_of_medians(pairs: Sequence[tuple[float, float]], seed: int = SEED) -> Interval:
    """median(target)/median(base), blocks resampled as pairs."""
    kept = _array([value for pair in pairs for value in pair]).reshape(-1, 2)
    if not len(kept) or np.median(kept[:, 1]) <= 0:
        return Interval(math.nan, math.nan, math.nan)

    def ratio(top: Floats, base: Floats, axis: int = -1) -> Any:
        return np.median(top, axis=axis) / np.median(base, axis=axis)

    estimate = float(np.median(kept[:, 0]) / np.median(kept[:, 1]))
    if len(kept) < 3:
        return Interval(estimate, math.nan, math.nan)
    if not np.ptp(kept, axis=0).any():
        return Interval(estimate, estimate, estimate)
    return Interval(estimate, *_bca((kept[:, 0], kept[:, 1]), ratio, seed))


def mann_whitney(first: Sequence[float], second: Sequence[float]) -> Test:
    """Mann and Whitney's U, two-sided, exact for small samples without ties."""
    from scipy import stats as scipy_stats

    if len(first) < 2 or len(second) < 2:
        return Test(math.nan, "too few samples")
    found = scipy_stats.mannwhitneyu(_array(first), _array(second), alternative="two-sided", method="auto")
    return Test(float(found.pvalue), "Mann-Whitney U")


def paired_permutation(differences: Sequence[float], seed: int = SEED) -> Test:
    """Sign-flip permutation test that paired differences lie around zero; exact up to 2**12 flips."""
    from scipy import stats as scipy_stats

    data = _array(differences)
    if data.size < 2:
        return Test(math.nan, "too few samples")
    if not data.any():
        return Test(1.0, "sign-flip permutation")
    found = scipy_stats.permutation_test(
        (data,), np.mean, permutation_type="samples", vectorized=True, n_resamples=4095,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return Test(float(found.pvalue), "sign-flip permutation")


def wilcoxon(differences: Sequence[float]) -> Test:
    """Wilcoxon's signed-rank test on paired differences; an outlier bends it little."""
    from scipy import stats as scipy_stats

    data = _array(differences)
    if data.size < 2:
        return Test(math.nan, "too few samples")
    if not data.any():
        return Test(1.0, "Wilcoxon signed rank")
    return Test(float(scipy_stats.wilcoxon(data).pvalue), "Wilcoxon signed rank")


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values of Holm (1979), family-wise error kept; NaN stays NaN and counts for nothing."""
    known = sorted((p, key) for key, p in p_values.items() if not math.isnan(p))
    adjusted = {key: math.nan for key in p_values}
    worst = 0.0
    for place, (p, key) in enumerate(known):
        worst = max(worst, min(1.0, p * (len(known) - place)))
        adjusted[key] = worst
    return adjusted


def hodges_lehmann(first: Sequence[float], second: Sequence[float]) -> Interval:
    """The shift of `second` over `first`: median of all differences, with the interval of the rank test.

    Hollander, Wolfe and Chicken, Nonparametric Statistical Methods, 4.3 (normal approximation of the order).
    """
    differences = np.sort(np.subtract.outer(_array(second), _array(first)).ravel())
    m, n = len(first), len(second)
    if differences.size == 0:
        return Interval(math.nan, math.nan, math.nan)
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    order = round(m * n / 2 - z * math.sqrt(m * n * (m + n + 1) / 12))
    estimate = float(np.median(differences))
    if order < 1:
        return Interval(estimate, math.nan, math.nan)
    return Interval(estimate, float(differences[order - 1]), float(differences[m * n - order]))


def cliffs_delta(first: Sequence[float], second: Sequence[float]) -> float:
    """How far `second` dominates `first`: P(second > first) - P(second < first), in -1..1 (Cliff 1993)."""
    if not len(first) or not len(second):
        return math.nan
    return float(np.mean(np.sign(np.subtract.outer(_array(second), _array(first)))))


def equivalent(
    first: Sequence[float], second: Sequence[float], margin: float, alpha: float = 0.05
) -> Equivalence:
    """Two one-sided tests (Schuirmann 1987, Welch's t) that the ratio lies within 1/(1+margin)..1+margin.

    On logarithms, since starts differ by factors; all values must be above zero.
    """
    from scipy import stats as scipy_stats

    logs_1, logs_2 = np.log(_array(first)), np.log(_array(second))
    if min(logs_1.size, logs_2.size) < 2:
        return Equivalence(math.nan, False, margin)
    bound = math.log1p(margin)
    lower = scipy_stats.ttest_ind(logs_2 + bound, logs_1, equal_var=False, alternative="greater").pvalue
    upper = scipy_stats.ttest_ind(logs_2 - bound, logs_1, equal_var=False, alternative="less").pvalue
    p = float(max(lower, upper))
    return Equivalence(p, p < alpha, margin)


def slope_interval(xs: Sequence[float], ys: Sequence[float]) -> Interval:
    """The slope of ys over xs by least squares, with Student's interval."""
    return line(xs, ys).slope


def line(xs: Sequence[float], ys: Sequence[float]) -> Slope:
    """Least squares with Student's interval for the slope."""
    from scipy import stats as scipy_stats

    nothing = Slope(Interval(math.nan, math.nan, math.nan), math.nan)
    if len(set(xs)) < 2:
        return nothing
    fit = scipy_stats.linregress(_array(xs), _array(ys))
    slope = float(fit.slope)
    if len(xs) < 3:
        return Slope(Interval(slope, math.nan, math.nan), float(fit.intercept))
    reach = float(scipy_stats.t.ppf(0.5 + CONFIDENCE / 2, len(xs) - 2) * fit.stderr)
    return Slope(Interval(slope, slope - reach, slope + reach), float(fit.intercept))


def theil_sen(xs: Sequence[float], ys: Sequence[float]) -> Slope:
    """The median slope of all pairs of points (Theil 1950, Sen 1968): one wild point does not bend it."""
    from scipy import stats as scipy_stats

    if len(set(xs)) < 2:
        return Slope(Interval(math.nan, math.nan, math.nan), math.nan)
    fit = scipy_stats.theilslopes(_array(ys), _array(xs), alpha=CONFIDENCE)
    return Slope(
        Interval(float(fit.slope), float(fit.low_slope), float(fit.high_slope)), float(fit.intercept)
    )


def log_log_slope(xs: Sequence[float], ys: Sequence[float]) -> Interval:
    """The exponent c of y = a * x**c with its interval: 0 is flat, 1 in proportion. Values above zero."""
    kept = [(x, y) for x, y in zip(xs, ys, strict=True) if x > 0 and y > 0]
    return slope_interval([math.log(x) for x, _ in kept], [math.log(y) for _, y in kept])


def relative_spread(values: Sequence[float]) -> float:
    """A robust standard deviation of the logarithms, 1.4826 * MAD; the plain one where the MAD is zero."""
    logs = np.log(_array([value for value in values if value > 0]))
    if logs.size < 2:
        return math.nan
    robust = 1.4826 * float(np.median(np.abs(logs - np.median(logs))))
    return robust or float(np.std(logs, ddof=1))


def detectable(first: Sequence[float], second: Sequence[float], power: float = 0.8) -> float:
    """The smallest relative difference that samples like these show with that power at alpha 0.05.

    Normal approximation on logarithms; times sqrt(pi/3), the price of ranks over means (Lehmann 1975).
    """
    spread = math.hypot(
        relative_spread(first) / math.sqrt(max(len(first), 1)),
        relative_spread(second) / math.sqrt(max(len(second), 1)),
    )
    z = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(power)
    return math.expm1(z * spread * math.sqrt(math.pi / 3))


def outliers(values: Sequence[float]) -> list[int]:
    """Places of values beyond Tukey's outer fences, three interquartile ranges out; told, never dropped."""
    data = _array(values)
    if data.size < 4:
        return []
    low, high = np.percentile(data, [25, 75])
    reach = 3 * (high - low)
    return [int(place) for place in np.flatnonzero((data < low - reach) | (data > high + reach))]
