"""Schedules: the laws of every entry, the phases of each, what they refuse."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hymba_lab.errors import ConfigError
from hymba_lab.optim.schedules import Schedule, schedules

PEAK = 3e-3
fractions = st.floats(0, 0.5)
counts = st.integers(1, 400)
rates = st.floats(0, PEAK)


def make(name: str, n_steps: int, **options: float) -> Schedule:
    return schedules.build(schedules.spec(name, **options), n_steps, PEAK)


@st.composite
def any_schedule(draw: st.DrawFn) -> tuple[Schedule, int, int, float]:
    """A schedule of any entry with its steps, its warmup steps and its least factor."""
    name, n_steps = draw(st.sampled_from(list(schedules))), draw(counts)
    strategies = {"warmup": fractions, "decay": fractions, "lr_min": rates}
    options = {option: draw(strategies[option]) for option in schedules.options(name)}
    n_warm = round(options["warmup"] * n_steps)
    return make(name, n_steps, **options), n_steps, n_warm, options.get("lr_min", 0.0) / PEAK


@given(any_schedule())
def test_rises_then_never_rises_again_and_stays_in_bounds(
    given: tuple[Schedule, int, int, float],
) -> None:
    factor, n_steps, n_warm, least = given
    factors = [factor(step) for step in range(n_steps)]
    rise, rest = factors[:n_warm], factors[n_warm:]
    assert rise == [(step + 1) / n_warm for step in range(n_warm)]
    assert all(least <= value <= 1 for value in rest)
    assert rest == sorted(rest, reverse=True)


@given(any_schedule())
def test_past_the_end_nothing_changes(given: tuple[Schedule, int, int, float]) -> None:
    factor, n_steps, _, _ = given
    assert factor(n_steps) == factor(n_steps + 1000) == factor(n_steps - 1)


@given(counts, fractions, rates)
def test_cosine_reaches_the_least_rate_at_its_last_step(
    n_steps: int, warmup: float, lr_min: float
) -> None:
    factor = make("cosine", n_steps, warmup=warmup, lr_min=lr_min)
    falls = round(warmup * n_steps) < n_steps
    assert factor(n_steps - 1) * PEAK == pytest.approx(lr_min if falls else PEAK, abs=1e-15)


@given(counts, fractions, fractions, rates)
def test_wsd_is_linear_over_its_last_steps_and_full_before(
    n_steps: int, warmup: float, decay: float, lr_min: float
) -> None:
    factor = make("wsd", n_steps, warmup=warmup, decay=decay, lr_min=lr_min)
    n_warm = round(warmup * n_steps)
    n_decay = min(round(decay * n_steps), n_steps - n_warm)
    full = [factor(step) for step in range(max(n_warm - 1, 0), n_steps - n_decay)]
    assert full == [1.0] * len(full)
    fall = [1.0, *(factor(step) for step in range(n_steps - n_decay, n_steps))]
    steps = [a - b for a, b in itertools.pairwise(fall)]
    assert steps == pytest.approx([(1 - lr_min / PEAK) / n_decay] * n_decay if n_decay else [])
    assert not n_decay or factor(n_steps - 1) * PEAK == pytest.approx(lr_min, abs=1e-15)


def test_wsd_is_the_papers_by_default() -> None:
    factor = make("wsd", 1000)
    assert [factor(step) for step in (0, 4, 9, 10, 799)] == [0.1, 0.5, 1.0, 1.0, 1.0]
    assert factor(899) == pytest.approx((1 + 1e-5 / PEAK) / 2)
    assert factor(999) == 1e-5 / PEAK


def test_cosine_is_half_way_down_in_the_middle() -> None:
    factor = make("cosine", 100, warmup=0.0, lr_min=0.0)
    assert factor(49) == pytest.approx(0.5)
    assert factor(24) == pytest.approx((1 + math.sqrt(0.5)) / 2)


def test_constant_is_constant() -> None:
    assert {make("constant", 7)(step) for step in range(7)} == {1.0}


@pytest.mark.parametrize("name", list(schedules))
def test_one_step_is_a_schedule(name: str) -> None:
    assert 0 < make(name, 1)(0) <= 1


@pytest.mark.parametrize("name", ["wsd", "cosine"])
def test_a_floor_above_the_peak_is_refused_with_both_numbers(name: str) -> None:
    with pytest.raises(ConfigError, match=r"lr_min 0\.1 is above optimizer\.lr 0\.003") as caught:
        make(name, 10, lr_min=0.1)
    assert caught.value.path == "schedule"


def test_phases_longer_than_the_run_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"warmup 0\.6 and decay 0\.5 are 1\.1"):
        make("wsd", 10, warmup=0.6, decay=0.5)
