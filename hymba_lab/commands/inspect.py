"""`python -m hymba_lab.inspect experiments/hymba_1p5b.yaml`: what a model is and what it costs."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hymba_lab import cli, flags
from hymba_lab.errors import UserError

if TYPE_CHECKING:
    from hymba_lab.config import Config
    from hymba_lab.cost.report import Report

PICTURES = (".png", ".svg", ".pdf")


def arguments() -> argparse.ArgumentParser:
    """Return the command line; torch waits until something is inspected."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab inspect",
        description="Show the layer plan and the costs of a model; nothing is trained or stored.",
    )
    parser.add_argument(
        "file", type=Path, nargs="?", metavar="FILE.yaml",
        help="an experiment, or the name of a shipped one, e.g. nano",
    )  # fmt: skip
    parser.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="put several side by side",
    )
    flags.add(parser, "set", "json")
    _add_output(parser)
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--picture", type=Path, metavar="FILE.png", help="draw the attention map of every layer"
    )
    parser.add_argument(
        "--context",
        type=flags.whole(-(2**63), 2**32),
        default=8000,
        metavar="N",
        help="tokens before a decoded one and in the cache held (default: 8000, as in the paper)",
    )
    parser.add_argument(
        "--dtype",
        type=flags.short_precision,
        choices=["fp32", "bf16", "fp16"],
        default="fp16",
        help="of the cache held (default: fp16)",
    )
    parser.add_argument(
        "--peers", type=Path, metavar="FILE.csv",
        help="also compare shapes of a table, e.g. analysis/paper/peers.csv",
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report of one file, or several side by side; returns 0."""
    parser = arguments()
    options = parser.parse_args(argv)
    files = ([options.file] if options.file else []) + options.compare
    if not files and not options.peers:
        parser.error("name an experiment, e.g. experiments/nano.yaml")
    if options.context < 1:
        parser.error(f"--context must be at least 1 token, got {options.context}")
    if options.picture and (len(files) != 1 or options.picture.suffix not in PICTURES):
        parser.error(f"--picture FILE draws one experiment; FILE ends in {', '.join(PICTURES)}")
    from hymba_lab.cost.configs import load_configs

    configs = load_configs(files, options.overrides, options.peers)
    if options.picture:
        _draw(configs[0], options.picture)
    reports = [_report(config, options) for config in configs]
    if options.json:
        data = [report.as_json() for report in reports]
        print(json.dumps(data[0] if len(data) == 1 else data, indent=1))
    else:
        _show(reports)
    return 0


def _report(config: "Config", options: argparse.Namespace) -> "Report":
    from hymba_lab.cost.configs import vocab_of
    from hymba_lab.cost.report import report

    return report(config, vocab_of(config), context=options.context, dtype=options.dtype)


def _show(reports: "list[Report]") -> None:
    from hymba_lab.cli import plain_console
    from hymba_lab.cost.report import CONVENTIONS
    from hymba_lab.cost.show import parts_table, plan_table, totals_table

    console = plain_console()
    if not console.is_terminal:  # a file or a pipe: no column is folded away
        console = plain_console(width=max(140, 60 + 24 * len(reports)))
    if len(reports) == 1:
        console.print(plan_table(reports[0]))
        console.print(parts_table(reports[0]))
    console.print(totals_table(reports))
    for name, text in CONVENTIONS.items():
        console.print(f"{name}: {text}", style="dim", highlight=False, markup=False)


def _draw(config: "Config", path: Path) -> None:
    from hymba_lab.components.meta_tokens import meta_tokens
    from hymba_lab.errors import ConfigError
    from hymba_lab.figures.layer_plan import draw_maps
    from hymba_lab.model import plan_layers

    try:
        plan = plan_layers(config.model)
        meta = meta_tokens.build(config.model.meta_tokens, config.model.d_model)
    except ConfigError as error:
        raise config.blame(error) from None
    figure = draw_maps(config.name, plan, meta.n_meta if meta else 0)
    try:
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}.") from None


if __name__ == "__main__":
    cli.run(main)
