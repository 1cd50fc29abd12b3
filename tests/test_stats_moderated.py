"""Moderated variances and the pairing rule against slow second ways to the same numbers."""

import math

import numpy as np
import pytest
from moderated_by_hand import prior, t_tests
from scipy import stats as reference
from scipy.special import polygamma

from hymba_lab.stats import Spread, against, compare, pairing_of, spread_of
from hymba_lab.stats.moderated import WILD, fit_prior, moderate, trigamma_inverse, wild
from hymba_lab.stats.pairing import choose_pairing, correlation_needed


def table(rows: np.ndarray) -> dict[str, dict[int, float]]:
    return {str(i): {seed: float(x) for seed, x in enumerate(row)} for i, row in enumerate(rows)}


@pytest.mark.parametrize("y", [1e-6, 0.01, 0.5, 3.0, 1e4])
def test_trigamma_is_inverted(y: float) -> None:
    assert polygamma(1, trigamma_inverse(y)) == pytest.approx(y, rel=1e-9)


@pytest.mark.parametrize(("seed", "freedom"), [(0, 2), (1, 2), (2, 5), (3, 11)])
def test_the_prior_matches_the_moments_of_log_f(seed: int, freedom: int) -> None:
    rng = np.random.default_rng(seed)
    true = np.exp(rng.normal(0, 1.0, 8))
    variances = true * rng.chisquare(freedom, 8) / freedom
    found = fit_prior([Spread(float(v), freedom) for v in variances])
    expected = prior(variances, freedom)
    assert math.isinf(found.freedom) == math.isinf(expected[1])
    assert found.variance == pytest.approx(expected[0], rel=1e-5)
    if not math.isinf(found.freedom):
        assert found.freedom == pytest.approx(expected[1], rel=1e-5)


def test_the_prior_is_found_again_from_many_rows() -> None:
    rng = np.random.default_rng(0)
    variances = 2.0 * rng.f(4, 6, size=20_000)
    found = fit_prior([Spread(float(v), 4) for v in variances])
    assert found.variance == pytest.approx(2.0, rel=0.05)
    assert found.freedom == pytest.approx(6, rel=0.1)
    alike = fit_prior([Spread(float(v), 4) for v in rng.chisquare(4, 5) / 4 * 0 + 1.0])
    assert alike == (1.0, math.inf)


@pytest.mark.parametrize("seed", range(6))
def test_every_comparison_is_the_moderated_t_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(5, 4)) * np.exp(rng.normal(0, 0.8, 5))[:, None]
    others = rng.normal(size=(6, 4)) if seed % 2 else None
    spreads = [] if others is None else [spread_of(list(row)) for row in others]
    found, pairing = against(table(rows), "0", others=spreads)
    assert not pairing.paired
    for one, (error, freedom, p) in zip(found.values(), t_tests(rows, others), strict=True):
        assert one.error == pytest.approx(error, rel=1e-5)
        assert one.freedom == pytest.approx(freedom, rel=1e-5)
        assert one.p == pytest.approx(p, rel=1e-5)


def test_alike_rows_give_the_pooled_t_test() -> None:
    rows = np.array([[1.0, 2.0, 3.0], [4.1, 2.0, 3.1], [6.0, 7.1, 5.0]])
    found, _ = against(table(rows), "0")
    pooled = math.sqrt(rows.var(axis=1, ddof=1).mean())
    for label in ("1", "2"):
        t = (rows[int(label)].mean() - 2.0) / (pooled * math.sqrt(2 / 3))
        assert 4 < found[label].freedom <= 6
        # at most half-way: the noisiest row's own variance counts for a half
        assert found[label].error >= pooled * math.sqrt(2 / 3) * (1 - 1e-12)
        assert found[label].p == pytest.approx(2 * reference.t.sf(t, 6), rel=0.05)


def test_a_lucky_variance_is_raised_and_an_unlucky_one_kept_half_way() -> None:
    own = [Spread(1e-6, 2), Spread(1.0, 2), Spread(1.2, 2), Spread(9.0, 2)]
    lucky, *_, unlucky = moderate(own)
    pooled = sum(one.variance for one in own) / 4
    assert lucky.variance >= pooled
    assert unlucky.variance >= (9.0 + min(unlucky.variance, pooled)) / 2 * 0.999
    assert all(one.freedom <= 8 for one in moderate(own))


