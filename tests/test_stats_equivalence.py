"""Equivalence: two one-sided tests against an independent reference, and their error rates."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moderated_by_hand import t_tests
from scipy import stats as reference
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]
from statsmodels.stats.weightstats import ttost_paired  # type: ignore[import-untyped]

from hymba_lab.errors import UserError
from hymba_lab.stats import Comparison, compare, showable_margin


def table(rows: np.ndarray) -> dict[str, dict[int, float]]:
    """(rows, seeds) -> labels "0" (the baseline), "1", ..."""
    return {str(i): {seed: float(x) for seed, x in enumerate(row)} for i, row in enumerate(rows)}


def within(rows: np.ndarray, margin: float, alpha: float = 0.05) -> list[Comparison]:
    return compare(table(rows), "0", goal="maximize", alpha=alpha, margin=margin)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_it_is_tost_with_the_moderated_error_and_holms(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = 0.1 * rng.normal(size=(6, 7)) + np.linspace(0, 0.3, 6)[:, None]
    found = within(rows, 0.2)
    effects = [row.mean() - rows[0].mean() for row in rows[1:]]
    alone = [
        max(
            reference.t.sf((effect + 0.2) / error, freedom),
            reference.t.cdf((effect - 0.2) / error, freedom),
        )
        for effect, (error, freedom, _) in zip(effects, t_tests(rows), strict=True)
    ]
    rejected, corrected = multipletests(alone, 0.05, method="holm")[:2]
    assert [c.p_within for c in found] == pytest.approx(list(corrected), rel=1e-4)
    small = ["equivalent within 0.2" in c.verdict or "by less than" in c.verdict for c in found]
    assert small == list(rejected)


def test_of_two_rows_with_common_seeds_it_is_statsmodels_paired_tost() -> None:
    rng = np.random.default_rng(0)
    rows = 50 * rng.normal(size=8) + 0.1 * rng.normal(size=(2, 8))
    (found,) = within(rows, 0.2)
    assert found.p_within == pytest.approx(ttost_paired(rows[1], rows[0], -0.2, 0.2)[0], rel=1e-9)


def test_a_margin_changes_no_effect_and_no_interval() -> None:
    rows = np.random.default_rng(1).normal(size=(4, 5))
    plain = compare(table(rows), "0", goal="maximize")
    for a, b in zip(plain, within(rows, 0.5), strict=True):
        assert (a.effect, a.low, a.high, a.p_holm) == (b.effect, b.low, b.high, b.p_holm)
        assert math.isnan(a.p_within)
        assert b.p_within > 0


def test_a_difference_may_be_both_detected_and_small() -> None:
    noise = np.array([-1.0, 0.5, 0.5, 1.0, -1.0]) * 1e-3
    (found,) = within(np.array([np.zeros(5), 0.01 + noise]), 0.05)
    assert found.verdict == "better, by less than 0.05"
    assert found.decided
    (found,) = within(np.array([np.zeros(5), 1.0 + noise]), 0.05)
    assert found.verdict == "better"


@settings(deadline=None)  # a shared machine may stall any single example
@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=4, max_size=4), min_size=2, max_size=5),
    st.floats(0.01, 2),
)
def test_a_bound_below_the_margin_is_equivalence(rows: list[list[float]], margin: float) -> None:
    for c in within(np.array(rows), margin):
        if c.verdict.startswith("no detectable") and "every seed" not in c.verdict:
            assert c.bound >= margin * (1 - 1e-9)
        if c.verdict.startswith("equivalent"):
            assert abs(c.effect) < margin
            assert c.low <= 0 <= c.high


@pytest.mark.parametrize(("n", "shown"), [(3, True), (4, True)])
def test_without_spread_the_exact_test_decides(n: int, shown: bool) -> None:
    (found,) = within(np.ones((2, n)), 0.1)
    assert found.p_within == pytest.approx(1 / math.comb(2 * n, n))
    assert (found.verdict == "equivalent within 0.1") is shown
    (shifted,) = within(np.array([[0.7] * n, [0.9] * n]), 0.1)
    assert shifted.p_within == 1.0


@pytest.mark.parametrize("margin", [0.0, -0.1, math.nan, math.inf])
def test_a_margin_is_a_positive_number(margin: float) -> None:
    with pytest.raises(UserError, match="margin"):
        within(np.ones((2, 3)), margin)


@pytest.mark.slow
@pytest.mark.parametrize(("n_seeds", "n_rows"), [(3, 1), (3, 5), (6, 4)])
@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_a_row_at_the_margin_is_seldom_called_equivalent(
    n_seeds: int, n_rows: int, noise: float
) -> None:
    rng = np.random.default_rng(n_seeds * 100 + n_rows)
    sweeps, wrong = 200, 0
    for _ in range(sweeps):
        rows = noise * rng.normal(size=(n_rows + 1, n_seeds))
        rows[1:] += rng.choice([-1.0, 1.0], size=n_rows)[:, None]
        wrong += any("equivalent" in c.verdict or "less" in c.verdict for c in within(rows, 1.0))
    assert wrong <= reference.binom.ppf(0.999, sweeps, 0.05)


@pytest.mark.parametrize(("n_seeds", "n_rows"), [(3, 1), (3, 4), (8, 3)])
def test_the_showable_margin_is_shown_four_times_in_five(n_seeds: int, n_rows: int) -> None:
    rng = np.random.default_rng(n_seeds)
    margin = showable_margin(0.1, n_seeds, n_rows)
    sweeps, shown = 300, 0
    for _ in range(sweeps):
        rows = 0.1 * rng.normal(size=(n_rows + 1, n_seeds))
        rows[2:] += 100.0  # never equivalent: the first row stands at Holm's strictest step
        shown += "equivalent" in within(rows, margin)[0].verdict
    # "equivalent" but not "better": a false difference takes up to alpha of them
    assert 0.6 <= shown / sweeps <= 0.86  # variances are drawn upwards, which costs a little
    assert showable_margin(1.0, 1, 1) == math.inf
