"""`hymba-lab COMMAND ...` = `python -m hymba_lab COMMAND ...`: one door to every command.

A command is a module with `arguments()`, its parser, and `main(argv)`; it is imported when it is
asked for, so that listing them costs nothing.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from hymba_lab import __version__, cli

# what one wants -> command -> its module and what it does
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "ask": {
        "sweep": ("hymba_lab.sweep.__main__", "answer one question with one table"),
        "status": ("hymba_lab.commands.status", "what a sweep is doing, wherever it runs"),
        "stop": ("hymba_lab.commands.stop", "end a sweep's trials; it can go on later"),
        "train": ("hymba_lab.commands.train", "train one experiment"),
        "tokenize": ("hymba_lab.commands.tokenize", "turn text into token shards"),
        "init": ("hymba_lab.commands.init", "write a laboratory of your own to start from"),
    },
    "look": {
        "inspect": ("hymba_lab.commands.inspect", "layer plan and costs of a model"),
        "probes": ("hymba_lab.probes.__main__", "what trained models do inside"),
        "report": ("hymba_lab.report.__main__", "tables, figures and pages from exported runs"),
        "verdict": ("hymba_lab.commands.verdict", "who wins in anybody's table of runs"),
        "claims": ("hymba_lab.claims.__main__", "what became of the paper's claims"),
        "lengths": ("hymba_lab.commands.lengths", "cache against the length of the sequence"),
        "doctor": ("hymba_lab.commands.doctor", "what runs fast on this machine, and what not"),
    },
    "use": {
        "generate": ("hymba_lab.commands.generate", "continue prompts with a trained model"),
        "chat": ("hymba_lab.commands.chat", "talk to a model, or answer a file of prompts"),
        "finetune": ("hymba_lab.commands.finetune", "tune a checkpoint on answers, preferences"),
        "evaluate": ("hymba_lab.commands.evaluate", "the harness's tasks on a model"),
        "lm_eval": ("hymba_lab.commands.lm_eval", "the harness's own command, our models known"),
        "bench": ("hymba_lab.commands.bench", "throughput by the paper's protocol"),
    },
    "check": {
        "check": ("hymba_lab.commands.check", "whether your own components keep the lab's laws"),
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` begins with; without one, list them. Returns its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help"):
        print(listing())
        return 0
    if given[0] == "--version":
        print(__version__)
        return 0
    if given[0] == "--print-completion":
        return _print_completion(given[1:])
    return int(_module(given[0]).main(given[1:]))


def listing() -> str:
    """Return every command, by what one wants."""
    lines = ["usage: hymba-lab COMMAND ...    (hymba-lab COMMAND --help says more)", ""]
    for aim, commands in COMMANDS.items():
        lines += [f"{aim}:"] + [f"  {name:10} {said}" for name, (_, said) in commands.items()]
    return "\n".join([*lines, "", "hymba-lab --print-completion bash|zsh|fish|tcsh; --version"])


def every_parser() -> argparse.ArgumentParser:
    """Return one parser with all commands below it, e.g. for completion and for the pages."""
    parser = argparse.ArgumentParser(prog="hymba-lab")
    below = parser.add_subparsers(dest="command")
    for commands in COMMANDS.values():
        for name, (module, said) in commands.items():
            own = import_module(module).arguments()
            below.add_parser(name, parents=[own], add_help=False, help=said)
    return parser


def _module(name: str) -> ModuleType:
    known = {name: module for group in COMMANDS.values() for name, (module, _) in group.items()}
    if name not in known:
        from hymba_lab.errors import UserError, suggest

        raise UserError(f"no command {name!r}" + suggest(name, known))
    return import_module(known[name])


def _print_completion(given: Sequence[str]) -> int:
    import shtab

    shells = list(shtab.SUPPORTED_SHELLS)
    if len(given) != 1 or given[0] not in shells:
        from hymba_lab.errors import UserError

        raise UserError(f"--print-completion takes one of {', '.join(shells)}.")
    print(shtab.complete(every_parser(), shell=given[0]))
    return 0


def console() -> None:
    """Be the console script: one message for an error of the user, exit codes as elsewhere."""
    cli.run(main)


if __name__ == "__main__":
    console()
