"""Interactions of factorial designs, slopes over scales, places in regions: against references."""

import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moderated_by_hand import t_tests
from scipy import stats as reference
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

from hymba_lab.stats import Interaction, Placed, Region, against, interactions, slopes
from hymba_lab.stats import place as place_evidence


class Interval(NamedTuple):
    low: float
    high: float


def place(row: list[float], base: list[float], region: Region) -> Placed:
    rows = {"row": dict(enumerate(row)), "base": dict(enumerate(base))}
    return place_evidence(against(rows, "base")[0]["row"], region)


LEVELS = {"fusion": ["mean", "gate"], "window": ["full", "8", "16"]}
BASE = {"fusion": "mean", "window": "full"}
Cells = dict[tuple[str, ...], dict[int, float]]


def factorial(rng: np.random.Generator, n: int, step: float = 0.0, noise: float = 1.0) -> Cells:
    """Both axes add up, but for `step` at (gate, 8)."""
    effect = {"mean": 0.0, "gate": 3.0, "full": 0.0, "8": -2.0, "16": 1.0}
    luck = rng.normal(size=n)
    cells: Cells = {}
    for key in itertools.product(*LEVELS.values()):
        own = sum(effect[label] for label in key) + (step if key == ("gate", "8") else 0.0)
        values = own + luck + noise * rng.normal(size=n)
        cells[key] = {seed: float(x) for seed, x in enumerate(values)}
    return cells


def judged(cells: Cells, base: dict[str, str] = BASE) -> list[Interaction]:
    return interactions(cells, base, goal="maximize")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_contrasts_are_one_sample_t_tests_with_holm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = factorial(rng, 6, step=2.0)
    y = {key: np.array(list(row.values())) for key, row in cells.items()}
    found = judged(cells)
    assert [(one.level, one.other_level) for one in found] == [("gate", "8"), ("gate", "16")]
    contrasts = [
        (y["gate", b] - y["mean", b]) - (y["gate", "full"] - y["mean", "full"]) for b in ("8", "16")
    ]
    expected = [reference.ttest_1samp(contrast, 0) for contrast in contrasts]
    assert [one.p for one in found] == pytest.approx([e.pvalue for e in expected], rel=1e-9)
    corrected = multipletests([e.pvalue for e in expected], method="holm")[1]
    assert [one.p_holm for one in found] == pytest.approx(list(corrected), rel=1e-9)
    there = reference.ttest_rel(y["gate", "full"], y["mean", "full"]).confidence_interval(0.95)
    here = reference.ttest_rel(y["gate", "8"], y["mean", "8"]).confidence_interval(0.95)
    assert found[0].there[1:3] == pytest.approx((there.low, there.high))
    assert found[0].here[1:3] == pytest.approx((here.low, here.high))


def test_an_interaction_is_the_same_from_either_axis() -> None:
    cells = factorial(np.random.default_rng(0), 5, step=1.0)
    turned = {key[::-1]: row for key, row in cells.items()}
    one, other = judged(cells), judged(turned, {"window": "full", "fusion": "mean"})
    assert [found.effect for found in one] == pytest.approx([found.effect for found in other])
    assert [found.p for found in one] == pytest.approx([found.p for found in other])


def test_axes_that_add_up_seldom_interact() -> None:
    rng = np.random.default_rng(1)
    sweeps, wrong, seen = 600, 0, 0
    for _ in range(sweeps):
        wrong += any(one.verdict in ("better", "worse") for one in judged(factorial(rng, 4)))
        seen += judged(factorial(rng, 4, step=-8.0, noise=0.3))[0].verdict == "worse"
    assert wrong <= reference.binom.ppf(0.999, sweeps, 0.05)
    assert seen > 0.9 * sweeps


def test_further_axes_are_averaged_over_and_missing_cells_leave_the_seed_out() -> None:
    rng = np.random.default_rng(2)
    levels = [("a", "A"), ("b", "B"), ("c", "C")]
    cells: Cells = {
        key: {seed: float(x) for seed, x in enumerate(rng.normal(size=5))}
        for key in itertools.product(*levels)
    }
    cells["A", "B", "c"][3] = math.nan
    base = {"first": "a", "second": "b", "third": "c"}
    found = judged(cells, base)
    pairs = [(one.axis, one.other) for one in found]
    assert pairs == [("first", "second"), ("first", "third"), ("second", "third")]
    assert [one.n for one in found] == [4, 4, 4]
    y = {key: np.array([row[s] for s in (0, 1, 2, 4)]) for key, row in cells.items()}
    mean = {k: (y[(*k, "c")] + y[(*k, "C")]) / 2 for k in itertools.product("aA", "bB")}
    by_hand = (mean["A", "B"] - mean["a", "B"]) - (mean["A", "b"] - mean["a", "b"])
    assert found[0].effect == pytest.approx(by_hand.mean())
    del cells["A", "B", "C"]
    assert judged(cells, base)[0].verdict == "too few seeds"


# --- slopes


