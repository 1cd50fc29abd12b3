"""Error rates in four simulated worlds: false positives, coverage, power.

`python -m pytest tests/test_stats_worlds.py -m campaign -s` prints every measured rate; it takes
some minutes of one core. A rate of 0.05 is measured to a standard error of 0.004 from
3000 sweeps, of 0.003 from 5000; the bounds, 0.055 and 0.94, leave one or two of them.

Log times have the spread of solved rows at nano, sd 0.143 (`docs/how_a_verdict_is_made.md`). In
every world all rows have the baseline's mean, so each "better", "worse" or "equivalent by less"
is false, and an interval that leaves out 1 misses.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats as reference
from scipy.special import stdtr

from hymba_lab.stats import Run, Timed, compare, compare_times, holm_p, spread_of

SD = 0.143
World = Callable[[np.random.Generator, int, int], np.ndarray]


def all_solved(rng: np.random.Generator, n_rows: int, n: int) -> np.ndarray:
    return SD * rng.normal(size=(n_rows, n))


def unequal_variances(rng: np.random.Generator, n_rows: int, n: int) -> np.ndarray:
    """Two rows in three have spreads within a factor of 2.7 of each other, one in 20 beyond 7."""
    return SD * np.exp(rng.normal(0, 0.5, n_rows))[:, None] * rng.normal(size=(n_rows, n))


def one_bimodal_row(rng: np.random.Generator, n_rows: int, n: int) -> np.ndarray:
    """Half of one row's seeds jump early, half late, 1.5 times apart."""
    y = all_solved(rng, n_rows, n)
    y[1] += math.log(1.5) * (rng.integers(0, 2, n) - 0.5)
    return y


def one_late_seed_in_four(rng: np.random.Generator, n_rows: int, n: int) -> np.ndarray:
    """As at nano: of the hybrid's six seeds one jumps 1.6 times later than the others."""
    y = all_solved(rng, n_rows, n)
    y[1] += math.log(1.6) * ((rng.random(n) < 0.25) - 0.25)
    return y


def one_row_diverged(rng: np.random.Generator, n_rows: int, n: int) -> np.ndarray:
    """One row's spread is thirty times that of the others."""
    y = all_solved(rng, n_rows, n)
    y[1] *= 30
    return y


WORLDS: dict[str, World] = {
    world.__name__: world
    for world in (all_solved, unequal_variances, one_bimodal_row, one_late_seed_in_four)
}


def judged(y: np.ndarray, end: float = math.inf, others: np.ndarray | None = None) -> list[Timed]:
    """`others` are log times of more solved rows of the scale."""
    rows = {
        str(i): {seed: Run(math.exp(min(t, end)), bool(t <= end)) for seed, t in enumerate(row)}
        for i, row in enumerate(y)
    }
    spreads = [] if others is None else [spread_of(row.tolist()) for row in others]
    return compare_times(rows, "0", others=spreads)


def told(what: str, wrong: float, covered: float, sweeps: int) -> None:
    """Print what was measured, with its Monte Carlo error."""
    error = math.sqrt(max(wrong * (1 - wrong), 1 / sweeps) / sweeps)
    print(f"\n{what}: false positives {wrong:.4f} +- {error:.4f}, coverage {covered:.4f}", end="")


def rates(
    world: World, n_rows: int, n: int, sweeps: int, end: float = math.inf, others: int = 0
) -> tuple[float, float]:
    """(family false positives, simultaneous coverage)."""
    rng = np.random.default_rng(n_rows * 100 + n)
    wrong = missed = 0
    for _ in range(sweeps):
        more = world(rng, others, n) if others else None
        found = [one.comparison for one in judged(world(rng, n_rows, n), end, more)]
        wrong += any(one.kind in ("better", "worse") for one in found)
        missed += any(one.low > 1 or one.high < 1 for one in found)
    return wrong / sweeps, 1 - missed / sweeps


def allowed(rate: float, sweeps: int) -> float:
    """What a procedure with just this rate exceeds once in a hundred simulations."""
    return float(reference.binom.ppf(0.99, sweeps, rate)) / sweeps


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("n", [3, 6])
def test_null_rows_are_seldom_called_different(name: str, n: int) -> None:
    wrong, covered = rates(WORLDS[name], 5, n, 120)
    assert wrong <= allowed(0.05, 120)
    assert covered >= 1 - allowed(0.055, 120)


