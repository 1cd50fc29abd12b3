"""A tuned value at an edge of its choices: its row may be better beyond it."""

from collections.abc import Iterable, Mapping

from hymba_lab.sweep.question.file import Range, SweepFile

MOST = 3  # values tried past the choices of a row

Number = int | float


def at_edge(choices: Iterable[object], value: object) -> bool:
    """Whether a value is the smallest or largest of at least two numbers."""
    numbers = _numbers(choices)
    return len(numbers) > 1 and value in (numbers[0], numbers[-1])


def one_further(
    best: Mapping[str, object], tried: Mapping[str, Iterable[object]]
) -> dict[str, object] | None:
    """Return the values one step past the edges where `best` stands; None where it is inside.

    A step is the ratio of the last two values at that edge, or their distance where one is not
    positive. `tried` are all values of a path so far, its choices among them.
    """
    moved = {
        path: _beyond(_numbers(values), float(str(best[path])))
        for path, values in tried.items()
        if at_edge(values, best[path])
    }
    return {**best, **moved} if moved else None


def reachable(span: Range) -> Range:
    """Return the choices with all that widening can come to."""
    numbers = _numbers(span.choices or [])
    if len(numbers) < 2:
        return span
    for _ in range(MOST):
        numbers = [_beyond(numbers, numbers[0]), *numbers, _beyond(numbers, numbers[-1])]
    return span.model_copy(update={"choices": numbers})


def never_widened(sweep: SweepFile) -> dict[str, list[Number]]:
    """Return the numbers among which every row's best was sought, by path.

    A table tells by itself who won at an edge of these. Of a range, and of choices widened row by
    row, only the sweep knows what was tried, and says so in its own notes.
    """
    if sweep.widen:
        return {}
    found = {path: _numbers(span.choices or []) for path, span in sweep.search.items()}
    return {path: numbers for path, numbers in found.items() if len(numbers) > 1}


def _beyond(numbers: list[Number], edge: float) -> Number:
    near, next_to_it = (
        (numbers[0], numbers[1]) if edge == numbers[0] else (numbers[-1], numbers[-2])
    )
    value = near * near / next_to_it if numbers[0] > 0 else near + (near - next_to_it)
    whole = all(isinstance(number, int) for number in numbers) and value == int(value)
    return int(value) if whole else float(f"{value:.6g}")


def _numbers(values: Iterable[object]) -> list[Number]:
    """Return the values in order where all are numbers, otherwise nothing."""
    found = list(values)
    numbers = [v for v in found if isinstance(v, int | float) and not isinstance(v, bool)]
    return sorted(set(numbers)) if len(numbers) == len(found) else []
