"""Statistics against published worked examples, other formulas, and simulation with a known truth."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench.core import stats

# Hollander, Wolfe and Chicken, example 4.1: permeability of the chorioamnion (also in R's ?wilcox.test).
AT_TERM = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
EARLY = [1.15, 0.88, 0.90, 0.74, 1.21]
# The same book, example 3.1: depression scale before and after tranquilizer (also in R's ?wilcox.test).
BEFORE = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
AFTER = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]


def test_mann_whitney_of_the_book() -> None:
    assert stats.mann_whitney(AT_TERM, EARLY).p == pytest.approx(2 * 0.1272, abs=2e-4)


def test_wilcoxon_of_the_book() -> None:
    differences = [after - before for before, after in zip(BEFORE, AFTER, strict=True)]
    assert stats.wilcoxon(differences).p == pytest.approx(2 * 0.01953, abs=1e-4)


def test_hodges_lehmann_of_the_book() -> None:
    shift = stats.hodges_lehmann(AT_TERM, EARLY)
    assert shift.estimate == pytest.approx(-0.305)
    assert (shift.low, shift.high) == (pytest.approx(-0.76), pytest.approx(0.15))


def test_holm_of_a_worked_example() -> None:
    found = stats.holm({"h1": 0.01, "h2": 0.04, "h3": 0.03, "h4": 0.005})
    expected = {"h1": 0.03, "h2": 0.06, "h3": 0.06, "h4": 0.02}
    assert {name: round(p, 10) for name, p in found.items()} == expected


def test_holm_leaves_what_could_not_be_tested_out_of_the_family() -> None:
    found = stats.holm({"a": 0.01, "b": math.nan, "c": 0.04})
    assert (found["a"], found["c"]) == (0.02, 0.04)
    assert math.isnan(found["b"])


def test_cliffs_delta_by_counting() -> None:
    first, second = [1.0, 2.0, 3.0], [2.0, 3.0, 4.0, 5.0]
    more = sum(b > a for a in first for b in second)
    less = sum(b < a for a in first for b in second)
    assert stats.cliffs_delta(first, second) == pytest.approx((more - less) / 12)
    assert stats.cliffs_delta(first, [9.0]) == 1


def test_the_sign_flip_test_is_exact_for_few_pairs() -> None:
    # Five differences of one sign: 2 of 32 flips are as extreme.
    assert stats.paired_permutation([1.0, 2.0, 3.0, 4.0, 5.0]).p == pytest.approx(2 / 32)


def test_median_intervals_cover_the_truth_as_often_as_they_say() -> None:
    chance = np.random.default_rng(5)
    covered = sum(stats.median_interval(chance.lognormal(0, 0.3, 25)).holds(1.0) for _ in range(200))
    assert 180 <= covered <= 198  # 190 expected; binomial 3 sigma is 9


def test_the_bca_interval_is_scipys_with_our_seed() -> None:
    data = np.random.default_rng(1).lognormal(0, 0.5, 30)
    theirs = scipy_stats.bootstrap(
        (data,), np.median, n_resamples=stats.RESAMPLES, method="BCa", rng=np.random.default_rng(stats.SEED)
    ).confidence_interval
    assert stats.median_interval(data.tolist())[1:] == (theirs.low, theirs.high)


def test_the_same_samples_say_the_same_twice() -> None:
    assert stats.median_interval(AT_TERM) == stats.median_interval(AT_TERM)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0]])
def test_too_few_samples_have_no_interval(values: list[float]) -> None:
    found = stats.median_interval(values)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(found.estimate) == (not values)


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert stats.median_interval([2.0] * 5) == (2.0, 2.0, 2.0)


def test_drift_that_hits_whole_blocks_cancels_in_paired_ratios() -> None:
    chance = random.Random(1)
    drift = [1 + place / 10 for place in range(20)]
    pairs = [(2 * d * chance.uniform(0.99, 1.01), d * chance.uniform(0.99, 1.01)) for d in drift]
    paired = stats.ratio_interval(pairs)
    assert paired.holds(2.0)
    assert paired.half_width < 0.01
    assert stats.ratio_of_medians(pairs).holds(2.0)


def test_a_base_of_zero_has_no_ratio() -> None:
    assert math.isnan(stats.ratio_interval([(1.0, 0.0)]).estimate)
    assert math.isnan(stats.ratio_of_medians([(1.0, 0.0)]).estimate)


def test_equivalence_is_two_one_sided_welch_tests_on_logarithms() -> None:
    chance = np.random.default_rng(3)
    first, second = chance.lognormal(0, 0.02, 30), chance.lognormal(0.01, 0.02, 30)
    found = stats.equivalent(first.tolist(), second.tolist(), 0.05)
    difference = np.log(second).mean() - np.log(first).mean()
    error = math.sqrt(np.log(first).var(ddof=1) / 30 + np.log(second).var(ddof=1) / 30)
    t = (math.log(1.05) - difference) / error
    assert found.equivalent
    assert found.p == pytest.approx(scipy_stats.t.sf(t, 57), rel=0.05)
    assert not stats.equivalent(first.tolist(), (second * 1.05).tolist(), 0.05).equivalent


def test_slopes_of_exact_lines() -> None:
    xs = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert stats.log_log_slope(xs, [3 * x**0.7 for x in xs]).estimate == pytest.approx(0.7)
    assert stats.slope_interval(xs, [5 * x + 3 for x in xs]).estimate == pytest.approx(5)
    assert stats.theil_sen(xs, [5 * x + (1000 if x == 8 else 0) for x in xs]).slope.estimate == pytest.approx(
        5
    )


def test_least_squares_is_scipys_with_students_interval() -> None:
    chance = np.random.default_rng(2)
    xs = np.arange(20.0)
    ys = 3 * xs + chance.normal(0, 2, 20)
    fit = scipy_stats.linregress(xs, ys)
    reach = scipy_stats.t.ppf(0.975, 18) * fit.stderr
    found = stats.slope_interval(xs.tolist(), ys.tolist())
    assert found == pytest.approx((fit.slope, fit.slope - reach, fit.slope + reach))


def test_one_x_has_no_slope() -> None:
    assert math.isnan(stats.slope_interval([1.0, 1.0], [1.0, 2.0]).estimate)


def test_the_detectable_difference_is_found_four_times_in_five() -> None:
    chance = np.random.default_rng(11)
    first = chance.lognormal(0, 0.08, (300, 40))
    size = stats.detectable(first[0].tolist(), first[1].tolist())
    second = chance.lognormal(math.log1p(0.05), 0.08, (300, 40))
    found = np.mean([stats.mann_whitney(a, b).p < 0.05 for a, b in zip(first, second, strict=True)])
    assert 0.03 < size < 0.08
    assert 0.70 < found < 0.90  # sigma 8 %, 40 runs: 5 % is the detectable size by the formula


def test_outliers_are_told_by_place() -> None:
    assert stats.outliers([1.0, 1.1, 0.9, 1.0, 1.05, 9.0]) == [5]


@pytest.mark.parametrize(
    "values", [[1.0, 1.2, 1.1, 5.0, 1.3, 1.15, 1.05], [float(n**2 % 37) for n in range(60)]]
)
def test_the_median_interval_is_that_of_scipys_bca_bootstrap(values: list[float]) -> None:
    theirs = scipy_stats.bootstrap(
        (np.array(values),), np.median, n_resamples=stats.RESAMPLES, method="BCa",
        rng=np.random.default_rng(stats.SEED),
    ).confidence_interval  # fmt: skip
    assert stats.median_interval(values)[1:] == pytest.approx((theirs.low, theirs.high))


def test_the_paired_ratios_interval_is_that_of_scipys_bca_bootstrap() -> None:
    rng = np.random.default_rng(3)
    pairs = np.column_stack((rng.lognormal(0.2, 0.1, 40), rng.lognormal(0.0, 0.1, 40)))

    def ratio(top: np.ndarray, base: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(np.median(top, axis=axis) / np.median(base, axis=axis))

    theirs = scipy_stats.bootstrap(
        (pairs[:, 0], pairs[:, 1]), ratio, n_resamples=stats.RESAMPLES, method="BCa", paired=True,
        vectorized=True, rng=np.random.default_rng(stats.SEED),
    ).confidence_interval  # fmt: skip
    ours = stats.ratio_of_medians([(float(top), float(base)) for top, base in pairs])
    assert ours[1:] == pytest.approx((theirs.low, theirs.high), rel=0.01)
