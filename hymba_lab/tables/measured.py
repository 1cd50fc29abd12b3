"""What runs measured, as columns of the result table's frame; a line per row, in their order."""

import math
from collections.abc import Sequence

import pandas as pd

from hymba_lab.errors import UserError
from hymba_lab.stats import Comparison, Looks, mean_interval
from hymba_lab.tables.notes import PARAMS_TOLERANCE
from hymba_lab.tables.numbers import limits_of
from hymba_lab.tables.runs_frame import Values
from hymba_lab.tables.solving import Task

_AFTER_PARAMS = ("ssm_to_attention", "cache_bytes", "flops_per_token")  # as in the paper's tables
_EFFECT = ["effect", "low", "high", "p", "p_holm"]


def verdict_columns(
    metric: str,
    values: Values,
    comparisons: Sequence[Comparison],
    alpha: float,
    margin: float | None,
    looks: Looks | None,
) -> pd.DataFrame:
    """seeds, mean with its interval, effect with its interval, p values and the verdict."""
    found = [mean_interval(seeds.values(), alpha=alpha) for seeds in values.values()]
    own = [(*_within(metric, (mean, low, high)), n) for mean, low, high, n in found]
    means = pd.DataFrame(own, columns=["mean", "mean_low", "mean_high", "seeds"])
    shown = [*_EFFECT, *(["p_within"] if margin else []), *(["look"] if looks else [])]
    judged = pd.DataFrame(map(vars, comparisons), columns=["label", *shown, "verdict"])
    effects = judged.set_index("label").reindex(list(values)).reset_index(drop=True)
    numbers = effects[shown].astype(
        {name: "Int64" if name == "look" else "float64" for name in shown}
    )
    numbers = numbers.rename(columns={"low": "effect_low", "high": "effect_high"})
    means.insert(0, "seeds", means.pop("seeds"))
    return pd.concat([means, numbers, effects["verdict"].fillna("baseline")], axis=1)


def solved_columns(values: Values, task: Task) -> pd.DataFrame:
    """How many runs solved, and the geometric mean of their times [tokens]."""
    times = [[run.time for run in task.times.get(row, {}).values() if run.solved] for row in values]
    means = [
        math.exp(math.fsum(map(math.log, own)) / len(own)) if own else math.nan for own in times
    ]
    return pd.DataFrame({"solved": [len(own) for own in times], "tokens_to_solve": means})


def mean_columns(name: str, values: Values) -> pd.DataFrame:
    """The mean of a further metric, with its interval."""
    means = [_within(name, mean_interval(seeds.values())[:3]) for seeds in values.values()]
    return pd.DataFrame(means, columns=[name, f"{name}_low", f"{name}_high"])


def _within(metric: str, interval: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return (mean, low, high) with no end outside of the metric's range."""
    (mean, low, high), (least, largest) = interval, limits_of(metric)
    return mean, max(low, least), min(high, largest)


def cost_columns(runs: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Parameters [count], beside the baseline's [%], and what else a row costs."""
    groups = {str(row): group for row, group in runs.groupby("row", sort=False)}
    params = {row: cost(group, "params") for row, group in groups.items()}
    differences = [100 * (n / params[baseline] - 1) for n in params.values()]
    speeds = [
        pd.to_numeric(group.loc[group["status"] == "finished", "tokens_per_second"])
        for group in groups.values()
    ]
    columns = {
        "params": list(params.values()),
        "params_diff_percent": differences,
        "params_flagged": [abs(difference) > PARAMS_TOLERANCE for difference in differences],
        **{name: [cost(group, name) for group in groups.values()] for name in _AFTER_PARAMS},
        "tokens_per_second": [float(speed.astype("float64").median()) for speed in speeds],
    }
    return pd.DataFrame(columns).astype(dict.fromkeys(("params", "cache_bytes"), "Int64"))


def cost(group: pd.DataFrame, column: str) -> float:
    """A fact of the cell, the same for all its seeds, failed ones included."""
    known = pd.to_numeric(group[column]).dropna().unique()
    if len(known) > 1:
        raise UserError(
            f"the seeds of row {group['row'].iloc[0]!r} differ in {column} "
            f"({', '.join(f'{value:,}' for value in known)}): they are not runs of one model."
        )
    return float(known[0]) if len(known) else math.nan
