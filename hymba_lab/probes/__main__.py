"""`python -m hymba_lab.probes RUN_OR_SWEEP ... --out FOLDER`: probes of finished runs as CSV."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from hymba_lab import cli
from hymba_lab.atomic import make_folder, write_atomically
from hymba_lab.data.source import Mixture
from hymba_lab.probes.measure import COLUMNS, Lines, probe
from hymba_lab.probes.runs import Place, by_sweep, load_run, places
from hymba_lab.runs.provenance import commit, hardware


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m hymba_lab.probes",
        description="Ask trained models what they do inside; one tidy CSV per probe.",
    )
    add = parser.add_argument
    add(
        "paths", type=Path, nargs="+", metavar="RUN_OR_SWEEP", help="runs/<id>, or a sweep's folder"
    )
    add("--out", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    add(
        "--root", type=Path, default=Path(), metavar="DIR", help="where runs/ stands; default: here"
    )
    add("--threads", type=int, default=1, metavar="N", help="default: 1, sums in one order")
    cli.add_plugins(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write DIR/<sweep>/probes/<probe>.csv (DIR/probes for runs of no sweep); returns 0."""
    options = arguments().parse_args(argv)
    torch.set_num_threads(options.threads)
    found = [place for path in options.paths for place in places(path, options.root)]
    mixtures: dict[str, Mixture] = {}
    for sweep, own in by_sweep(found):
        frames = _measured(own, mixtures, options.plugins)
        folder = options.out / sweep / "probes"
        _write(frames, own, folder, options)
        print(f"{folder}: {', '.join(sorted(frames))}")
    return 0


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
        name: pd.DataFrame(lines[name], columns=["sweep", "row", "seed", *columns])
        for name, columns in COLUMNS.items()
        if lines[name]
    }


def _write(
    frames: dict[str, pd.DataFrame], own: Sequence[Place], folder: Path, options: argparse.Namespace
) -> None:
    make_folder(folder)
    for name in COLUMNS:
        path = folder / f"{name}.csv"
        if name in frames:
            text = frames[name].to_csv(index=False, lineterminator="\n", float_format="%.6g")
            write_atomically(path, text)
        else:
            path.unlink(missing_ok=True)
    write_atomically(folder / "README.md", _provenance(own, options))


def _provenance(own: Sequence[Place], options: argparse.Namespace) -> str:
    """Return what the numbers are and where they come from."""
    records = [place.folder.result or {} for place in own]
    scales = ", ".join(sorted({str(record.get("scale")) for record in records}))
    given = " ".join(map(str, options.paths))
    state = " with uncommitted changes" if commit().dirty else ""
    return (
        f"# Probes of {own[0].sweep or 'single runs'}\n\n"
        "What each column means: `hymba_lab/probes/__init__.py`.\n\n"
        f"- Command: python -m hymba_lab.probes {given}\n"
        f"- Commit: {commit().sha[:10] or 'unknown'}{state}\n"
        f"- Runs: {len(own)} finished, at scale {scales}\n"
        f"- Hardware: {hardware()}\n"
    )


if __name__ == "__main__":
    cli.run(main)
