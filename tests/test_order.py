"""The order of rows: laws that hold for every seed, size and set of weights."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hymba_lab.data.order import Phase, Shares, drawn, phases_of, shuffled

sizes = st.integers(1, 3000)
seeds = st.integers(0, 2**64)


@given(seeds, sizes, st.integers(0, 5))
def test_an_epoch_is_a_permutation(seed, n, epoch):
    windows = shuffled("a", seed, n, np.arange(epoch * n, (epoch + 1) * n))
    assert sorted(windows.tolist()) == list(range(n))


@given(seeds, sizes, st.lists(st.integers(0, 10**6), min_size=1, max_size=40))
def test_a_row_does_not_depend_on_what_is_asked_beside_it(seed, n, numbers):
    together = shuffled("a", seed, n, np.array(numbers))
    alone = [int(shuffled("a", seed, n, np.array([number]))[0]) for number in numbers]
    assert together.tolist() == alone


def assert_apart(rows):
    """Of 500 places two orders share one by chance; those of one key would share all."""
    for one, other in itertools.combinations(rows, 2):
        assert (one == other).mean() < 0.02


def test_epochs_seeds_and_domains_are_shuffled_apart():
    n = 500
    rows = [
        shuffled("a", 0, n, np.arange(n)),
        shuffled("a", 0, n, np.arange(n, 2 * n)),
        shuffled("a", 1, n, np.arange(n)),
        shuffled("b", 0, n, np.arange(n)),
    ]
    assert_apart([np.arange(n), *rows])


def test_every_place_is_as_likely_as_any_other():
    """Chi-square of place 0's window over many seeds, and of neighbours' distance."""
    n, n_seeds = 16, 4000
    first = [shuffled("a", seed, n, np.array([0, 1])) for seed in range(n_seeds)]
    for counts in (
        np.bincount([int(a) for a, _ in first], minlength=n),
        np.bincount([int(b - a) % n for a, b in first], minlength=n)[1:],
    ):
        expected = n_seeds / len(counts)
        assert ((counts - expected) ** 2 / expected).sum() < 45  # p < 1e-4 at 15 degrees


def test_a_permutation_of_a_trillion_windows_needs_no_memory():
    n = 10**12 + 7
    windows = shuffled("a", 3, n, np.arange(10_000))
    assert len(np.unique(windows)) == 10_000 and windows.min() >= 0 and windows.max() < n
    assert abs(windows.mean() / n - 0.5) < 0.02


@given(seeds, sizes)
def test_with_replacement_every_place_can_come(seed, n):
    places = drawn("a", seed, n, np.arange(50))
    assert places.min() >= 0 and places.max() < n


def test_rows_seeds_and_domains_are_drawn_apart():
    n = 500
    assert_apart([
        drawn("a", 0, n, np.arange(n)),
        drawn("a", 0, n, np.arange(n, 2 * n)),
        drawn("a", 1, n, np.arange(n)),
        drawn("b", 0, n, np.arange(n)),
    ])  # fmt: skip


def test_with_replacement_is_uniform():
    counts = np.bincount(drawn("a", 0, 20, np.arange(20_000)), minlength=20)
    assert ((counts - 1000) ** 2 / 1000).sum() < 50


weights = st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(any)


def as_phases(starts, weights):
    return [
        Phase(start, tuple(Fraction(w, sum(given)) for w in given))
        for start, given in zip(starts, weights, strict=True)
    ]


def by_hand(rows, phases, n_steps):
    """One step after the other: rows of each corpus so far, by the definition."""
    total = [0] * len(phases[0].shares)
    for step in range(n_steps):
        phase = [p for p in phases if p.start <= step][-1]
        for t in (step - phase.start, step + 1 - phase.start):
            left, share, made = t * rows, Fraction(1), []
            for p in phase.shares[:-1]:
                part = int(left * p / share) if share else 0
                made.append(part)
                left, share = left - part, share - p
            made.append(left)
            sign = 1 if t == step + 1 - phase.start else -1
            total = [old + sign * new for old, new in zip(total, made, strict=True)]
    return total


@st.composite
def plans(draw):
    n_phases = draw(st.integers(1, 3))
    n = draw(st.integers(1, 4))
    starts = [
        0,
        *sorted(draw(st.sets(st.integers(1, 60), min_size=n_phases - 1, max_size=n_phases - 1))),
    ]
    each = [draw(st.lists(st.integers(0, 20), min_size=n, max_size=n).filter(any)) for _ in starts]
    return draw(st.integers(1, 40)), as_phases(starts, each)


@given(plans(), st.integers(0, 90))
def test_shares_against_counting_by_hand(plan, step):
    rows, phases = plan
    assert Shares(rows, phases).before(step) == by_hand(rows, phases, step)


@given(plans())
def test_rows_of_a_step_are_whole_and_each_corpus_only_grows(plan):
    rows, phases = plan
    shares = Shares(rows, phases)
    before = [shares.before(step) for step in range(80)]
    for earlier, later in itertools.pairwise(before):
        assert all(b >= a for a, b in zip(earlier, later, strict=True))
        assert sum(later) - sum(earlier) == rows


@given(plans())
def test_annealed_weights_hit_their_shares(plan):
    rows, phases = plan
    shares = Shares(rows, phases)
    ends = [phase.start for phase in phases[1:]] + [phases[-1].start + 500]
    for phase, end in zip(phases, ends, strict=True):
        n = (end - phase.start) * rows
        made = np.subtract(shares.before(end), shares.before(phase.start))
        for got, share in zip(made.tolist(), phase.shares, strict=True):
            assert abs(got - n * share) < len(phase.shares)  # so within 1 % from some steps on


def test_weights_are_the_decimals_as_written():
    first, second = phases_of({"a": 0.7, "b": 0.3}, [(80, {"b": 2})])
    assert first == Phase(0, (Fraction(7, 10), Fraction(3, 10)))
    assert second == Phase(80, (Fraction(0), Fraction(1)))


def test_a_phase_of_no_steps_is_none():
    assert phases_of({"a": 1, "b": 1}, [(0, {"a": 1})]) == [Phase(0, (Fraction(1), Fraction(0)))]


@pytest.mark.parametrize("rows", [1, 7, 512])
def test_equal_weights_alternate(rows):
    shares = Shares(rows, phases_of({"a": 1, "b": 1}, []))
    for step in range(1, 50):
        a, b = shares.before(step)
        assert abs(a - b) <= 1
