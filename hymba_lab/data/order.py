"""Which row of which corpus is read when: pure functions, so that no state has to be kept.

Row r of step s is the row number k of one corpus (`Shares`), and row number k reads one window of
that corpus (`shuffled`, or `drawn` with replacement). Nothing depends on how many processes read,
how a batch is cut, or what was read before.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hymba_lab.data.draws import Ints

Words = npt.NDArray[np.uint64]
_ROUNDS = 6


def shuffled(domain: str, seed: int, n: int, numbers: Ints) -> Ints:
    """Return the windows, of n, that rows number `numbers` read: every n rows a new permutation.

    Row k reads place k mod n of the permutation number k div n. The permutation is a Feistel
    network on the pairs (x, y), x < a, y < b, with a * b just above n: each round adds a hash of
    one half to the other, modulo its size, which can be undone, so it permutes 0..a*b-1; what
    lands at n or above goes through again (Black and Rogaway 2002, "cycle walking").
    """
    epochs, places = np.divmod(np.asarray(numbers, dtype=np.int64), n)
    windows = np.empty_like(places)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        windows[chosen] = _permuted(_key(domain, seed, int(epoch)), n, places[chosen])
    return windows


def drawn(domain: str, seed: int, n: int, numbers: Ints) -> Ints:
    """Return one of 0..n-1 for each row number, independent and uniform: with replacement."""
    keys, words = _key(domain, seed, 0), np.asarray(numbers, dtype=np.int64).astype(np.uint64)
    high, low = _mixed(words, keys[0]), _mixed(words, keys[1])
    # the bias of a remainder is below n / 2^64
    return ((high << np.uint64(32) | low) % np.uint64(n)).astype(np.int64)


def _permuted(keys: Words, n: int, places: Ints) -> Ints:
    a = max(int(n**0.5), 1)
    a += a * a < n
    b = -(-n // a)
    left = np.arange(len(places))
    values = places.astype(np.uint64)
    while len(left):
        values[left] = _round_trip(keys, a, b, values[left])
        left = left[values[left] >= n]
    return values.astype(np.int64)


def _round_trip(keys: Words, a: int, b: int, values: Words) -> Words:
    x, y = np.divmod(values, np.uint64(b))
    for key in keys:
        x = (x + _mixed(y, key)) % np.uint64(a)
        y = (y + _mixed(x, key ^ np.uint64(0x9E3779B97F4A7C15))) % np.uint64(b)
    return x * np.uint64(b) + y


def _mixed(words: Words, key: np.uint64) -> Words:
    """Return 32 well mixed bits of each word under a key (the finalizer of splitmix64).

    No more of them: the sums of `_round_trip` must not overflow, or it could not be undone.
    """
    z = words ^ key
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) >> np.uint64(32)


def _key(domain: str, seed: int, epoch: int) -> Words:
    text = f"{domain}\0{seed}\0{epoch}".encode()
    return np.frombuffer(hashlib.sha512(text).digest(), dtype="<u8")[:_ROUNDS]


class Phase(NamedTuple):
    """From step `start` on each corpus has its share of the rows."""

    start: int
    shares: tuple[Fraction, ...]
    """Sum 1."""


class Shares:
    """How many rows of a step go to which corpus: at every step within one row of its share.

    After t rows of a phase, corpus 0 has floor(t p_0) of them, and of the R rows left to the
    others corpus 1 has floor(R p_1 / (1 - p_0)), and so on; the last one takes what is left.
    Whole numbers and fractions only: the same everywhere.
    """

    def __init__(self, rows: int, phases: Sequence[Phase]) -> None:
        """`phases` begin at rising steps, the first at 0."""
        self.rows, self.phases = rows, list(phases)
        self._before = [[0] * len(phases[0].shares)]  # rows of each corpus before each phase
        for phase, following in itertools.pairwise(phases):
            made = _split((following.start - phase.start) * rows, phase.shares)
            last = self._before[-1]
            self._before.append([past + new for past, new in zip(last, made, strict=True)])

    def before(self, step: int) -> list[int]:
        """Return how many rows of each corpus the steps 0..step-1 have."""
        number = max(i for i, phase in enumerate(self.phases) if phase.start <= step)
        phase = self.phases[number]
        made = _split((step - phase.start) * self.rows, phase.shares)
        return [past + new for past, new in zip(self._before[number], made, strict=True)]


def phases_of(
    weights: Mapping[str, float], later: Sequence[tuple[int, Mapping[str, float]]]
) -> list[Phase]:
    """Return the phases of weights from step 0 on and of those that replace them later.

    A weight that is not named is 0; weights are read as the decimals that they were written as.
    """
    made = []
    for start, given in [(0, weights), *later]:
        exact = [Fraction(str(given.get(label, 0))) for label in weights]
        made.append(Phase(start, tuple(weight / sum(exact) for weight in exact)))
    return [
        phase
        for phase, following in zip(made, [*made[1:], None], strict=True)
        if following is None or following.start > phase.start
    ]


def _split(n: int, shares: Sequence[Fraction]) -> list[int]:
    made, left = [], Fraction(1)
    for share in shares[:-1]:
        part = n * share // left if left else 0
        made.append(part)
        n, left = n - part, left - share
    return [*made, n]
