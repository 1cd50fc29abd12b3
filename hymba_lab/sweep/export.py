"""A sweep's results as a folder of small text files, enough to make every table and figure again.

    <name>/  export.json  sweep.resolved.json  runs.csv  curves.csv  tuning.csv

`name` is the sweep and its scale; `tuning.csv` is there where it searched. Neither torch nor the
trained runs are needed to read it.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import pandas as pd
from pydantic import ValidationError

from hymba_lab.atomic import parsed_json
from hymba_lab.errors import StoreError
from hymba_lab.registry import Section
from hymba_lab.sweep.question.file import Range, SweepFile
from hymba_lab.sweep.tuned import NAME as TUNING
from hymba_lab.sweep.tuned import chosen_by, tuning_columns
from hymba_lab.tables.columns import CURVE, CURVE_NUMBERS, CURVE_TEXT, TEXT
from hymba_lab.tables.csv_frame import read_csv

S = TypeVar("S", bound=Section)

FILES = ("export.json", "sweep.resolved.json", "runs.csv", "curves.csv")


class Facts(Section):
    """What no line of `runs.csv` can say: export.json."""

    format: Literal[1] = 1
    command: str  # that trains the runs and writes the export
    baseline: str  # the row that the others are compared with
    hardware: list[str]  # that the runs were trained on
    hours: dict[str, float]  # of training [h]: of the compared runs, of tuning
    notes: list[str]  # on the data and on how every row was tuned


@dataclass(frozen=True)
class Export:
    """One sweep's results: `runs` as `tables` wants it, `curves` a line per validation.

    `curves` has the columns row, seed, step, tokens, metric, value; `tuning` those of
    `sweep.tuned`, None where nothing was searched, or before such a file was written. `base` is the
    experiment that the rows vary, resolved. `files` are the texts, as they stand in the folder.
    """

    name: str
    sweep: SweepFile
    base: Mapping[str, Any]
    facts: Facts
    runs: pd.DataFrame
    curves: pd.DataFrame
    tuning: pd.DataFrame | None
    files: Mapping[str, str]

    @property
    def scale(self) -> str:
        """Return the scale of every run, e.g. nano."""
        return str(self.base.get("scale", ""))


class Resolved(Section):
    """The sweep and its base experiment with every default filled in: sweep.resolved.json."""

    sweep: SweepFile
    base: dict[str, Any]


def no_exports(results: Path) -> StoreError:
    """Return the error for a folder of exports that is not there; it names the one of a lab."""
    own = Path("runs", "sweeps")
    lab = f"; your own sweeps are in --results {own}" if own.is_dir() else ""
    return StoreError(f"{results}: no such folder; name the folder of exports with --results{lab}.")


def require_exports(results: Path) -> list[Path]:
    """Return the folders in `results` that hold an export or a part of one; refuse none."""
    if not results.is_dir():
        raise no_exports(results)
    found = {path.parent for name in FILES for path in results.glob(f"*/{name}")}
    if not found:
        raise StoreError(
            f"{results}: holds no export of a sweep; write one with `python -m hymba_lab.sweep "
            f"sweeps/NAME.yaml --out {results}`, or name another folder with --results."
        )
    return sorted(found)


def sweep_of(name: str, scale: str = "") -> str:
    """Return the sweep's part of `<sweep>-<scale>`; without the scale, up to the last dash."""
    if scale and name.endswith(f"-{scale}"):
        return name.removesuffix(f"-{scale}")
    return name.rpartition("-")[0] or name


def scale_of(resolved: str) -> str:
    """Return the scale that the text of a sweep.resolved.json names; "" where it names none."""
    try:
        return str(parsed_json(resolved)["base"]["scale"])
    except (ValueError, KeyError, TypeError):
        return ""


