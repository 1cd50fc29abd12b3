"""What associative recall gives to a guess that never looks at the key: from position alone.

A row of MQAR has n pairs and S = (T - 2n) // 2 slots for questions; pair i is asked in slot g_i,
g_1, ..., g_n drawn in turn without replacement with p(g) ~ g^(power - 1). Whoever knows where the
question stands, and nothing else, guesses the likeliest pair of that slot and is right with

    (1 / n) sum_g max_i P(g_i = g),

1 / n at power 1, more where small slots are asked first.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

MOST_SLOTS = 256  # beyond it the sums take minutes


def position_guess(seq_len: int, n_pairs: Sequence[int], power: float) -> float:
    """Return the accuracy over all questions of rows with these numbers of pairs, equal shares.

    NaN where there are too many slots to sum over.
    """
    if power != 1 and max((seq_len - 2 * n) // 2 for n in n_pairs) > MOST_SLOTS:
        return float("nan")
    right = sum(n * guess_of(seq_len, n, power) for n in n_pairs)
    return right / sum(n_pairs)


@cache
def guess_of(seq_len: int, n: int, power: float) -> float:
    """Return the accuracy on rows with n pairs."""
    slots = (seq_len - 2 * n) // 2
    if power == 1 or n == 1:  # every pair is as likely in every slot
        return 1 / n
    places = order_of_slots(np.arange(1, slots + 1, dtype=np.float64) ** (power - 1), n)
    return float(places.max(axis=0).sum()) / n


def order_of_slots(weights: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Return (n, slots): P(the i-th one drawn is slot g), drawn in turn without replacement.

    Slot g waits E_g / w_g with E_g ~ Exp(1), and the i-th to arrive is the i-th drawn:

        P(i, g) = integral w_g exp(-w_g t) P(i - 1 of the others arrived by t) dt,

    by the trapezoid rule in log t, which converges exponentially.
    """
    x = np.linspace(-36, np.log(60 / weights.min()), 900)
    t = np.exp(x)
    arrived = -np.expm1(-weights[:, None] * t)
    found = np.empty((n, len(weights)))
    for g, weight in enumerate(weights):
        counts = np.zeros((n, len(t)))  # P(so many of the others arrived)
        counts[0] = 1
        for other in np.delete(arrived, g, axis=0):
            shifted = np.vstack([np.zeros(len(t)), counts[:-1]])
            counts = counts * (1 - other) + shifted * other
        found[:, g] = np.trapezoid(weight * np.exp(-weight * t) * counts * t, x, axis=1)
    return found
