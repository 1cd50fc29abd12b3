"""`python -m hymba_lab.probes RUN_OR_SWEEP ... --out FOLDER`: probes of finished runs as CSV."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hymba_lab import cli, flags


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab probes",
        description="Ask trained models what they do inside; one tidy CSV per probe.",
    )
    add = parser.add_argument
    add(
        "paths", type=Path, nargs="+", metavar="RUN_OR_SWEEP", help="runs/<id>, or a sweep's folder"
    )
    flags.add(parser, "out")
    flags.add(parser, "threads", default=1)
    flags.add(parser, "root", "plugin")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write DIR/<sweep>/probes/<probe>.csv (DIR/probes for runs of no sweep); returns 0.

    Without --out an export's probes stand in it, and DIR is results.
    """
    options = arguments().parse_args(argv)
    from hymba_lab.probes.write import write_probes

    paths = [str(_below(path, options.root)) for path in options.paths]
    command = " ".join(["python -m hymba_lab.probes", *paths])
    for folder, frames in write_probes(
        options.paths, out=options.out, root=options.root, threads=options.threads,
        command=command, plugins=options.plugins,
    ):  # fmt: skip
        print(f"{folder}: {', '.join(sorted(frames))}")
    return 0


def _below(path: Path, root: Path) -> Path:
    """Return a path as it stands below `--root`: where that is on this machine says nothing."""
    whole, top = path.resolve(), root.resolve()
    return whole.relative_to(top) if whole.is_relative_to(top) else path


if __name__ == "__main__":
    cli.run(main)