@pytest.mark.parametrize("n", [3, 6])
def test_half_censored_rows_are_seldom_called_different(n: int) -> None:
    wrong, covered = rates(all_solved, 5, n, 60, end=0.0)
    assert wrong <= allowed(0.05, 60)
    assert covered >= 1 - allowed(0.055, 60)


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("n", [3, 6])
@pytest.mark.parametrize(("n_rows", "others"), [(2, 20), (3, 20), (4, 0), (4, 20), (7, 20)])
def test_the_four_worlds_at_length(name: str, n: int, n_rows: int, others: int) -> None:
    wrong, covered = rates(WORLDS[name], n_rows, n, 3000, others=others)
    told(f"{name}, {n_rows} rows, {n} seeds, {others} others", wrong, covered, 3000)
    assert wrong <= 0.055
    assert covered >= 0.94


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 6])
@pytest.mark.parametrize("n_rows", [2, 4, 7])
@pytest.mark.parametrize("end", [-0.1, 0.0, 0.1])
def test_half_censored_at_length(n: int, n_rows: int, end: float) -> None:
    wrong, covered = rates(all_solved, n_rows, n, 5000, end=end)
    told(f"half censored at {end}, {n_rows} rows, {n} seeds", wrong, covered, 5000)
    assert wrong <= 0.055
    assert covered >= 0.94


def heavy_tails(rng: np.random.Generator, n_rows: int, n: int) -> np.ndarray:
    """Student's t with 3 degrees of freedom: one run in 30 lies beyond three sd."""
    return SD * rng.standard_t(3, size=(n_rows, n))


def heaped(rng: np.random.Generator, n_rows: int, n: int) -> np.ndarray:
    """Looked at so seldom that half of the runs agree: times are whole steps of 1.4 sd."""
    return 1.4 * SD * np.round(rng.normal(size=(n_rows, n)) / 1.4)


def far_modes(rng: np.random.Generator, n_rows: int, n: int) -> np.ndarray:
    """Half of one row's seeds jump three times later than the other half."""
    y = all_solved(rng, n_rows, n)
    y[1] += math.log(3) * (rng.integers(0, 2, n) - 0.5)
    return y


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize("world", [heavy_tails, heaped])
@pytest.mark.parametrize("n", [3, 6])
@pytest.mark.parametrize("n_rows", [2, 12])
def test_times_that_are_not_normal_at_length(world: World, n: int, n_rows: int) -> None:
    wrong, covered = rates(world, n_rows, n, 2000)
    told(f"{world.__name__}, {n_rows} rows, {n} seeds", wrong, covered, 2000)
    assert wrong <= 0.055
    assert covered >= 0.94


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize(("n", "least", "most"), [(3, 0.15, 0.3), (6, 0.0, 0.055)])
def test_three_seeds_do_not_show_two_far_modes(n: int, least: float, most: float) -> None:
    """A limit, and no fault that could be mended: one table in four holds one of the modes only."""
    wrong, covered = rates(far_modes, 4, n, 2000)
    told(f"far_modes, 4 rows, {n} seeds", wrong, covered, 2000)
    assert least <= wrong <= most


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize(("n", "most"), [(3, 0.075), (6, 0.055)])
def test_one_row_that_diverged_at_length(n: int, most: float) -> None:
    """Of three seeds it may look calm by luck: the limit is known, and told in the docs."""
    wrong, covered = rates(one_row_diverged, 4, n, 3000)
    told(f"one row diverged, {n} seeds", wrong, covered, 3000)
    assert wrong <= most and covered >= 1 - most


