"""`hymba-lab check my_plugin.py`: whether components keep the laws that the lab relies on.

A file is a plugin, or an experiment: then the components of its plugins are tried with the options
and widths that it gives them. Exit code 0 when all laws are kept, 1 when one is broken, 2 when
there is nothing to try.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from hymba_lab import cli, flags

if TYPE_CHECKING:
    from hymba_lab.testing import Outcome


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab check",
        description="Try components of your own on the laws that the lab relies on: shape, "
        "causality, gradients, seeds, options, costs, and generation that equals the forward pass.",
    )
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help="a plugin (.py) or an experiment")
    flags.add(parser, "set", "json")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print what came of every law; returns 0, or 1 when one is broken."""
    options = arguments().parse_args(argv)
    found = check(options.files, overrides=options.overrides)
    if options.json:
        print(json.dumps([asdict(outcome) for outcome in found], indent=1))
    else:
        print("\n".join(lines(found)))
    return int(any(outcome.verdict == "broken" for outcome in found))


def check(files: Sequence[Path], *, overrides: Sequence[str] = ()) -> "list[Outcome]":
    """Return the outcome of every law for every component of the files.

    Raises `UserError` for a file that cannot be read or brings no component.
    """
    import torch

    from hymba_lab.testing import all_tried
    from hymba_lab.testing.targets import subjects_of

    with torch.random.fork_rng(devices=[]):  # the laws seed the generator of their caller
        return [outcome for file in files for outcome in all_tried(subjects_of(file, overrides))]


def lines(found: "Sequence[Outcome]") -> list[str]:
    """Return the outcomes as text, component by component."""
    width = max(len(outcome.law) for outcome in found)
    text: list[str] = []
    for component in dict.fromkeys(outcome.component for outcome in found):
        text += [component]
        for outcome in (one for one in found if one.component == component):
            said = outcome.said and f"  {outcome.said}"
            mark = {"kept": "kept  ", "broken": "BROKEN", "not tried": "-     "}[outcome.verdict]
            text.append(f"  {mark}  {outcome.law:{width if said else 0}}{said}")
        text.append("")
    broken = sum(outcome.verdict == "broken" for outcome in found)
    kept = sum(outcome.verdict == "kept" for outcome in found)
    return [*text, f"{kept} laws kept, {broken} broken"]


if __name__ == "__main__":
    cli.run(main)
