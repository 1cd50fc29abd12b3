"""`python -m hymba_lab.sweep sweeps/meta_tokens.yaml`: train what is missing, print the table."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hymba_lab import cli, flags
from hymba_lab.errors import SweepStopped
from hymba_lab.runs.store_uri import remembered, without_passwords


def arguments() -> argparse.ArgumentParser:
    """Return the command line; importing what runs a sweep waits until it is asked for."""
    about = "Answer one question with one table; run again to continue."
    parser = cli.parser("sweep", about, "a sweep, or the name of a shipped one, e.g. meta_tokens")
    parser.add_argument(
        "--scale", metavar="NAME", help="one of scales/ beside the sweep, e.g. nano, 125m"
    )
    parser.add_argument(
        "--plan", action="store_true", help="show cells, costs and time; train nothing"
    )
    parser.add_argument(
        "--calibrate", action="store_true", help="with --plan: measure a few steps of every cell"
    )
    parser.add_argument(
        "--workers",
        type=flags.whole(1, 4096),
        metavar="N",
        help="trials at a time (default: one per core)",
    )
    flags.add(parser, "threads", default=1, help="torch threads per worker (default: 1)")
    flags.add(parser, "out", help="also write the table's files here, e.g. results/")
    parser.add_argument(
        "--until-decided", type=flags.integer, nargs="?", const=12, metavar="N",
        help="add seeds to undecided rows and the baseline, N a row at most (12 where not given)",
    )  # fmt: skip
    parser.add_argument(
        "--launcher", metavar="NAME", help="where trials run: local (default), slurm, ray"
    )
    parser.add_argument(
        "--resources", type=Path, metavar="FILE.yaml",
        help="what a trial asks of the cluster: GPUs, cores, memory, minutes, partition ...",
    )  # fmt: skip
    parser.add_argument(
        "--study-uri", metavar="URI", help="database of Optuna's study (default: a file)"
    )
    parser.add_argument(
        "--detach", action="store_true", help="run apart from this terminal: see status and stop"
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="try failed cells again, also after a nan"
    )
    return parser


def _anywhere(given: Sequence[str]) -> list[str]:
    """Return the words that make the same table elsewhere: no password, no place of this machine's.

    `--root` says where runs stand here and changes none of them.
    """
    words = iter(given)
    kept = []
    for word in words:
        if word == "--root":
            next(words, None)
        elif not word.startswith("--root="):
            kept.append(without_passwords(word))
    return kept


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 1 when a row has no result."""
    parser = arguments()
    options = parser.parse_args(argv)
    if options.until_decided is not None:
        options.overrides.append(f"until_decided={options.until_decided}")
    if options.plan:
        from hymba_lab.sweep.estimate import plan, print_plan

        print_plan(plan(**_asked(options), calibrate=options.calibrate))
        return 0
    from hymba_lab.sweep.run import run_sweep

    given = list(sys.argv[1:] if argv is None else argv)
    if options.detach:
        return _detach(options, [word for word in given if word != "--detach"])
    try:
        report = run_sweep(
            **_asked(options),
            tracking_uri=options.tracking_uri,
            study_uri=options.study_uri,
            out=options.out,
            retry_failed=options.retry_failed,
            command="python -m hymba_lab.sweep " + shlex.join(_anywhere(given)),
        )
    except SweepStopped:
        print("stopped as asked; the same command goes on from here.")
        return 130
    return 0 if report.complete else 1


def _detach(options: argparse.Namespace, argv: list[str]) -> int:
    from hymba_lab.sweep.detach import detach
    from hymba_lab.sweep.resources import load_resources
    from hymba_lab.sweep.run import make_launcher
    from hymba_lab.sweep.session import open_session

    resources = load_resources(options.resources, options.launcher)
    session = open_session(
        options.file, scale=options.scale, overrides=options.overrides, root=options.root
    )
    resources.check([cell.label for cell in session.cells], session.sweep)
    for name in ("tracking_uri", "study_uri"):
        if uri := getattr(options, name):
            remembered(uri, f"--{name.replace('_', '-')}")
    launcher = make_launcher(session, resources, options.workers, options.threads)
    needs = resources.coordinator
    print(detach(session.folder, session.name, argv, launcher=launcher, needs=needs))
    print(f"State: hymba-lab status {session.name}    End: hymba-lab stop {session.name}")
    return 0


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """Return what a plan and a run are both told."""
    names = ("file", "scale", "overrides", "root", "workers", "threads", "launcher", "resources")
    return {name: getattr(options, name) for name in names}


if __name__ == "__main__":
    cli.run(main)
