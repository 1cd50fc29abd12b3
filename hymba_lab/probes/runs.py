"""Finished runs: a sweep's folder or a run's, to trained models with their data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hymba_lab.checkpoints.load import load
from hymba_lab.config import Config, from_resolved
from hymba_lab.config.start import RUN_WEIGHTS as WEIGHTS
from hymba_lab.data.source import Mixture, build_sources
from hymba_lab.errors import StoreError, UserError
from hymba_lab.model import LanguageModel
from hymba_lab.runs.folder import RunFolder

_EXPORT = "export.json"  # first of `sweep.export.FILES`, which stand above


@dataclass(frozen=True)
class Place:
    """Where a finished run lies and which line of which sweep it is (`sweep` empty: of none)."""

    sweep: str
    row: str
    seed: int
    folder: RunFolder


@dataclass(frozen=True)
class Trained:
    """A trained model, ready to be asked, and the data it was validated on."""

    model: LanguageModel
    config: Config
    mixture: Mixture


def places(path: Path, root: Path) -> list[Place]:
    """Return the runs of a sweep's folder (it has a `runs.csv`) or the one of a run's folder.

    The sweep's runs lie under `root`/runs. Only finished ones are meant. Raises `UserError` for a
    folder of neither kind and for a sweep without a finished run.
    """
    if (path / "runs.csv").is_file():
        return _of_sweep(path, root)
    if (path / WEIGHTS).is_file():
        folder = RunFolder(path.resolve().parents[1], path.resolve().name)
        if folder.path.resolve() != path.resolve():
            raise UserError(
                f"{path}: a run's folder is called by its identity and lies in runs/; this one was "
                f"copied or renamed: put it at {folder.path.parent / '<identity>'}."
            )
        record = _record(folder)
        row = f"{record['config']['name']} {path.resolve().name[:6]}"
        return [Place("", row, int(record["seed"]), folder)]
    raise UserError(
        f"{path}: neither a sweep's folder (runs.csv) nor a run's ({WEIGHTS}); give runs/<id>, "
        "runs/sweeps/<sweep> or results/<sweep>."
    )


def load_run(place: Place, mixtures: dict[str, Mixture], plugins: Sequence[Path] = ()) -> Trained:
    """Return the model and its data; `mixtures` keeps what several runs share.

    `plugins` are code that may run for it (`config/trust.py`).
    Raises `UserError` where the weights are gone or the data here is not what it was trained on.
    """
    folder = place.folder.path
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{folder}: no {WEIGHTS}, the model of {place.row!r} seed {place.seed}; give the "
            "folder that holds runs/ with --root."
        )
    record = _record(place.folder)
    config = from_resolved(record["config"], plugins=plugins, source=str(folder))
    key = str([config.data, config.training.seq_len])
    if key not in mixtures:
        mixtures[key] = build_sources(config.data, config.training.seq_len)
    if mixtures[key].fingerprint != record["data_fingerprint"]:
        raise UserError(
            f"{folder}: trained on data {record['data_fingerprint'][:12]}, its sources here give "
            f"{mixtures[key].fingerprint[:12]} (another Python's library, or changed files); probe "
            "it where it was trained."
        )
    model, _ = load(folder, None, texts=False, plugins=plugins)
    return Trained(model, config, mixtures[key])


def _of_sweep(path: Path, root: Path) -> list[Place]:
    try:
        runs = pd.read_csv(path / "runs.csv", dtype=str, keep_default_na=False)
        finished = runs[runs["status"] == "finished"]
        lines: list[dict[str, Any]] = [
            {"row": line["row"], "seed": int(line["seed"]), "identity": line["identity"]}
            for line in finished.to_dict("records")
        ]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path / 'runs.csv'}: not the runs of a sweep: {error}.") from None
    if not lines:
        raise UserError(f"{path / 'runs.csv'}: no run of it is finished; run the sweep first.")
    sweep = path.resolve().name
    return [
        Place(sweep, line["row"], line["seed"], RunFolder(root, line["identity"])) for line in lines
    ]


def _record(folder: RunFolder) -> dict[str, Any]:
    record = folder.result
    if record is None:
        raise StoreError(f"{folder.path}: no result.json; the run is not finished.")
    return record


def is_export(path: Path) -> bool:
    """Whether a folder is one that `--out` of a sweep has written."""
    return (path / _EXPORT).is_file()


def once_each(found: Sequence[Place]) -> list[Place]:
    """Return the places, those that were named twice once.

    Raises `UserError` where a row and seed have two runs: of two sweeps that are called the same.
    """
    kept: dict[tuple[str, int], Place] = {}
    for place in found:
        other = kept.setdefault((place.row, place.seed), place)
        if place.sweep and other.folder.identity != place.folder.identity:
            raise UserError(
                f"{place.sweep}: {place.row!r}, seed {place.seed}, is another run in another "
                "folder of this name; probe one of them at a time, each with an --out of its own."
            )
    return list(kept.values())
