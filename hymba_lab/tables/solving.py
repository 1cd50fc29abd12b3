"""When runs solved a task that is learned in a jump, from their curves or their own record."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from hymba_lab.stats import Comparison, Goal, Run, crossing

RISING = 0.05  # of the metric, over the last fifth of a run: more is not at its end
BEGUN = 0.1  # of the way from the best guess to the level that counts as solved
UNTAUGHT = "not learned: the positive control did not solve the task"
Runs = Mapping[str, Mapping[int, Run]]


@dataclass(frozen=True)
class Task:
    """A task counts as solved where `metric` first passes `at`; `times` in training tokens.

    `reference` is what the best guess reaches that never looks at the content, NaN where it is not
    known. `rising` names runs that ended unsolved while the metric still moved.
    """

    metric: str
    at: float
    reference: float
    times: Runs
    rising: Sequence[str]
    goal: Goal = "maximize"

    def above(self, levels: Mapping[str, Mapping[int, float]]) -> dict[str, bool]:
        """Whether a run of a row ended above the reference, by more than a guess has luck: `BEGUN`.

        A task is learned in a jump, so one run says that the row can begin it; none is above a
        reference that is not known.
        """
        begun = self.reference + BEGUN * (self.at - self.reference)
        sign = 1 if self.goal == "maximize" else -1
        return {
            row: any(sign * level > sign * begun for level in own.values())
            for row, own in levels.items()
        }

    def failed(self, control: str | None) -> bool:
        """Whether the row that is known to solve the task was run, and not every run of it did."""
        own = self.times.get(control or "", {}).values()
        return bool(own) and not all(run.solved for run in own)

    def taught(self, one: Comparison, control: str | None, baseline: str) -> Comparison:
        """The comparison; where the control failed, of rows that all solved only.

        Recipe and budget do not teach the task then, and who did not solve it shows nothing.
        """
        runs = [run for row in (one.label, baseline) for run in self.times.get(row, {}).values()]
        solved = all(run.solved for run in runs)
        if solved or one.kind == "too_few_seeds" or not self.failed(control):
            return one
        return replace(one, kind="not_learned", verdict=UNTAUGHT, bound=math.nan)


def task_of(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    metric: str,
    at: float,
    reference: float,
    *,
    goal: Goal = "maximize",
) -> Task:
    """Return when every finished run solved, by its own columns where it has them."""
    up = 1 if goal == "maximize" else -1
    own = curves[curves["metric"] == metric]
    courses = {key: group.sort_values("step") for key, group in own.groupby(["row", "seed"])}
    times: dict[str, dict[int, Run]] = {row: {} for row in map(str, runs["row"])}
    rising = []
    for line in runs.to_dict("records"):
        row, seed = str(line["row"]), int(line["seed"])
        if line["status"] != "finished":
            continue
        course = courses.get((row, seed))
        run = _recorded({str(k): v for k, v in line.items()})
        if run is None and course is not None:
            run = crossing(list(course["tokens"]), list(up * course["value"]), up * at)
        if run is None or not run.time > 0:
            continue
        times[row][seed] = run
        if not run.solved and course is not None and _rises(course, up):
            rising.append(f"{row} (seed {seed})")
    return Task(metric, at, reference, times, rising, goal)


def _recorded(line: Mapping[str, object]) -> Run | None:
    """What the run's own columns say, where the sweep named a level to stop at."""
    solved, ended = (_float(line.get(name)) for name in ("tokens_to_solve", "censored_at"))
    if not math.isnan(solved):
        return Run(solved, True)
    return None if math.isnan(ended) else Run(ended, False)


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _rises(course: pd.DataFrame, up: int) -> bool:
    before = course[course["step"] <= 0.8 * course["step"].max()]
    last = course["value"].iloc[-1]
    return len(before) > 0 and up * (last - before["value"].iloc[-1]) > RISING


def solving_notes(task: Task, levels: Mapping[str, Mapping[int, float]]) -> list[str]:
    """What counts as solved, which rows are below a guess, which runs still rose."""
    known = not math.isnan(task.reference)
    guess = f" (a guess from position alone reaches {task.reference:.3f})" if known else ""
    notes = [
        f"Solved: {task.metric} first passes {task.at:.3g}{guess}; the effect is the ratio of "
        "training tokens until then (above 1: later), right-censored where a run ended without."
    ]
    below = [row for row, above in task.above(levels).items() if known and not above]
    if below:
        notes.append(
            f"No run ended more than a tenth of the way from that guess to {task.at:.3g}, so no "
            f"recall is shown: {', '.join(below)}."
        )
    if task.rising:
        notes.append(f"Still rising at the end: {', '.join(task.rising)}.")
    return notes


def control_note(task: Task, control: str | None) -> list[str]:
    """Said first where the row that is known to solve the task did not."""
    if control is None or not task.failed(control):
        return []
    own = task.times[control].values()
    solved = sum(run.solved for run in own)
    return [
        f"The positive control {control!r} solved {solved} of {len(own)}: recipe or budget do not "
        "teach this task here, and no row's failure says anything of its architecture: rows that "
        "did not solve it, either, are not judged."
    ]


def edge_notes(runs: pd.DataFrame, choices: Mapping[str, Sequence[float]]) -> list[str]:
    """Which rows were tuned to the first or the last of the choices: the best may lie beyond."""
    found = []
    for name, values in choices.items():
        if name not in runs or len(values) < 2:
            continue
        ends = {min(values), max(values)}
        tuned = runs.drop_duplicates("row")
        at = [str(row) for row, v in zip(tuned["row"], tuned[name], strict=True) if v in ends]
        if at:
            found.append(
                f"Tuned to an edge of its choices ({name}, {min(values):g} to {max(values):g}), "
                f"the best may lie beyond (`widen: true` goes on): {', '.join(at)}."
            )
    return found
