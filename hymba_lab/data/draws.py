"""Random numbers that depend on what they are for, never on what was drawn before."""

import hashlib

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

_LARGEST = 1e30  # weight that float32 holds with room for a division by a short wait


def generator(domain: str, seed: int, step: int) -> np.random.Generator:
    """Return the generator of one batch, a pure function of its three arguments.

    `domain` names the purpose ("mqar/train"). The 128-bit key of the counter-based generator
    Philox is a hash of all three, so no two purposes, seeds or steps share a stream.
    """
    key = hashlib.sha256(f"{domain}\0{seed}\0{step}".encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype="<u8")))


def choose(rng: np.random.Generator, rows: int, n_items: int, n_chosen: int) -> Ints:
    """Return (rows, n_chosen) items of 0..n_items-1, distinct and in random order in each row."""
    if n_chosen**2 > n_items:
        return choose_weighted(rng, rows, np.ones(n_items), n_chosen)
    # Few out of many: draw freely and draw again the rows with a repeat (at most about 4 in 10),
    # which costs nothing per item that is not chosen.
    chosen = rng.integers(0, n_items, (rows, n_chosen))
    again = _rows_with_repeats(chosen)
    while len(again):
        chosen[again] = rng.integers(0, n_items, (len(again), n_chosen))
        again = again[_rows_with_repeats(chosen[again])]
    return chosen


def choose_weighted(
    rng: np.random.Generator, rows: int, weights: npt.NDArray[np.float64], n_chosen: int
) -> Ints:
    """Return (rows, n_chosen) distinct items per row, drawn in turn in proportion to `weights`.

    Item i waits E_i / w_i with E_i ~ Exp(1); the first n_chosen to arrive, in order of arrival,
    are a sequential weighted sample without replacement (Efraimidis and Spirakis 2006), which
    `numpy.random.Generator.choice(p=w, replace=False)` gives for one row only.
    """
    waits = rng.standard_exponential((rows, len(weights)), dtype=np.float32)
    if weights.max() > _LARGEST:  # their proportions count; others keep the bits they have
        weights = np.maximum(weights / weights.max(), 1 / _LARGEST)
    waits /= weights.astype(np.float32)
    first = np.argpartition(waits, n_chosen - 1, axis=1)[:, :n_chosen]
    arrival = np.take_along_axis(waits, first, axis=1).argsort(axis=1)
    return np.take_along_axis(first, arrival, axis=1)


def _rows_with_repeats(chosen: Ints) -> Ints:
    ordered = np.sort(chosen, axis=1)
    return np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