def test_a_row_that_diverged_says_nothing_of_the_others() -> None:
    calm = [Spread(1.0, 2), Spread(1.3, 2), Spread(0.8, 2)]
    loud = Spread(1e6, 2)
    assert wild([*calm, loud]) == [False, False, False, True]
    assert moderate([*calm, loud]) == [*moderate(calm), loud]
    assert wild([*calm, loud, Spread(1e12, 2)]) == [False, False, False, True, True]
    f = reference.f.isf(WILD / 4, 2, 6)  # over four rows, against the three calmer ones
    pooled = sum(one.variance for one in calm) / 3
    assert wild([*calm, Spread(0.99 * f * pooled, 2)])[-1] is False
    assert wild([*calm, Spread(1.01 * f * pooled, 2)])[-1] is True
    many = [Spread(one.variance, 30) for one in calm]  # here chance is soon excluded
    assert wild([*many, Spread(99.0 * pooled, 30)])[-1] is False
    assert wild([*many, Spread(101.0 * pooled, 30)])[-1] is True
    assert not any(wild([Spread(1.0, 2), loud])), "of two rows neither is the rule"
    assert wild([Spread(0.0, 2), Spread(0.0, 0), *calm, loud])[-1] is True


def test_spreads_that_were_not_seen_say_nothing() -> None:
    own = [Spread(0.0, 2), Spread(1.0, 2), Spread(1.1, 2)]
    unseen, *seen = moderate(own)
    assert seen == moderate(own[1:])
    assert unseen.variance >= 1.0
    assert moderate([Spread(0.0, 2)]) == [Spread(0.0, 2)]
    assert moderate([Spread(2.0, 2)]) == [Spread(2.0, 2)]


# --- pairing


def test_pairing_pays_from_the_known_correlations() -> None:
    needed = [round(correlation_needed(n), 2) for n in (3, 6, 12)]
    assert needed == [0.58, 0.25, 0.11]
    assert correlation_needed(1) == 1.0


def test_two_paired_rows_are_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    rows = 50 * rng.normal(size=8) + rng.normal(size=(2, 8)) + np.array([[0.0], [2.0]])
    (found,) = compare(table(rows), "0", goal="maximize")
    expected = reference.ttest_rel(rows[1], rows[0])
    interval = expected.confidence_interval(0.95)
    assert pairing_of(table(rows), "0").paired
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_the_correlation_is_that_of_the_layout() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=200) * 2 + rng.normal(size=(4, 200))
    found = choose_pairing(table(rows))
    assert found.correlation == pytest.approx(0.8, abs=0.05)  # 4 / (4 + 1)
    assert found.low < found.correlation
    assert found.paired
    assert "seed by seed" in str(found)


def test_independent_seeds_and_missing_seeds_are_not_paired() -> None:
    rng = np.random.default_rng(2)
    paired = [choose_pairing(table(rng.normal(size=(4, 3)))).paired for _ in range(300)]
    assert sum(paired) <= 3
    rows = table(50 * rng.normal(size=6) + rng.normal(size=(3, 6)))
    assert choose_pairing(rows).paired
    del rows["2"][4]
    found = choose_pairing(rows)
    assert not found.paired
    assert "not the same" in str(found)
    assert not choose_pairing({"a": {0: 1.0, 1: 2.0, 2: 3.0}}).paired
    assert not choose_pairing(table(np.ones((2, 4)))).paired
    assert not choose_pairing(table(np.array([0.1, 0.2, 0.4]) + np.array([[0.0], [0.3]]))).paired


def test_missing_seeds_do_not_move_who_is_paired_with_whom() -> None:
    rows = table(50 * np.arange(6.0) + np.random.default_rng(3).normal(size=(3, 6)))
    backwards = {label: dict(reversed(row.items())) for label, row in rows.items()}
    assert compare(backwards, "0", goal="minimize") == compare(rows, "0", goal="minimize")
