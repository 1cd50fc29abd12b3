"""Verdicts: closed forms, error rates over simulated sweeps, and the cases without spread."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

from hymba_lab.errors import UserError
from hymba_lab.stats import (
    Comparison,
    all_alike_by_luck,
    compare,
    detectable_effect,
    detectable_in_sd,
    mean_interval,
    paired_sd,
    pareto_front,
    round_up,
    two_levels,
)

DECIDED = ("better", "worse")


def table(rows: np.ndarray) -> dict[str, dict[int, float]]:
    """(rows, seeds) -> labels "0" (the baseline), "1", ..."""
    return {str(i): {seed: float(x) for seed, x in enumerate(row)} for i, row in enumerate(rows)}


def one(row: list[float], base: list[float], alpha: float = 0.05) -> Comparison:
    (found,) = compare(table(np.array([base, row])), "0", goal="maximize", alpha=alpha)
    return found


def test_one_row_is_the_paired_t_test() -> None:
    rows = np.random.default_rng(0).normal(size=(2, 6))
    found = one(list(rows[1]), list(rows[0]))
    expected = reference.ttest_rel(rows[1], rows[0])
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.effect == pytest.approx((rows[1] - rows[0]).mean())
    own = reference.ttest_1samp(rows[1], 0).confidence_interval(0.95)
    assert (found.mean_low, found.mean_high) == pytest.approx((own.low, own.high))


@pytest.mark.parametrize("seed", range(5))
def test_correction_is_holms(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(7, 5)) + np.linspace(0, 4, 7)[:, None]
    found = compare(table(rows), "0", goal="maximize")
    alone = [reference.ttest_rel(row, rows[0]).pvalue for row in rows[1:]]
    rejected, corrected = multipletests(alone, 0.05, method="holm")[:2]
    assert [c.p_holm for c in found] == pytest.approx(list(corrected), rel=1e-9)
    assert [c.verdict in DECIDED for c in found] == list(rejected)


def test_intervals_are_bonferronis_except_where_only_holm_detects() -> None:
    # p-values near 1e-6, 0.02 and 0.9: Bonferroni (0.0167) sees one difference, Holm two.
    noise = np.array([-1.0, 0.5, 0.5, 1.0, -1.0])
    shifts = [5.0, 1.5, 0.05]
    scales = [0.1, 1.0, 1.0]
    rows = np.array([np.zeros(5), *(a + b * noise for a, b in zip(shifts, scales, strict=True))])
    strong, middle, none = compare(table(rows), "0", goal="maximize")
    assert 0.05 / 3 < middle.p < 0.05 / 2
    assert [strong.verdict, middle.verdict] == ["better", "better"]
    assert none.verdict.startswith("no detectable difference")
    for found, row, level in [(strong, 1, 3), (middle, 2, 2), (none, 3, 3)]:
        interval = reference.ttest_rel(rows[row], rows[0]).confidence_interval(1 - 0.05 / level)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_the_first_failure_ends_the_stepping_down() -> None:
    # Two rows at p = 0.04: the smaller fails at 0.025, so the larger may not pass at 0.05.
    rows = np.array([[0.0] * 4, [1.0, 2.0, 3.0, 0.9], [1.0, 2.0, 3.0, 0.8]])
    found = compare(table(rows), "0", goal="maximize")
    assert all(0.05 / 2 < c.p < 0.05 < c.p_holm for c in found)
    assert all(c.verdict.startswith("no detectable difference") for c in found)


def test_order_of_the_seeds_does_not_matter_to_the_last_bit() -> None:
    rows = table(np.random.default_rng(0).normal(size=(3, 9)))
    backwards = {label: dict(reversed(row.items())) for label, row in rows.items()}
    assert compare(backwards, "0", goal="maximize") == compare(rows, "0", goal="maximize")


def test_goal_sets_the_name_but_not_the_sign() -> None:
    rows = table(np.array([[1.0, 1.1, 0.9, 1.0], [2.0, 2.2, 1.9, 2.1]]))
    (up,) = compare(rows, "0", goal="maximize")
    (down,) = compare(rows, "0", goal="minimize")
    assert (up.verdict, down.verdict) == ("better", "worse")
    assert up.effect == down.effect > 0


values = st.one_of(
    st.floats(-10, 10), st.sampled_from([0.17, 1.0, math.nan, math.inf]), st.floats(-1e-9, 1e-9)
)
tables = st.dictionaries(
    st.sampled_from("abcdef"), st.dictionaries(st.integers(0, 6), values, max_size=7), max_size=6
)


@settings(deadline=None)  # a shared machine may stall any single example
@given(tables, st.dictionaries(st.integers(0, 6), values), st.sampled_from([0.01, 0.05, 0.2]))
def test_verdict_and_interval_never_disagree(
    rows: dict[str, dict[int, float]], base: dict[int, float], alpha: float
) -> None:
    rows = {"base": base, **rows}
    found = compare(rows, "base", goal="maximize", alpha=alpha)
    assert [c.label for c in found] == list(rows)[1:]
    everyone = {seed for row in rows.values() for seed in row}
    for c in found:
        assert c.n + c.n_missing == len(everyone)
        if c.verdict in DECIDED:
            assert (c.low > 0) if c.verdict == "better" else (c.high < 0)
            assert c.p <= c.p_holm <= alpha * (1 + 1e-9)
            assert math.isnan(c.bound)
        elif c.verdict.startswith("no detectable difference"):
            assert c.low <= 0 <= c.high
            assert c.bound == max(-c.low, c.high)
            assert c.p_holm > alpha * (1 - 1e-9)
        else:
            assert c.verdict == "too few seeds"
            assert math.isnan(c.low) or c.low <= 0 <= c.high
        assert math.isnan(c.low) or c.low <= c.effect <= c.high


@pytest.mark.parametrize(("n_seeds", "n_rows"), [(2, 1), (3, 1), (3, 5), (5, 3), (8, 7)])
def test_same_configuration_under_many_labels_is_seldom_called_different(
    n_seeds: int, n_rows: int
) -> None:
    rng = np.random.default_rng(n_seeds * 100 + n_rows)
    sweeps = 1000
    wrong = 0
    for _ in range(sweeps):
        rows = 0.6 + 0.02 * rng.normal(size=n_seeds) + 0.05 * rng.normal(size=(n_rows + 1, n_seeds))
        found = compare(table(rows), "0", goal="maximize")
        wrong += any(c.verdict in DECIDED for c in found)
    # A rate of exactly 5 % (one row: the test is exact) stays below this in 999 of 1000 draws.
    assert wrong <= reference.binom.ppf(0.999, sweeps, 0.05)


@pytest.mark.parametrize(("n_seeds", "n_rows"), [(2, 2), (3, 1), (3, 5), (5, 7), (12, 3)])
def test_twice_the_detectable_effect_is_found(n_seeds: int, n_rows: int) -> None:
    rng = np.random.default_rng(n_seeds * 100 + n_rows)
    sd = 0.05  # of a single run; of the difference of two: sqrt(2) times that
    effect = 2 * detectable_effect(math.sqrt(2) * sd, n_seeds, n_rows)
    sweeps = 500
    found = 0
    for _ in range(sweeps):
        rows = sd * rng.normal(size=(n_rows + 1, n_seeds))
        rows[1] += effect
        found += compare(table(rows), "0", goal="maximize")[0].verdict == "better"
    assert found >= 0.95 * sweeps


@pytest.mark.parametrize("n_seeds", [2, 3, 6])
def test_the_detectable_effect_is_found_four_times_in_five(n_seeds: int) -> None:
    rng = np.random.default_rng(n_seeds)
    differences = detectable_in_sd(n_seeds, 1) + rng.normal(size=(1500, n_seeds))
    zeros = [0.0] * n_seeds
    found = sum(one(list(row), zeros).verdict == "better" for row in differences)
    assert found / 1500 == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize(("n_seeds", "n_rows"), [(3, 4), (6, 4)])
def test_bounds_of_a_table_hold_together(n_seeds: int, n_rows: int) -> None:
    rng = np.random.default_rng(n_seeds)
    sweeps = 600
    broken = 0
    for _ in range(sweeps):
        effects = rng.choice([0.0, 0.5, 2.0, 20.0], size=n_rows)
        rows = rng.normal(size=(n_rows + 1, n_seeds))
        rows[1:] += effects[:, None]
        found = compare(table(rows), "0", goal="maximize")
        broken += any(abs(true) > c.bound for true, c in zip(effects, found, strict=True))
    assert broken <= reference.binom.ppf(0.999, sweeps, 0.05)


def test_equal_rows_show_no_difference() -> None:
    found = one([1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    assert found.verdict == "no detectable difference (equal on every seed)"
    assert (found.effect, found.low, found.high, found.p, found.bound) == (0, 0, 0, 1, 0)


@pytest.mark.parametrize(
    ("n", "verdict"),
    [(2, "too few seeds"), (3, "too few seeds"), (5, "too few seeds"), (6, "worse")],
)
def test_equal_differences_are_judged_by_the_sign_flip_test(n: int, verdict: str) -> None:
    found = one([0.1] * n, [0.7 + 0.1] * n)
    flips = [sum(signs) for signs in itertools.product((-1, 1), repeat=n)]
    assert found.p == sum(abs(flip) >= n for flip in flips) / len(flips)
    assert found.verdict == verdict
    assert (found.high < 0) == (verdict == "worse")


def test_rounding_noise_is_no_spread() -> None:
    base = [0.1, 0.2, 0.3, 0.4]
    found = one([x + 0.3 for x in base], base)  # the differences vary by 1e-17
    assert (found.p, found.verdict) == (0.125, "too few seeds")


def test_missing_values_are_dropped_and_counted() -> None:
    rows = {
        "base": {0: 1.0, 1: 1.1, 2: 0.9},
        "nan": {0: 2.0, 1: math.nan, 2: 2.2},
        "short": {1: 2.0},
        "empty": {0: math.nan},
        "other seeds": {7: 3.0, 8: 3.1},
    }
    found = {c.label: c for c in compare(rows, "base", goal="maximize")}
    assert [(c.n, c.n_missing) for c in found.values()] == [(2, 3), (1, 4), (0, 5), (0, 5)]
    assert [c.verdict for c in found.values()][1:] == ["too few seeds"] * 3
    assert found["nan"].mean == pytest.approx(2.1)
    assert found["nan"].p == found["nan"].p_holm  # rows without a test do not cost the others
    assert math.isnan(found["empty"].mean)
    assert math.isnan(found["short"].low)


def test_an_unknown_baseline_names_the_rows() -> None:
    with pytest.raises(UserError, match=r"'none'.*'a', 'b'"):
        compare({"a": {}, "b": {}}, "none", goal="maximize")


def test_mean_interval() -> None:
    data = [1.0, 2.0, 4.0, math.nan]
    expected = reference.ttest_1samp(data[:3], 0).confidence_interval(0.9)
    found = mean_interval(data, alpha=0.1)
    assert found == pytest.approx((7 / 3, expected.low, expected.high, 3))
    assert mean_interval([2.0])[:1] == (2.0,)
    assert math.isnan(mean_interval([2.0]).low)
    assert math.isnan(mean_interval([]).mean)
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5, 0.5, 2)


@pytest.mark.parametrize(("n_seeds", "n_rows"), [(4, 1), (5, 3), (10, 5), (30, 2)])
def test_detectable_effect_is_that_of_noncentral_t(n_seeds: int, n_rows: int) -> None:
    shift = detectable_effect(2.0, n_seeds, n_rows, power=0.9) / 2.0 * math.sqrt(n_seeds)
    critical = reference.t.isf(0.05 / n_rows / 2, n_seeds - 1)
    power = reference.nct.sf(critical, n_seeds - 1, shift)
    assert power == pytest.approx(0.9, abs=1e-3)


def test_detectable_effect_shrinks_with_seeds_and_grows_with_rows() -> None:
    by_seeds = [detectable_in_sd(n, 3) for n in (1, 2, 3, 5, 10)]
    by_rows = [detectable_in_sd(3, m) for m in (1, 2, 5, 20)]
    assert by_seeds[0] == math.inf
    assert by_seeds == sorted(by_seeds, reverse=True)
    assert by_rows == sorted(by_rows)
    assert detectable_effect(0.1, 3, 5) == pytest.approx(0.1 * by_rows[2])


@pytest.mark.parametrize("arguments", [(0.1, 3, 0), (-0.1, 3, 1)])
def test_detectable_effect_refuses_nonsense(arguments: tuple[float, int, int]) -> None:
    with pytest.raises(UserError, match="needs a row besides the baseline"):
        detectable_effect(*arguments)


def test_paired_sd_pools_differences_or_falls_back_on_rows() -> None:
    rng = np.random.default_rng(0)
    rows = table(3 * rng.normal(size=400) + rng.normal(size=(3, 400)))
    assert paired_sd(rows, "0") == pytest.approx(math.sqrt(2), rel=0.1)
    assert paired_sd({"0": rows["0"]}, "0") == pytest.approx(math.sqrt(2 * 10), rel=0.1)
    apart = {"0": {0: 1.0, 1: 2.0}, "1": {5: 1.0, 6: 2.0}}
    assert paired_sd(apart, "0") == pytest.approx(math.sqrt(2) * math.sqrt(0.5))


@pytest.mark.parametrize("row", [{}, {0: 1.0}, {0: 1.0, 1: 1.0}, {0: 0.1 + 0.2, 1: 0.3}])
def test_paired_sd_of_no_spread_is_unknown(row: dict[int, float]) -> None:
    assert math.isnan(paired_sd({"a": row}))


def test_two_levels_sees_jumps_and_nothing_else() -> None:
    jump = {"a": {0: 0.17, 1: 1.0, 2: 0.95}, "b": {0: 0.16, 1: 0.18, 2: 0.99}}
    assert two_levels(jump) == pytest.approx((0.17, 0.98), abs=1e-9)
    apart = {"a": {0: 0.17, 1: 0.18, 2: 0.16}, "b": {0: 0.98, 1: 0.99, 2: 1.0}}
    assert two_levels(apart) is None  # a plain effect: no row is on both levels
    wide = {"a": {0: 0.0, 1: 0.3, 2: 0.9}, "b": {0: 0.1, 1: 1.0, 2: 1.2}}
    assert two_levels(wide) is None  # the gap is only twice the width of a cluster
    rng = np.random.default_rng(0)
    bell = [two_levels(table(rng.normal(size=(4, 3)))) for _ in range(200)]
    assert sum(found is not None for found in bell) <= 10
    assert two_levels({}) is None


@pytest.mark.parametrize(("n_seeds", "n_rows"), [(2, 1), (3, 5), (5, 4)])
def test_luck_is_bounded(n_seeds: int, n_rows: int) -> None:
    solved = np.random.default_rng(0).random((20000, n_rows + 1, n_seeds)) < 0.5
    total = solved.sum(axis=2)
    base, rows = total[:, :1], total[:, 1:]
    alike = ((base == 0) & (rows == n_seeds)) | ((base == n_seeds) & (rows == 0))
    bound = all_alike_by_luck(n_seeds, n_rows)
    assert bound / 3 < alike.any(axis=1).mean() <= bound * 1.1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.013"), (0.012, "0.012"), (99.5, "100"), (0.1, "0.10"), (123.4, "130"), (0, "0")],
)
def test_round_up(value: float, text: str) -> None:
    assert round_up(value) == text


@settings(deadline=None)  # a shared machine may stall any single example
@given(st.floats(1e-12, 1e12))
def test_a_rounded_bound_still_bounds(value: float) -> None:
    assert value <= float(round_up(value)) <= value * 1.1


def test_pareto_front() -> None:
    points = [(1.0, 5.0), (2.0, 5.0), (2.0, 6.0), (0.5, 1.0), (2.0, 5.0), (9.0, math.nan)]
    front = pareto_front(points, ["maximize", "minimize"])
    assert front == [False, True, False, True, True, False]
    assert pareto_front([], ["maximize"]) == []
    with pytest.raises(UserError, match="1 coordinates"):
        pareto_front([(1.0, 2.0)], ["maximize"])


@settings(deadline=None)  # a shared machine may stall any single example
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1))
def test_pareto_front_agrees_with_the_definition(points: list[tuple[int, int]]) -> None:
    def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    expected = [not any(beats(other, point) for other in points) for point in points]
    assert pareto_front(points, ["maximize", "minimize"]) == expected


def test_statistics_and_tables_load_no_training_code() -> None:
    code = (
        "import sys, hymba_lab.tables.result\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'optuna', 'statsmodels'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
