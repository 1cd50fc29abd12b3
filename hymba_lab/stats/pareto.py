"""Which of several results no other beats in every goal."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from hymba_lab.errors import UserError


def pareto_front(
    points: Sequence[Sequence[float]], goals: Sequence[Literal["maximize", "minimize"]]
) -> list[bool]:
    """For every point, whether no other is as good in all goals and better in one.

    Equal points stand or fall together. A point with a NaN is not on the front and pushes none off.
    """
    if any(len(point) != len(goals) for point in points):
        raise UserError(f"every point needs {len(goals)} coordinates, one per goal {list(goals)}.")
    signs = np.array([1.0 if goal == "maximize" else -1.0 for goal in goals])
    scores = np.asarray(points, dtype=np.float64).reshape(len(points), len(goals)) * signs
    known = ~np.isnan(scores).any(axis=1)
    # A comparison with NaN is False, so unknown points dominate nothing.
    dominated = [
        bool(((scores >= score).all(axis=1) & (scores > score).any(axis=1)).any())
        for score in scores
    ]
    return [bool(k) and not d for k, d in zip(known, dominated, strict=True)]
