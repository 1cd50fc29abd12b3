"""Cache against the length of the sequence, for Hymba and its Transformer peers (figure 2).

`python -m hymba_lab.cost.lengths NAME=FILE.yaml ... --peers PEERS.csv --out FOLDER` writes exact
bytes, by the paper's accounting, and their figure; nothing is trained, measured or held.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from hymba_lab import cli
from hymba_lab.config import ModelConfig, load_config
from hymba_lab.cost.cache import paper_bytes
from hymba_lab.cost.model import meta_model
from hymba_lab.errors import UserError
from hymba_lab.figures import cache_against_length, save
from hymba_lab.peers import Peer, read_peers
from hymba_lab.runs import make_folder, write_atomically

FIGURE = "cache_against_length"
LENGTHS = tuple(range(1000, 16_001, 1000))  # tokens; the paper's figure has 1K to 16K


def cache_by_length(
    hybrids: Mapping[str, ModelConfig], peers: Sequence[Peer], lengths: Sequence[int] = LENGTHS
) -> pd.DataFrame:
    """Return model, kind (hybrid or transformer), tokens, cache_bytes (FP16, one sequence)."""
    lines = [(peer.name, "transformer", n, peer.cache_bytes(n)) for peer in peers for n in lengths]
    for name, config in hybrids.items():
        model = meta_model(config, config.vocab or 1)  # the vocabulary keeps nothing
        lines += [(name, "hybrid", n, round(paper_bytes(config, model, n))) for n in lengths]
    return pd.DataFrame(lines, columns=["model", "kind", "tokens", "cache_bytes"])


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m hymba_lab.cost.lengths",
        description="Cache against the length of the sequence, by the paper's accounting.",
    )
    add = parser.add_argument
    add("models", nargs="+", metavar="NAME=FILE.yaml", help="experiments with SSM heads")
    add("--peers", type=Path, required=True, metavar="PEERS.csv", help="analysis/paper/peers.csv")
    add("--out", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write cache_against_length.csv and its figure (SVG, PNG, PDF); returns 0."""
    options = arguments().parse_args(argv)
    hybrids = dict(map(_named, options.models))
    frame = cache_by_length(hybrids, read_peers(options.peers))
    make_folder(options.out)
    text = frame.to_csv(index=False, lineterminator="\n")
    write_atomically(options.out / f"{FIGURE}.csv", text)
    save(cache_against_length(frame), options.out, FIGURE)
    return 0


def _named(given: str) -> tuple[str, ModelConfig]:
    name, equals, file = given.partition("=")
    if not name or not equals or not file:
        raise UserError(f"{given!r}: write NAME=FILE.yaml, the name as the figure shows it.")
    return name, load_config(file).model


if __name__ == "__main__":
    cli.run(main)
