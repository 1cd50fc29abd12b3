"""What a task gives to whoever does not read its questions: one answer to all of them."""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from hymba_lab.tables.numbers import SHARES


def blind_guess(samples: Sequence[Mapping[str, Any]]) -> float:
    """Return the share right by the best one answer to every question; NaN where unknown.

    `samples` are the harness's own. One answer is a text, or any of the choices by chance,
    whichever is right more often; the place of a choice is nothing that a model sees. Unknown
    without `SHARES` among the metrics, and where a question has several right answers.
    """
    if not samples or not any(name in sample for sample in samples for name in SHARES):
        return math.nan
    targets = [sample["target"] for sample in samples]
    choices = [[str(request[-1]) for request in sample["arguments"]] for sample in samples]
    chance = math.fsum(1 / len(own) for own in choices) / len(choices)
    if all(isinstance(target, str) for target in targets):  # a text to write, or one of the choices
        return max(_commonest(targets), chance if all(len(own) > 1 for own in choices) else 0.0)
    if not all(isinstance(target, int) for target in targets):
        return math.nan
    if not all(0 <= place < len(own) for place, own in zip(targets, choices, strict=True)):
        return math.nan
    if any(len(set(own)) < len(own) for own in choices):  # one ending, after other beginnings
        return chance
    return max(chance, _commonest(own[at] for at, own in zip(targets, choices, strict=True)))


def _commonest(answers: Iterable[Hashable]) -> float:
    counts = Counter(answers)
    return counts.most_common(1)[0][1] / counts.total()
