"""`python -m hymba_lab.train experiments/nano.yaml`: train one model, log it to MLflow."""

import argparse
import os
from collections.abc import Sequence

from hymba_lab import cli, flags


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    about = "Train one experiment; run again to continue."
    parser = cli.parser("train", about, "an experiment, or the name of a shipped one, e.g. nano")
    flags.add(parser, "seed", default=0, help="of weights and order of the data (default: 0)")
    flags.add(parser, "threads", default=1)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Train and print the metrics; returns 0."""
    options = arguments().parse_args(argv)
    # read when torch is imported: waiting threads leave shared cores to others
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from hymba_lab.stages.single import train
    from hymba_lab.training.world import world

    trained = train(
        options.file, options.seed, overrides=options.overrides, root=options.root,
        tracking_uri=options.tracking_uri, threads=options.threads,
    )  # fmt: skip
    if not world().is_first:
        return 0
    for name, value in trained.metrics.items():
        print(f"{name:40} {value:.4f}")
    print(f"weights: {trained.folder / 'weights.safetensors'}")
    return 0


if __name__ == "__main__":
    cli.run(main)
