"""Probes of finished runs as files, a tidy CSV per probe and sweep."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch

from hymba_lab.atomic import make_folder, write_atomically
from hymba_lab.data.source import Mixture
from hymba_lab.probes.columns import COLUMNS, WHICH
from hymba_lab.probes.measure import Lines, probe
from hymba_lab.probes.runs import Place, is_export, load_run, once_each, places
from hymba_lab.probes.whose import README, UNFINISHED, mark_of
from hymba_lab.runs.provenance import commit, hardware, is_dirty


def write_probes(
    paths: Sequence[Path],
    *,
    out: Path | None = None,
    root: Path = Path(),
    threads: int = 1,
    command: str | None = None,
    plugins: Sequence[Path] = (),
) -> Iterator[tuple[Path, dict[str, pd.DataFrame]]]:
    """Probe runs and the runs of sweeps; yield every folder written, with its frames by probe.

    `paths` are `runs/<id>` or a sweep's folder; `root` is where `runs/` stands. Probes of an export
    stand in it, those of other folders in `out`/<sweep> (default: results). One of torch's
    `threads` sums in one order. `plugins` are files of code that may run for the runs' components.
    Raises `UserError` for two sweeps of one name that would be written to one place.
    """
    torch.set_num_threads(threads)
    command = command or f"hymba_lab.probes({[str(path) for path in paths]})"
    found: dict[Path, list[Place]] = {}
    for path in paths:
        for place in places(path, root):
            beside = path if out is None and is_export(path) else None
            folder = (beside or (out or Path("results")) / place.sweep) / "probes"
            found.setdefault(folder, []).append(place)
    mixtures: dict[str, Mixture] = {}
    for folder, named in found.items():
        own = once_each(named)
        frames = _measured(own, mixtures, plugins)
        _write(frames, own, folder, command)
        yield folder, frames


def _measured(
    own: Sequence[Place], mixtures: dict[str, Mixture], plugins: Sequence[Path]
) -> dict[str, pd.DataFrame]:
    """Return probe -> frame over all runs; a probe without lines is left out."""
    lines: Lines = {name: [] for name in COLUMNS}
    for number, place in enumerate(own, start=1):
        print(f"[{number}/{len(own)}] {place.row}, seed {place.seed}", file=sys.stderr, flush=True)
        which = {"sweep": place.sweep, "row": place.row, "seed": place.seed}
        for name, found in probe(load_run(place, mixtures, plugins)).items():
            lines[name] += [{**which, **line} for line in found]
    return {
        name: pd.DataFrame(lines[name], columns=[*WHICH, *columns])
        for name, columns in COLUMNS.items()
        if lines[name]
    }


def _write(
    frames: dict[str, pd.DataFrame], own: Sequence[Place], folder: Path, command: str
) -> None:
    make_folder(folder, "--out")
    write_atomically(folder / README, UNFINISHED)  # a kill leaves files of two sets
    for name in COLUMNS:
        path = folder / f"{name}.csv"
        if name in frames:
            text = frames[name].to_csv(index=False, lineterminator="\n", float_format="%.6g")
            write_atomically(path, text)
        else:
            path.unlink(missing_ok=True)
    write_atomically(folder / README, _provenance(own, command))


def _provenance(own: Sequence[Place], command: str) -> str:
    """Return what the numbers are and where they come from."""
    records = [place.folder.result or {} for place in own]
    scales = ", ".join(sorted({str(record.get("scale")) for record in records}))
    plugins = {name for record in records for name in record.get("config", {}).get("plugins", [])}
    state = " with uncommitted changes" if is_dirty(plugins) else ""
    return (
        f"# Probes of {own[0].sweep or 'single runs'}\n\n"
        "What each column means: `hymba_lab/probes/__init__.py`.\n\n"
        f"- Command: {command}\n"
        f"- Commit: {commit().sha[:10] or 'unknown'}{state}\n"
        f"- Runs: {len(own)} finished, at scale {scales}\n"
        f"- Identities: {mark_of((one.row, one.seed, one.folder.identity) for one in own)}\n"
        f"- Hardware: {hardware()}\n"
    )