def test_a_row_that_diverged_hides_no_other() -> None:
    """A row 1.5 times slower is found beside it about as often as beside a calm one."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(60):
        y = one_row_diverged(rng, 4, 6)
        y[2] += math.log(1.5)
        found += judged(y)[1].comparison.kind == "worse"
    assert found >= 45


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 6, 12])
@pytest.mark.parametrize("cut", [0, 1])
def test_one_row_that_is_stopped_early_at_length(n: int, cut: int) -> None:
    """70 % of one row's runs, or of the baseline's, are stopped; the others run to their end."""
    rng = np.random.default_rng(n)
    wrong = missed = 0
    for _ in range(2000):
        y = all_solved(rng, 4, n)
        found = [one.comparison for one in judged_apart(y, cut, SD * reference.norm.ppf(0.3))]
        wrong += any(one.kind in ("better", "worse") for one in found)
        missed += any(one.low > 1 or one.high < 1 for one in found)
    told(f"row {cut} is 70 % censored, {n} seeds", wrong / 2000, 1 - missed / 2000, 2000)
    assert wrong / 2000 <= 0.055
    assert 1 - missed / 2000 >= 0.94


def judged_apart(y: np.ndarray, cut: int, end: float) -> list[Timed]:
    """Only the runs of one row end at `end`."""
    ends = [end if i == cut else math.inf for i in range(len(y))]
    rows = {
        str(i): {seed: Run(math.exp(min(t, end)), bool(t <= end)) for seed, t in enumerate(row)}
        for i, (row, end) in enumerate(zip(y, ends, strict=True))
    }
    return compare_times(rows, "0")


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 6])
def test_half_of_the_rows_never_solve(n: int) -> None:
    """Their verdicts are true; those among the rows that solve must not be false."""
    rng = np.random.default_rng(n)
    wrong = missed = 0
    for _ in range(3000):
        y = all_solved(rng, 7, n)
        y[4:] += 2.0
        found = judged(y, end=0.6)
        wrong += any(one.comparison.kind in ("better", "worse") for one in found[:3])
        true = [0.0] * 3 + [2.0] * 3
        missed += any(
            not one.comparison.low <= math.exp(t) <= one.comparison.high
            for t, one in zip(true, found, strict=True)
        )
    told(f"half of the rows never solve, {n} seeds", wrong / 3000, 1 - missed / 3000, 3000)
    assert wrong / 3000 <= 0.055
    assert 1 - missed / 3000 >= 0.94


def power(n: int, sweeps: int, others: int) -> tuple[float, float]:
    """How often a row 1.3 times slower is found beside two rows that are twice as slow.

    Second: by paired t-tests of log times with Holm's correction.
    """
    rng = np.random.default_rng(n)
    ours = paired = 0
    for _ in range(sweeps):
        y = all_solved(rng, 4, n)
        y[1:] += np.log([[1.3], [2.0], [2.0]])
        more = all_solved(rng, others, n) if others else None
        ours += judged(y, others=more)[0].comparison.kind == "worse"
        d = y[1:] - y[0]
        t = d.mean(axis=1) / (d.std(axis=1, ddof=1) / math.sqrt(n))  # scipy's ttest_rel, at once
        paired += holm_p([2 * float(p) for p in stdtr(n - 1, -np.abs(t))])[0] <= 0.05
    return ours / sweeps, paired / sweeps


def test_a_row_1_3_times_slower_is_found_more_often_than_by_paired_tests() -> None:
    ours, paired = power(3, 150, others=20)
    assert ours >= 0.4
    assert paired <= 0.25


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize("others", [0, 20])
def test_power_at_length(others: int) -> None:
    three, paired = power(3, 3000, others)
    six, at_six = power(6, 3000, others)
    print(
        f"\n{others} others, 1.3 times slower is found: {three:.3f} at 3 seeds ({paired:.3f} by "
        f"paired tests), {six:.3f} at 6 ({at_six:.3f})",
        end="",
    )
    assert three >= 0.4
    assert paired == pytest.approx(0.14, abs=0.06)
    assert six >= 0.8


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("n", [3, 6])
def test_choosing_whether_to_pair_costs_no_error(correlation: float, n: int) -> None:
    rng = np.random.default_rng(n)
    wrong = missed = 0
    for _ in range(3000):
        shared = math.sqrt(correlation) * rng.normal(size=n)
        y = shared + math.sqrt(1 - correlation) * rng.normal(size=(5, n))
        rows = {str(i): dict(enumerate(map(float, row))) for i, row in enumerate(y)}
        found = compare(rows, "0", goal="maximize")
        wrong += any(one.kind in ("better", "worse") for one in found)
        missed += any(not one.low <= 0 <= one.high for one in found)
    told(f"seeds correlate {correlation}, {n} seeds", wrong / 3000, 1 - missed / 3000, 3000)
    assert wrong / 3000 <= 0.055
    assert 1 - missed / 3000 >= 0.94


@pytest.mark.campaign
@pytest.mark.slow
def test_equivalence_at_the_margin_is_seldom_shown() -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(2000):
        y = 0.6 * all_solved(rng, 5, 6)
        y[1:] += math.log(1.2) * rng.choice([-1, 1], 4)[:, None]
        wrong += any("1.2 times" in one.comparison.verdict.split("(")[0] for one in judged(y))
    assert wrong / 2000 <= 0.055


def bounds_missed(sigma: float, n: int, n_rows: int, sweeps: int) -> float:
    """How often the bound of a row whose slowest run was stopped leaves out the true ratio, 1.

    Rows differ in noise by a log sd of `sigma`; the run ends just before it would have solved.
    """
    rng, missed = np.random.default_rng(n), 0
    for _ in range(sweeps):
        y = SD * np.exp(rng.normal(0, sigma, n_rows))[:, None] * rng.normal(size=(n_rows, n))
        rows = {
            str(i): {s: Run(math.exp(t), i != 1 or t < row.max()) for s, t in enumerate(row)}
            for i, row in enumerate(y)
        }
        own = compare_times(rows, "0")[0].comparison
        missed += own.low > 1 or own.high < 1
    return missed / sweeps


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize(("n", "n_rows"), [(3, 6), (5, 9)])
@pytest.mark.parametrize("sigma", [0.0, 0.5, 0.7])
def test_a_bound_of_a_row_that_was_stopped_holds_at_length(
    sigma: float, n: int, n_rows: int
) -> None:
    """By the prior of rows that differ in noise, with all rows' freedom, it failed 0.036 of 1,200
    tables instead of 0.004."""
    missed = bounds_missed(sigma, n, n_rows, 2000)
    print(f"\nlog sd {sigma}, {n} seeds, {n_rows} rows: bounds missed {missed:.4f}", end="")
    assert missed <= 0.012  # 0.005 where rows are alike in noise


def all_hold(n: int, n_rows: int, sweeps: int) -> float:
    """How often all intervals hold where every row but one is really later."""
    rng, held = np.random.default_rng(n_rows), 0
    truth = np.log([1.0, 1.0, *np.linspace(1.3, 2.0, n_rows - 2)])
    for _ in range(sweeps):
        found = judged(SD * rng.normal(size=(n_rows, n)) + truth[:, None])
        held += all(
            one.comparison.low <= math.exp(true) <= one.comparison.high
            for one, true in zip(found, truth[1:], strict=True)
        )
    return held / sweeps


def test_intervals_hold_together_where_most_rows_differ() -> None:
    """Holm's narrower interval of the row that does not differ spent alpha a second time."""
    assert all_hold(12, 7, 150) >= 1 - allowed(0.055, 150)


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize("n", [6, 12, 24])
@pytest.mark.parametrize("n_rows", [4, 7])
def test_intervals_hold_together_where_most_rows_differ_at_length(n: int, n_rows: int) -> None:
    held = all_hold(n, n_rows, 4000)
    print(f"\n{n} seeds, {n_rows} rows, all but one later: all intervals hold {held:.4f}", end="")
    assert held >= 0.945


def test_noise_below_the_resolution_bounds_nothing() -> None:
    """Equal logarithms have a variance of 1e-32, not of 0: it made a bound, or not, by its bits."""
    for tokens in (4_536_818.0, 1e6, 12_345_678.0):
        base = {s: Run(tokens, True) for s in range(3)}
        row = {s: Run(2 * tokens, s > 0) for s in range(3)}
        (found,) = compare_times({"base": base, "row": row}, "base")
        assert (found.comparison.low, found.comparison.verdict) == (0.0, "censored")


def test_times_further_apart_than_a_float_are_infinitely_so() -> None:
    far = {0: Run(1e-90, True), 1: Run(1e90, True), 2: Run(1e-90, True)}
    near = {s: Run(1.0, True) for s in range(3)}
    (found,) = compare_times({"base": near, "row": far}, "base", alpha=1e-3)
    assert found.comparison.high == math.inf and found.comparison.kind == "undecided"
