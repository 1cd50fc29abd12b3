"""Verdicts: closed forms, error rates over simulated sweeps, and the cases without spread."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moderated_by_hand import t_tests
from scipy import stats as reference
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

from hymba_lab.errors import UserError
from hymba_lab.stats import (
    Comparison,
    compare,
    detectable_effect,
    mean_interval,
    pareto_front,
    round_up,
    run_sd,
    seeds_needed,
    showable_margin,
)

DECIDED = ("better", "worse")


def table(rows: np.ndarray) -> dict[str, dict[int, float]]:
    """(rows, seeds) -> labels "0" (the baseline), "1", ..."""
    return {str(i): {seed: float(x) for seed, x in enumerate(row)} for i, row in enumerate(rows)}


def one(row: list[float], base: list[float], alpha: float = 0.05) -> Comparison:
    (found,) = compare(table(np.array([base, row])), "0", goal="maximize", alpha=alpha)
    return found


def test_two_rows_are_welchs_freedom_and_the_common_error() -> None:
    rows = np.random.default_rng(0).normal(size=(2, 6))
    found = one(list(rows[1]), list(rows[0]))
    expected = reference.ttest_ind(rows[1], rows[0], equal_var=False)
    own = reference.ttest_1samp(rows[1], 0).confidence_interval(0.95)
    assert found.effect == pytest.approx((rows[1] - rows[0]).mean())
    # Two spreads that differ by chance only are one pooled spread, the larger one half-way kept.
    assert expected.pvalue * 0.99 <= found.p <= expected.pvalue * 1.5
    assert (found.mean_low, found.mean_high) == pytest.approx((own.low, own.high))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_correction_and_intervals_are_holms_of_the_moderated_tests(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(7, 5)) + np.linspace(0, 4, 7)[:, None]
    found = compare(table(rows), "0", goal="maximize")
    alone = t_tests(rows)
    rejected, corrected = multipletests([p for *_, p in alone], 0.05, method="holm")[:2]
    assert [c.p_holm for c in found] == pytest.approx(list(corrected), rel=1e-4)
    assert [c.verdict in DECIDED for c in found] == list(rejected)
    for c, (error, freedom, p) in zip(found, alone, strict=True):
        half = reference.t.isf(0.05 / 6 / 2, freedom) * error
        low, high = c.effect - half, c.effect + half
        if p > 0.05 / 6 and c.verdict in DECIDED:  # only Holm detects, which tells the sign alone
            low, high = (0.0, high) if c.effect > 0 else (low, 0.0)
        assert (c.low, c.high) == pytest.approx((low, high), rel=1e-4)


@pytest.mark.parametrize(
    ("n", "verdict"),
    [(2, "too few seeds"), (3, "too few seeds"), (4, "worse"), (6, "worse")],
)
def test_rows_without_any_spread_are_judged_by_the_exact_test(n: int, verdict: str) -> None:
    found = one([0.1] * n, [0.7 + 0.1] * n)
    if n > 2:
        assert found.p == pytest.approx(2 / math.comb(2 * n, n))
    assert found.verdict == verdict
    assert (found.high < 0) == (verdict == "worse")


def test_missing_values_are_dropped_and_counted() -> None:
    rows = {
        "base": {0: 1.0, 1: 1.1, 2: 0.9},
        "nan": {0: 2.0, 1: math.nan, 2: 2.2, 3: 2.1},
        "short": {1: 2.0},
        "empty": {0: math.nan},
        "other seeds": {7: 3.0, 8: 3.1, 9: 3.0},
    }
    found = {c.label: c for c in compare(rows, "base", goal="maximize")}
    assert [(c.n, c.n_missing) for c in found.values()] == [(3, 4), (1, 6), (0, 7), (3, 4)]
    assert [found[label].verdict for label in ("short", "empty")] == ["too few seeds"] * 2
    assert found["nan"].mean == pytest.approx(2.1)
    assert found["other seeds"].verdict == found["nan"].verdict == "better"  # groups need no pairs
    assert math.isnan(found["empty"].mean)
    assert math.isnan(found["short"].low)


def test_bounds_stay_within_what_the_metric_can_be() -> None:
    rows = table(np.array([[0.9, 0.2, 0.95], [0.3, 0.9, 0.2], [0.31, 0.3, 0.9]]))
    for c in compare(rows, "0", goal="maximize", limits=(0.0, 1.0)):
        assert -1 <= c.low <= c.high <= 1
        assert c.bound <= 1
        assert "any could have been missed" in c.verdict
    unbounded = compare(rows, "0", goal="maximize")
    assert all(c.bound > 1 for c in unbounded)


def test_bounds_know_that_the_baseline_has_noise_too() -> None:
    """Baselines of 0.9 on average, rows near the limit: 95 of 100 intervals hold the truth."""
    rng = np.random.default_rng(0)
    hits = np.zeros(2)
    for _ in range(400):
        base = np.clip(rng.normal(0.9, 0.03, 6), 0, 1)
        row = np.clip(rng.normal(0.998, 0.001, 6), 0, 1)
        (found,) = compare(table(np.stack([base, row])), "0", goal="maximize", limits=(0.0, 1.0))
        cut = min(found.high, 1 - base.mean())  # at the measured mean
        hits += [found.low <= 0.098 <= found.high, found.low <= 0.098 <= cut]
    print("intervals that hold the truth, and if cut at the measured mean:", hits / 400)
    assert hits[0] >= 0.94 * 400 > 0.7 * 400 > hits[1]


def test_the_detectable_effect_is_that_of_noncentral_t() -> None:
    for n_seeds, n_rows in [(4, 1), (5, 3), (10, 5), (30, 2)]:
        freedom = (n_rows + 1) * (n_seeds - 1)
        shift = detectable_effect(2.0, n_seeds, n_rows, power=0.9) / 2.0 * math.sqrt(n_seeds / 2)
        critical = reference.t.isf(0.05 / n_rows / 2, freedom)
        assert reference.nct.sf(critical, freedom, shift) == pytest.approx(0.9, abs=2e-3)


def test_detectable_effect_shrinks_with_seeds_and_grows_with_rows() -> None:
    by_seeds = [detectable_effect(1.0, n, 3) for n in (1, 2, 3, 5, 10)]
    assert by_seeds[0] == math.inf
    assert by_seeds == sorted(by_seeds, reverse=True)
    late = [detectable_effect(1.0, 6, m) for m in (1, 2, 5, 20)]
    assert late == sorted(late)


@pytest.mark.parametrize(("n", "n_rows"), [(3, 4), (6, 2)])
def test_as_many_seeds_as_needed_find_the_effect_four_times_in_five(n: int, n_rows: int) -> None:
    effect = detectable_effect(1.0, n, n_rows) * 1.02
    needed = seeds_needed(math.sqrt(2 / 5), 5, effect, n_rows)
    assert needed in (n, n + 1)
    rng, found = np.random.default_rng(n), 0
    for _ in range(300):
        rows = rng.normal(size=(n_rows + 1, n))
        rows[1] += effect
        found += compare(table(rows), "0", goal="maximize")[0].verdict == "better"
    assert 0.66 <= found / 300 <= 0.86  # variances are drawn upwards, which costs a little
    assert seeds_needed(1.0, 3, 1e-9, 2) == math.inf
    assert seeds_needed(1.0, 3, 0.0, 2) == math.inf


def test_the_spread_of_a_run_is_pooled_and_unknown_where_none_was_seen() -> None:
    rows = table(3 * np.random.default_rng(0).normal(size=(3, 400)))
    assert run_sd(rows.values()) == pytest.approx(3.0, rel=0.1)
    for row in ({}, {0: 1.0}, {0: 1.0, 1: 1.0}, {0: 0.1 + 0.2, 1: 0.3}):
        assert math.isnan(run_sd([row]))


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
            assert c.kind == "undecided"
            assert c.low <= 0 <= c.high
            assert c.bound == max(-c.low, c.high)
            assert c.p_holm > alpha * (1 - 1e-9)
        else:
            assert c.verdict == "too few seeds"
            assert math.isnan(c.low) or c.low <= 0 <= c.high
        assert math.isnan(c.low) or c.low <= c.effect <= c.high


@pytest.mark.slow
@pytest.mark.parametrize(("n_seeds", "n_rows"), [(3, 1), (3, 5), (5, 3), (8, 7)])
def test_same_configuration_under_many_labels_is_seldom_called_different(
    n_seeds: int, n_rows: int
) -> None:
    rng = np.random.default_rng(n_seeds * 100 + n_rows)
    sweeps = 300
    wrong = 0
    for _ in range(sweeps):
        rows = 0.6 + 0.02 * rng.normal(size=n_seeds) + 0.05 * rng.normal(size=(n_rows + 1, n_seeds))
        found = compare(table(rows), "0", goal="maximize")
        wrong += any(c.verdict in DECIDED for c in found)
    # A rate of exactly 5 % (one row: the test is exact) stays below this in 999 of 1000 draws.
    assert wrong <= reference.binom.ppf(0.999, sweeps, 0.05)


@pytest.mark.parametrize(("n_seeds", "n_rows"), [(3, 4), (6, 4)])
def test_bounds_of_a_table_hold_together(n_seeds: int, n_rows: int) -> None:
    rng = np.random.default_rng(n_seeds)
    sweeps = 300
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


@pytest.mark.parametrize("arguments", [(0.1, 3, 0), (-0.1, 3, 1)])
def test_detectable_effect_refuses_nonsense(arguments: tuple[float, int, int]) -> None:
    with pytest.raises(UserError, match="needs a row besides the baseline"):
        detectable_effect(*arguments)


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


@pytest.mark.slow
def test_statistics_and_tables_load_no_training_code() -> None:
    code = (
        "import sys, hymba_lab.tables.result\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'optuna', 'statsmodels'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_two_seeds_detect_nothing_and_a_plan_says_so() -> None:
    assert detectable_effect(1.0, 2, 1) == showable_margin(1.0, 2, 1) == math.inf
    assert one([1.0, 1.001], [2.0, 2.001]).verdict == "too few seeds"
    assert seeds_needed(1e-6, 2, 1.0, 1) == 3


def test_what_would_tell_is_more_than_what_did_not() -> None:
    """A row stood undecided at three seeds beside "3 seeds would tell"."""
    rng = np.random.default_rng(5)
    for _ in range(60):
        found = one(list(rng.normal(size=3)), list(rng.normal(size=3) + 2))
        assert found.kind != "undecided" or found.seeds_needed > 3
