"""Censored times: Kaplan-Meier and log-rank against scipy and statsmodels, verdicts of jumps."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference
from statsmodels.duration.survfunc import SurvfuncRight, survdiff  # type: ignore[import-untyped]

from hymba_lab.errors import UserError
from hymba_lab.stats import (
    Run,
    Timed,
    compare,
    compare_times,
    crossing,
    kaplan_meier,
    log_rank,
    wrong_winner,
)


def runs(rng: np.random.Generator, n: int, shift: float = 0.0, end: float = math.inf) -> list[Run]:
    times = np.exp(rng.normal(shift, 0.3, n))
    return [Run(min(float(t), end), bool(t <= end)) for t in times]


def censored(own: list[Run]) -> reference.CensoredData:
    return reference.CensoredData.right_censored(
        [run.time for run in own], [not run.solved for run in own]
    )


@pytest.mark.parametrize("seed", range(5))
def test_log_rank_is_scipys_and_statsmodels_where_runs_are_many(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = runs(rng, 30, 0.0, 1.5), runs(rng, 25, 0.2, 1.4)
    found = log_rank(a, b)
    assert not found.exact
    assert found.p == pytest.approx(reference.logrank(censored(a), censored(b)).pvalue, rel=1e-9)
    time, solved = zip(*a, *b, strict=True)
    group = [0] * len(a) + [1] * len(b)
    assert found.p == pytest.approx(survdiff(np.array(time), np.array(solved), np.array(group))[1])
    assert log_rank(b, a).surplus == pytest.approx(-found.surplus)


@pytest.mark.parametrize("seed", range(4))
def test_log_rank_of_few_runs_counts_every_relabeling(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = runs(rng, 4, 0.0, 1.2), runs(rng, 3, 0.4, 1.2)
    if not any(run.solved for run in (*a, *b)):
        pytest.skip("nobody solved")

    def square(first: list[Run], second: list[Run]) -> float:
        return float(reference.logrank(censored(first), censored(second)).statistic ** 2)

    everyone, seen = [*a, *b], square(a, b)
    alike = total = 0
    for chosen in itertools.combinations(range(7), 4):
        first = [everyone[i] for i in chosen]
        second = [everyone[i] for i in range(7) if i not in chosen]
        alike += square(first, second) >= seen * (1 - 1e-9)
        total += 1
    found = log_rank(a, b)
    assert found.exact
    assert found.p == pytest.approx(alike / total)


def test_six_against_six_apart_is_the_smallest_exact_p() -> None:
    early = [Run(t, True) for t in (0.7, 0.71, 0.72, 0.75, 0.8, 0.81)]
    late = [Run(1.0, False)] * 6
    assert log_rank(early, late).p == pytest.approx(2 / math.comb(12, 6))
    assert log_rank(early, late).surplus > 0
    assert math.isnan(log_rank(late, late).p)


@pytest.mark.parametrize("seed", range(4))
def test_kaplan_meier_is_statsmodels(seed: int) -> None:
    own = runs(np.random.default_rng(seed), 12, 0.0, 1.1)
    found = kaplan_meier(own)
    expected = SurvfuncRight(
        np.array([run.time for run in own]), np.array([run.solved for run in own])
    )
    assert [step.time for step in found] == pytest.approx(list(expected.surv_times))
    assert [1 - step.solved for step in found] == pytest.approx(list(expected.surv_prob))
    assert [step.at_risk for step in found] == list(expected.n_risk)
    for step, alive, error in zip(found, expected.surv_prob, expected.surv_prob_se, strict=True):
        assert 0 <= step.low <= step.solved <= step.high <= 1
        if 0 < alive < 1:
            half = 1.959963984540054 * error / alive / abs(math.log(alive))
            ends = [1 - alive ** math.exp(sign * half) for sign in (-1, 1)]
            assert (step.low, step.high) == pytest.approx(ends)


def test_kaplan_meier_bands_cover_the_true_share() -> None:
    rng = np.random.default_rng(0)
    at, missed = 0.9, 0
    true = reference.norm.cdf(math.log(at) / 0.3)
    for _ in range(400):
        own = [step for step in kaplan_meier(runs(rng, 40, 0.0, 1.3)) if step.time <= at]
        missed += not own[-1].low <= true <= own[-1].high
    assert missed <= reference.binom.ppf(0.999, 400, 0.06)


def test_nobody_solved_has_no_steps() -> None:
    assert kaplan_meier([Run(1.0, False)] * 3) == []


def test_a_crossing_is_interpolated_between_validations() -> None:
    assert crossing([10, 20, 30], [0.1, 0.3, 0.9], 0.6) == (25.0, True)
    assert crossing([10, 20, 30], [0.1, math.nan, 0.9], 0.5) == (20.0, True)
    assert crossing([10, 20], [0.7, 0.8], 0.6) == (10, True)
    assert crossing([10, 20], [0.1, 0.2], 0.6) == (20, False)
    assert crossing([10, 20, 30], [0.1, 0.7, 0.2], 0.6) == (pytest.approx(18.333333), True)
    assert crossing([], [], 0.6) == (0.0, False)


# --- verdicts


def table(rows: dict[str, list[float]], end: float = math.inf) -> dict[str, dict[int, Run]]:
    return {
        label: {s: Run(min(t, end), t <= end) for s, t in enumerate(times)}
        for label, times in rows.items()
    }


def judged(rows: dict[str, list[float]], end: float = math.inf, **options: object) -> list[Timed]:
    return compare_times(table(rows, end), "base", **options)  # type: ignore[arg-type]


BASE = [1.0, 1.1, 0.9, 1.05, 0.95, 1.0]


def test_solved_rows_are_the_log_level_comparison() -> None:
    rows = {"base": BASE, "late": [1.5, 1.6, 1.7, 1.5, 1.4, 1.5], "same": BASE[::-1]}
    logs = {label: {s: math.log(t) for s, t in enumerate(times)} for label, times in rows.items()}
    for one, log in zip(judged(rows), compare(logs, "base", goal="minimize"), strict=True):
        found = one.comparison
        assert (found.effect, found.low, found.high) == pytest.approx(
            tuple(map(math.exp, (log.effect, log.low, log.high)))
        )
        assert (found.p, found.p_holm) == (log.p, log.p_holm)
    late, same = (one.comparison for one in judged(rows))
    assert (late.kind, late.verdict) == ("worse", "worse")
    assert same.kind == "equivalent"
    assert same.verdict == "equivalent within 1.2 times"
    assert late.mean == pytest.approx(1.53, abs=0.01)


def test_a_parent_that_was_stopped_before_its_jump_is_censored() -> None:
    (one,) = judged({"base": BASE[:3], "parent": [9.0, 9.0, 9.0]}, end=1.6)
    found = one.comparison
    assert (one.solved, one.base_solved) == (0, 3)
    assert found.kind == "censored"
    assert found.verdict == "censored: at least 1.12 times later"
    assert found.high == math.inf
    assert math.isnan(found.p)
    assert not found.decided


def test_six_seeds_decide_by_ranks_what_was_stopped() -> None:
    (one,) = judged({"base": BASE, "parent": [9.0] * 6}, end=1.4)
    assert one.comparison.kind == "worse"
    assert one.comparison.verdict.startswith("worse: at least 1.2")
    assert one.comparison.p == pytest.approx(2 / 924)
    (one,) = judged({"base": [9.0] * 6, "row": BASE}, end=1.4)
    assert one.comparison.kind == "better"
    assert one.comparison.verdict.startswith("better: at least 1.2")
    assert one.comparison.low == 0


def test_floor_against_floor_was_not_learned() -> None:
    rows = {"base": [9.0] * 6, "row": [9.0] * 6}
    (one,) = judged(rows, end=1.0)
    assert (one.comparison.kind, one.comparison.verdict) == ("not_learned", "not learned by either")
    (one,) = judged(rows, end=1.0, above={"row": True})
    assert one.comparison.kind == "censored"


def test_few_seeds_and_unknown_rows() -> None:
    (one,) = judged({"base": [1.0, 1.1], "row": [3.0, 3.1]})
    assert one.comparison.kind == "too_few_seeds"
    (one,) = judged({"base": [1.0, 1.1], "row": [9.0, 9.1]}, end=2)
    assert one.comparison.kind == "too_few_seeds"
    with pytest.raises(UserError, match="baseline 'base'"):
        judged({"row": BASE})


values = st.lists(st.floats(0.1, 3.0), min_size=0, max_size=7)


@settings(deadline=None)  # a shared machine may stall any single example
@given(st.dictionaries(st.sampled_from("abc"), values, max_size=3), values, st.floats(0.5, 4.0))
def test_words_and_interval_of_a_ratio_never_disagree(
    rows: dict[str, list[float]], base: list[float], end: float
) -> None:
    for one in judged({"base": base, **rows}, end):
        found = one.comparison
        if found.kind in ("better", "worse"):
            assert (found.high <= 1) if found.kind == "better" else (found.low >= 1)
            assert found.p <= found.p_holm <= 0.05 * (1 + 1e-9)
        elif found.kind in ("undecided", "equivalent"):
            assert found.low <= 1 <= found.high
        elif found.kind == "censored":
            assert not math.isinf(found.low)
        else:
            assert found.kind in ("too_few_seeds", "not_learned")
        if found.kind == "undecided":
            assert found.bound == pytest.approx(max(1 / found.low, found.high), rel=1e-6)


# --- one run per row


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_the_wrong_winner_is_counted_over_every_draw(goal: str) -> None:
    rng = np.random.default_rng(0)
    rows = {str(i): dict(enumerate(rng.integers(0, 6, 3 + i).tolist())) for i in range(3)}
    sign = 1 if goal == "maximize" else -1
    best = max(rows, key=lambda label: sign * np.mean(list(rows[label].values())))
    right = total = 0.0
    for draw in itertools.product(*(row.values() for row in rows.values())):
        winners = [
            label
            for label, value in zip(rows, draw, strict=True)
            if sign * value == max(sign * v for v in draw)
        ]
        right += (best in winners) / len(winners)
        total += 1
    assert wrong_winner(rows, goal) == pytest.approx(1 - right / total)  # type: ignore[arg-type]
    assert math.isnan(wrong_winner({"a": {0: 1.0}}, "maximize"))


def test_curves_that_cross_have_no_direction() -> None:
    """Eleven of twelve solve a little sooner, one not in twenty times as long."""
    rng = np.random.default_rng(0)
    base = {s: Run(float(t), True) for s, t in enumerate(1000 * np.exp(rng.normal(0, 0.03, 12)))}
    row = {s: Run(float(t), True) for s, t in enumerate(850 * np.exp(rng.normal(0, 0.03, 12)))}
    row[11] = Run(20_000.0, False)
    (found,) = compare_times({"base": base, "row": row}, "base")
    assert found.comparison.p < 0.05
    assert (found.comparison.kind, found.comparison.verdict) == (
        "censored", "censored: the curves cross",
    )  # fmt: skip
    assert found.comparison.low <= found.comparison.effect


def test_no_noise_seen_bounds_nothing() -> None:
    base = {s: Run(1000.0, True) for s in range(3)}
    row = {0: Run(1900.0, True), 1: Run(2000.0, False), 2: Run(2000.0, False)}
    (found,) = compare_times({"base": base, "row": row}, "base")
    assert (found.comparison.low, found.comparison.high) == (0.0, math.inf)
    assert found.comparison.verdict == "censored"
