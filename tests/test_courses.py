"""Learning curves of runs that ended when they had solved: every mean is of all seeds."""

from types import SimpleNamespace
from typing import Any

import pandas as pd

from hymba_lab.report.courses import CUT, HELD, course
from hymba_lab.sweep.question.file import Stop


def export(stop: bool) -> Any:
    lines = [
        {"row": row, "seed": seed, "step": step, "tokens": 10 * step, "metric": metric,
         "value": (0.1 if metric == "val/a" else 9.0) * step + seed}
        for row, ends in {"soon": (2, 4), "late": (5, 5)}.items()
        for seed, end in enumerate(ends)
        for step in range(1, end + 1)
        for metric in ("val/a", "val/b")
    ]  # fmt: skip
    named = Stop(metric="val/a", at=0.5) if stop else None
    return SimpleNamespace(curves=pd.DataFrame(lines), sweep=SimpleNamespace(stop=named))


def test_what_was_solved_is_held_to_the_end_of_its_row() -> None:
    found, said = course(export(True), "val/a")
    seen = {
        key: list(zip(run["step"], run["tokens"], run["value"].round(9), strict=True))
        for key, run in found.groupby(["row", "seed"])
    }
    assert said == HELD
    assert seen[("soon", 0)] == [(1, 10, 0.1), (2, 20, 0.2), (3, 30, 0.2), (4, 40, 0.2)]
    assert seen[("soon", 1)][-1] == (4, 40, 1.4) and len(seen[("late", 0)]) == 5
    assert set(found["metric"]) == {"val/a"} and found["seed"].dtype == "int64"


def test_other_metrics_end_with_the_first_run_of_their_row() -> None:
    found, said = course(export(True), "val/b")
    assert said == CUT
    assert dict(found.groupby(["row", "seed"])["step"].max()) == {
        ("late", 0): 5, ("late", 1): 5, ("soon", 0): 2, ("soon", 1): 2,
    }  # fmt: skip


def test_runs_without_a_stop_are_shown_as_they_are() -> None:
    whole = export(False)
    found, said = course(whole, "val/b")
    assert said == "" and len(found) == (whole.curves["metric"] == "val/b").sum()