def read_export(folder: Path) -> Export:
    """Return the export in a folder; a `StoreError` names the file and what is wrong with it."""
    files = {}
    for name in [*FILES, *([TUNING] if (folder / TUNING).exists() else [])]:
        try:
            files[name] = (folder / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            sweep = sweep_of(folder.name, scale_of(files.get("sweep.resolved.json", "")))
            raise StoreError(
                f"{folder / name}: missing; write the export with "
                f"`python -m hymba_lab.sweep sweeps/{sweep}.yaml --out {folder.parent}`."
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{folder / name}: cannot be read: {error}.") from None
    return parse_export(folder, files)


def parse_export(folder: Path, files: Mapping[str, str]) -> Export:
    """Return the export that these texts are; `folder` gives its name and stands in errors."""
    resolved = parse_json(Resolved, folder / "sweep.resolved.json", files["sweep.resolved.json"])
    facts = parse_json(Facts, folder / "export.json", files["export.json"])
    sweep = resolved.sweep
    text = {*TEXT, *sweep.axes, *(path for path, span in sweep.search.items() if _words(span))}
    runs = read_csv(folder / "runs.csv", files["runs.csv"], text)
    curves = read_csv(folder / "curves.csv", files["curves.csv"], CURVE_TEXT)
    _require(folder / "runs.csv", runs, ["row", *sweep.axes])
    _require(folder / "curves.csv", curves, [*CURVE_TEXT, *CURVE_NUMBERS])
    tuning = None
    if TUNING in files and sweep.search:  # else it is of an older sweep of this name
        tuning = read_csv(folder / TUNING, files[TUNING], text)
        columns = tuning_columns(sweep, chosen_by(sweep, resolved.base))
        _require(folder / TUNING, tuning, columns)
    return Export(folder.name, sweep, resolved.base, facts, runs, curves, tuning, dict(files))


def curve_metrics(sweep: SweepFile) -> list[str]:
    """Return the metrics whose courses are exported: those of the table, areas by their curve."""
    names = [sweep.metric.name, *sweep.also, *([sweep.stop.metric] if sweep.stop else [])]
    courses = [name.removesuffix("_auc") for name in names if not name.startswith("cost/")]
    return list(dict.fromkeys(courses))


def curve(
    row: str,
    seed: int,
    history: Iterable[tuple[int, Mapping[str, float]]],
    metrics: Sequence[str],
    tokens_per_step: float,
) -> Iterator[dict[str, Any]]:
    """Yield one run's lines of `curves.csv`: its validations, values in six digits."""
    for step, values in history:
        tokens = "" if math.isnan(tokens_per_step) else round(step * tokens_per_step)
        at = {"row": row, "seed": seed, "step": step, "tokens": tokens}
        for name in metrics:
            if name in values:
                yield {**at, "metric": name, "value": f"{values[name]:.6g}"}


def to_csv(runs: pd.DataFrame) -> str:
    """Return a frame as CSV text: numbers exact to the last bit, empty where there are none."""
    return str(runs.to_csv(index=False, lineterminator="\n"))


def curves_csv(lines: Iterable[Mapping[str, Any]]) -> str:
    """Return `curves.csv`, with its header where no run finished."""
    return to_csv(pd.DataFrame(list(lines), columns=CURVE))


def facts_json(facts: Facts) -> str:
    """Return `export.json`."""
    return json.dumps(facts.model_dump(), indent=1, ensure_ascii=False) + "\n"


def _require(path: Path, frame: pd.DataFrame, columns: Iterable[str]) -> None:
    absent = [name for name in columns if name not in frame]
    if absent:
        raise StoreError(f"{path}: has no column {', '.join(absent)}; write the export again.")


def parse_json(kind: type[S], path: Path, text: str) -> S:
    """Return the text of a JSON file as `kind`; a `StoreError` names the file and what is wrong."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        said = f"{where}: {fault['msg']}" if where else fault["msg"]
        raise StoreError(f"{path}: {said}; write the export again.") from None


def _words(span: Range) -> bool:
    """Whether a searched value is a word rather than a number."""
    return any(isinstance(choice, str) for choice in span.choices or ())
