"""`hymba-lab lm_eval --model hf --model_args pretrained=FOLDER ...`: the harness's own command.

All arguments are the harness's; our models are known to it. `trust_remote_code=True` is taken, and
no code of the folder runs: the model is ours.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence

from hymba_lab import cli
from hymba_lab.errors import UserError


def arguments() -> argparse.ArgumentParser:
    """Return the command line: whatever the harness takes."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab lm_eval",
        description="The lm-evaluation-harness with our models: --model hf --model_args "
        "pretrained=FOLDER --tasks ... (`hymba-lab lm_eval run --help` lists its arguments)",
    )
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="the harness's own")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Hand everything to the harness; returns 0."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given in ([], ["-h"], ["--help"]):
        arguments().print_help()
        return 0
    for package, extra in (("lm_eval", "evaluate"), ("transformers", "hf")):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"this needs {package}: pip install 'hymba-lab[{extra}]'.")
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    import hymba_lab.hf  # noqa: F401 - registers the models

    setup_logging()
    command = HarnessCLI()
    before, sys.argv = sys.argv, ["lm_eval", *given]  # it reads them from there
    try:
        command.execute(command.parse_args())
    finally:
        sys.argv = before
    return 0


if __name__ == "__main__":
    cli.run(main)
