"""Seeds added until decided: error rates over all looks, and decisions that stay."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats as reference

from hymba_lab.errors import UserError
from hymba_lab.stats import Comparison, Looks, compare, plan_looks

DIFFERENT = ("better", "worse")
LOOKS = plan_looks([0, 1, 2], 24)


def table(rows: np.ndarray) -> dict[str, dict[int, float]]:
    return {str(i): {seed: float(x) for seed, x in enumerate(row)} for i, row in enumerate(rows)}


def judge(rows: np.ndarray, looks: Looks = LOOKS, margin: float | None = None) -> list[Comparison]:
    return compare(table(rows), "0", goal="maximize", looks=looks, margin=margin)


def play(
    rows: np.ndarray, looks: Looks = LOOKS, margin: float | None = None
) -> dict[str, dict[int, float]]:
    """What a sweep measures: the next seeds only of what the looks so far left undecided."""
    everything = table(rows)
    values: dict[str, dict[int, float]] = {label: {} for label in everything}
    open_rows = set(everything)
    for number, size in enumerate(looks.sizes, start=1):
        for label in open_rows:
            values[label] |= {seed: everything[label][seed] for seed in looks.seeds[:size]}
        found = compare(values, "0", goal="maximize", looks=looks.first(number), margin=margin)
        open_rows = {c.label for c in found if not c.decided}
        if not open_rows:
            break
        open_rows.add("0")
    return values


def test_looks_double_whatever_the_limit_and_spend_less_than_alpha() -> None:
    looks = plan_looks([0, 1, 2], 40, reserved=[4])
    assert looks.sizes == (3, 6, 12, 24)
    assert looks.seeds[:6] == (0, 1, 2, 3, 5, 6)
    assert len(looks.seeds) == 24
    assert plan_looks([7, 1], 4).seeds == (7, 1, 0, 2)
    for smaller, larger in itertools.pairwise([plan_looks([0, 1, 2], n) for n in (6, 12, 47, 48)]):
        assert larger.sizes[: len(smaller.sizes)] == smaller.sizes
        assert larger.seeds[: len(smaller.seeds)] == smaller.seeds
    shares = [share for _, share in plan_looks([0], 2**14)]
    assert shares == sorted(shares, reverse=True)
    assert 0.99 < sum(shares) <= 1


def test_a_limit_without_a_second_look_is_refused() -> None:
    with pytest.raises(UserError, match=r"at most 5 seeds.*at least 6"):
        plan_looks([0, 1, 2], 5)


@pytest.mark.slow
@pytest.mark.parametrize(("n_rows", "limit"), [(1, 6), (4, 12), (1, 96)])
def test_looking_again_and_again_seldom_makes_a_difference_of_none(n_rows: int, limit: int) -> None:
    looks = plan_looks([0, 1, 2], limit)
    rng = np.random.default_rng(limit + n_rows)
    sweeps, wrong, naive = 200, 0, 0
    for _ in range(sweeps):
        rows = rng.normal(size=(n_rows + 1, looks.sizes[-1]))
        wrong += any(c.verdict in DIFFERENT for c in judge(rows, looks))
        naive += any(
            c.verdict in DIFFERENT
            for size in looks.sizes
            for c in compare(table(rows[:, :size]), "0", goal="maximize")
        )
    allowed = reference.binom.ppf(0.999, sweeps, 0.05)
    assert wrong <= allowed
    if limit == 96:
        assert naive > allowed  # the simulation sees what the shares of alpha are there for


@pytest.mark.parametrize("limit", [12, 48])
def test_looking_again_and_again_seldom_makes_an_equivalence_of_none(limit: int) -> None:
    looks = plan_looks([0, 1, 2], limit)
    rng = np.random.default_rng(limit)
    sweeps, wrong = 300, 0
    for _ in range(sweeps):
        rows = 0.3 * rng.normal(size=(4, looks.sizes[-1]))
        rows[1:] += rng.choice([-1.0, 1.0], size=3)[:, None]
        found = judge(rows, looks, margin=1.0)
        wrong += any("equivalent" in c.verdict or "less" in c.verdict for c in found)
    assert wrong <= reference.binom.ppf(0.999, sweeps, 0.05)


def test_intervals_hold_together_wherever_the_looking_ended() -> None:
    rng = np.random.default_rng(0)
    sweeps, broken = 300, 0
    for _ in range(sweeps):
        effects = rng.choice([0.0, 0.5, 1.0, 3.0, 20.0], size=3)
        rows = rng.normal(size=(4, 24))
        rows[1:] += effects[:, None]
        found = judge(rows, margin=0.8)
        broken += any(not c.low <= t <= c.high for t, c in zip(effects, found, strict=True))
    assert broken <= reference.binom.ppf(0.999, sweeps, 0.05)


@pytest.mark.slow
def test_seeds_go_where_they_are_needed() -> None:
    rng = np.random.default_rng(0)
    seeds, found = [], 0
    for _ in range(200):
        rows = 0.1 * rng.normal(size=(3, 24))
        rows[1] += 2.0
        rows[2] += 0.15  # 3 seeds do not see it, 24 do
        values = play(rows)
        seeds.append([len(values[label]) for label in "012"])
        found += judge(rows)[1].verdict == "better"
    base, large, small = np.mean(seeds, axis=0)
    assert large < 5
    assert base == small > 8
    assert found > 160
    fixed = sum(
        compare(table(r), "0", goal="maximize")[0].verdict == "better"
        for r in (0.1 * rng.normal(size=(200, 2, 3)) + np.array([0, 0.15])[None, :, None])
    )
    assert fixed < 60


@pytest.mark.parametrize("margin", [None, 0.5])
@pytest.mark.parametrize("seed", range(15))
def test_what_was_not_measured_after_a_decision_changes_nothing(
    seed: int, margin: float | None
) -> None:
    rng = np.random.default_rng(seed)
    rows = 0.3 * rng.normal(size=(6, 24)) + rng.choice([0.0, 0.2, 0.6, 3.0], size=6)[:, None]
    values = play(rows, margin=margin)
    found = compare(values, "0", goal="maximize", looks=LOOKS, margin=margin)
    for c, all_seeds in zip(found, judge(rows, margin=margin), strict=True):
        assert (c.verdict, c.effect, c.low, c.high, c.look) == (
            all_seeds.verdict, all_seeds.effect, all_seeds.low, all_seeds.high, all_seeds.look,
        )  # fmt: skip
        assert c.n == LOOKS.sizes[c.look - 1]
        assert c.n_missing == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_decision_stays_when_more_looks_follow(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    rows = 0.3 * rng.normal(size=(6, 24)) + rng.choice([0.0, 0.2, 0.6], size=6)[:, None]
    rows[2, 2:4] = math.nan
    rows[5, 1:3] = math.nan  # untested at the first look: the family must count it all the same
    decided: dict[str, str] = {}
    for n_looks in range(1, 5):
        found = judge(rows, LOOKS.first(n_looks), margin=0.5)
        now = {c.label: c.verdict.split()[0].rstrip(",") for c in found if c.decided}
        for label, verdict in decided.items():
            assert now[label] == verdict or verdict == "equivalent"  # shown to differ, but little
        assert decided.keys() <= now.keys()
        decided = now
    assert judge(rows)[4].n_missing >= 1


def test_a_row_that_cannot_be_tested_yet_is_counted_all_the_same() -> None:
    """p is small enough for one row, not for two, whenever the second one is measured."""
    rows = np.array([[0.0, 0.2, -0.2], [1.25, 1.55, 0.85], [5.0, math.nan, math.nan]])
    alone, waiting = judge(rows, LOOKS.first(1))
    assert 0.05 / 3 / 2 < alone.p < 0.05 / 3
    assert not alone.decided
    assert alone.p_holm == pytest.approx(min(1, 3 * 2 * alone.p))
    assert waiting.verdict == "too few seeds"
    assert judge(rows[:2], LOOKS.first(1))[0].decided


def test_one_look_of_many_is_stricter_than_a_plain_table() -> None:
    rows = np.random.default_rng(3).normal(size=(3, 3))
    for plain, first in zip(
        compare(table(rows), "0", goal="maximize"), judge(rows, LOOKS.first(1)), strict=True
    ):
        assert (first.high - first.low) > (plain.high - plain.low)
        assert first.p_holm == pytest.approx(min(1, 3 * plain.p_holm), rel=1e-9)
