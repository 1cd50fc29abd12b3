"""`python -m hymba_lab.bench experiments/hymba_1p5b.yaml --seq-len 8192 --batch 128`.

Throughput by the paper's protocol: a batch of prompts is read and goes on token by token; where
the batch does not fit, it is halved until it does, and the table says which batch it was.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymba_lab import cli, flags

if TYPE_CHECKING:
    from hymba_lab.config import Config
    from hymba_lab.cost.throughput import Protocol


# its name, and that of the same thing at other commands
_NUMBERS: dict[tuple[str, ...], tuple[int | None, str]] = {
    ("--seq-len",): (8192, "tokens of a prompt"),
    ("--batch", "--batch-size"): (128, "prompts at a time, to begin with"),
    ("--new-tokens", "--max-new-tokens"): (64, "tokens decoded after each prompt"),
    ("--chunk", "--chunk-size"): (512, "tokens of a prompt read at once"),
    ("--threads",): (None, "torch threads"),
}


def arguments() -> argparse.ArgumentParser:
    """Return the command line; torch waits until something is measured."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab bench",
        description="Measure speed with random weights; halve the batch until it fits.",
    )
    parser.add_argument(
        "files", type=Path, nargs="*", metavar="FILE.yaml",
        help="experiments, or names of shipped ones, e.g. nano",
    )  # fmt: skip
    parser.add_argument(
        "--peers", type=Path, metavar="FILE.csv",
        help="also shapes of a table, e.g. analysis/paper/peers.csv",
    )  # fmt: skip
    flags.add(parser, "set", "device", "json")
    for names, (default, about) in _NUMBERS.items():
        shown = "torch's" if default is None else default
        parser.add_argument(
            *names,
            type=flags.whole(1, 4096 if names == ("--threads",) else 2**40),
            default=default,
            metavar="N",
            help=f"{about} (default: {shown})",
        )
    parser.add_argument(
        "--dtype", type=flags.short_precision, choices=["fp32", "bf16", "fp16"], default="bf16",
        help="of weights and cache (default: bf16)",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every configuration and print the table; returns 0, or 1 where one never fits."""
    parser = arguments()
    options = parser.parse_args(argv)
    if not options.files and not options.peers:
        parser.error("name an experiment, e.g. experiments/nano.yaml")
    return _measure(options)


def _measure(options: argparse.Namespace) -> int:
    import torch

    from hymba_lab.cost.configs import load_configs, vocab_of
    from hymba_lab.cost.report import DTYPES
    from hymba_lab.cost.throughput import Protocol, device_of, measure

    if options.threads:
        torch.set_num_threads(options.threads)
    protocol = Protocol(
        seq_len=options.seq_len,
        batch=options.batch,
        new_tokens=options.new_tokens,
        chunk=options.chunk,
        dtype=DTYPES[options.dtype],
        device=device_of(options.device),
    )
    configs = load_configs(options.files, options.overrides, options.peers)
    lines = [_line(config, measure(config, vocab_of(config), protocol)) for config in configs]
    _print(lines, protocol, options)
    return int(any(line["batch"] is None for line in lines))


def _line(config: "Config", found: dict[str, float] | None) -> dict[str, Any]:
    names = (
        "batch", "params", "prefill_tokens_per_s", "decode_tokens_per_s", "peak_bytes",
        "cache_bytes",
    )  # fmt: skip
    return {"name": config.name, **(found or dict.fromkeys(names))}


def _print(lines: list[dict[str, Any]], protocol: "Protocol", options: argparse.Namespace) -> None:
    from hymba_lab.cli import plain_console
    from hymba_lab.cost.throughput import hardware_of
    from hymba_lab.runs.provenance import commit

    about = {
        "seq_len": protocol.seq_len,
        "batch_asked": protocol.batch,
        "new_tokens": protocol.new_tokens,
        "dtype": options.dtype,
        "hardware": hardware_of(protocol.device),
        "commit": commit().sha,
        "dirty": commit().dirty,
    }
    if options.json:
        print(json.dumps({**about, "results": lines}, indent=1))
        return

    console = plain_console()
    if not console.is_terminal:  # a file or a pipe: no column is folded away
        console = plain_console(width=140)
    console.print(_table(lines))
    console.print(
        f"random weights, {options.dtype}; {protocol.seq_len:,} tokens in, {protocol.new_tokens} "
        f"out in each row; asked for a batch of {protocol.batch}; {about['hardware']}",
        highlight=False, markup=False,
    )  # fmt: skip


def _table(lines: list[dict[str, Any]]) -> object:
    from rich import box
    from rich.table import Table

    from hymba_lab.tables.numbers import MISSING

    table = Table(box=box.SIMPLE)
    columns = {
        "params": ("params", 1.0, 0),
        "batch": ("batch", 1.0, 0),
        "prefill_tokens_per_s": ("prefill tokens/s", 1.0, 1),
        "decode_tokens_per_s": ("decode tokens/s", 1.0, 1),
        "peak_bytes": ("peak memory [GB]", 1e9, 3),
        "cache_bytes": ("cache [MB]", 1e6, 3),
    }
    table.add_column("model", no_wrap=True)
    for heading, _, _ in columns.values():
        table.add_column(heading, justify="right")
    for line in lines:
        cells = []
        for name, (_, unit, digits) in columns.items():
            value = line[name]
            known = isinstance(value, int | float)
            cells.append(f"{value / unit:,.{digits}f}" if known else MISSING)
        table.add_row(str(line["name"]), *cells)
    return table


if __name__ == "__main__":
    cli.run(main)