@pytest.mark.parametrize("seed", range(3))
def test_two_scales_are_welchs_t_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    small, large = rng.normal(size=3), 0.2 * rng.normal(size=5) + 1
    (found,) = slopes({"row": {1e6: small.tolist(), 1e8: large.tolist()}})
    expected = reference.ttest_ind(large, small, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.slope == pytest.approx((large.mean() - small.mean()) / 2)
    assert (found.low, found.high) == pytest.approx((interval.low / 2, interval.high / 2))


def test_the_slope_over_several_scales_is_least_squares() -> None:
    sizes = [1e5, 1e6, 3e7, 1e9]
    rng = np.random.default_rng(0)
    effects = {size: (0.1 * i + rng.normal(size=4)).tolist() for i, size in enumerate(sizes)}
    (found,) = slopes({"row": effects})
    means = [float(np.mean(d)) for d in effects.values()]
    assert found.slope == pytest.approx(reference.linregress(np.log10(sizes), means).slope)
    assert found.sizes == tuple(sizes)


def test_an_effect_that_does_not_change_seldom_has_a_slope() -> None:
    rng = np.random.default_rng(5)
    n, wrong, covered = 1500, 0, 0
    for _ in range(n):
        effects = {
            size: (0.3 * math.log10(size) + sd * rng.normal(size=3)).tolist()
            for size, sd in [(1e5, 1.0), (1e7, 0.3), (1e8, 0.3)]
        }
        (found,) = slopes({"row": effects})
        covered += found.low <= 0.3 <= found.high
        (flat,) = slopes(
            {"row": {s: [x - 0.3 * math.log10(s) for x in d] for s, d in effects.items()}}
        )
        wrong += flat.p < 0.05
    assert wrong <= reference.binom.ppf(0.999, n, 0.05)
    assert covered >= reference.binom.ppf(0.001, n, 0.95)


def test_one_scale_or_no_spread_gives_no_slope() -> None:
    found = slopes({
        "one": {1e6: [1.0, 2.0], 1e8: [1.0]},
        "none": {1e6: [1.0, 1.0], 1e8: [3.0, 3.0]},
        "both": {1e6: [1.0, 1.1, math.nan], 1e8: [3.0, 3.2]},
    })  # fmt: skip
    assert math.isnan(found[0].slope)
    assert (found[1].slope, math.isnan(found[1].low)) == (1.0, True)
    assert found[2].p == found[2].p_holm < 1


def test_slopes_of_a_table_are_corrected_together() -> None:
    rng = np.random.default_rng(2)
    effects = {
        row: {size: (i * math.log10(size) + rng.normal(size=4)).tolist() for size in (1e5, 1e6)}
        for i, row in enumerate("abc")
    }
    found = slopes(effects)
    rejected, corrected = multipletests([one.p for one in found], method="holm")[:2]
    assert [one.p_holm for one in found] == pytest.approx(list(corrected))
    assert [one.detected for one in found] == list(rejected)
    assert all((one.low > 0 or one.high < 0) == one.detected for one in found)


# --- places


@pytest.mark.parametrize("line", [-0.5, 0.0, 0.7])
@pytest.mark.parametrize("seed", range(4))
def test_a_place_is_what_the_t_interval_says(line: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    row, base = rng.normal(size=5) + 1.0, 0.5 * rng.normal(size=5)
    ((error, freedom, _),) = t_tests(np.array([base, row]))
    interval = reference.t(freedom, row.mean() - base.mean(), error).interval(0.95)
    interval = Interval(*interval)
    found = place(row.tolist(), base.tolist(), Region(low=line))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-4)
    t = abs(row.mean() - base.mean() - line) / error
    assert found.p == pytest.approx(2 * reference.t.sf(t, freedom), rel=1e-4)
    assert (found.place == "inside") == (interval.low > line)
    assert (found.place == "outside") == (interval.high < line)
    mirrored = place(base.tolist(), row.tolist(), Region(high=-line))
    assert mirrored.place == found.place


@settings(deadline=None)  # a shared machine may stall any single example
@given(st.lists(st.floats(-2, 2), min_size=2, max_size=6), st.floats(0.01, 2), st.floats(-2, 2))
def test_places_follow_the_interval(differences: list[float], half: float, line: float) -> None:
    zeros = [0.0] * len(differences)
    for region in (Region(-half, half), Region(low=line), Region(high=line)):
        found = place(differences, zeros, region)
        if found.place == "inside":
            assert found.effect in region
        if found.place == "inside" and not math.isnan(found.low):
            assert region.low <= found.low
            assert found.high <= region.high
        if found.place == "outside":
            assert found.effect not in region


def test_without_spread_or_seeds_nothing_is_decided() -> None:
    assert place([1.0] * 6, [0.5] * 6, Region(low=0.0)).place == "open"
    assert place([2.0, 2.1], [1.0, 1.1], Region(low=0.0)).place == "open"
    assert place([], [], Region(low=0.0)).place == "open"


@pytest.mark.parametrize("n", [3, 8])
@pytest.mark.parametrize("region", [Region(low=0.0), Region(-1.0, 1.0)])
def test_an_effect_on_the_line_is_seldom_decided(n: int, region: Region) -> None:
    rng = np.random.default_rng(n)
    truth = 1.0 if region.low < 0 else 0.0
    trials = 600
    places = [
        place((truth + rng.normal(size=n)).tolist(), rng.normal(size=n).tolist(), region).place
        for _ in range(trials)
    ]
    allowed = reference.binom.ppf(0.999, trials, 0.025)
    assert places.count("inside") <= allowed
    assert places.count("outside") <= allowed
