"""`hymba-lab evaluate RUN_OR_FOLDER --suite paper`: the harness's tasks on a model."""

import argparse
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymba_lab import cli, flags
from hymba_lab.errors import UserError
from hymba_lab.evaluation.evaluate import Chat, Silent

if TYPE_CHECKING:
    from hymba_lab.evaluation.suites import Suite


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab evaluate",
        description="Evaluate a model by tasks of the lm-evaluation-harness; again to continue.",
    )
    add = parser.add_argument
    add("model", type=Path, nargs="?", metavar="RUN_OR_FOLDER",
        help="runs/<id>, or a folder with config.json")  # fmt: skip
    add("--suite", default="quick", metavar="NAME_OR_DIR",
        help="paper, recall, quick, or a folder of task files (default: quick)")  # fmt: skip
    add("--limit", type=flags.integer, metavar="N", help="the first N questions of every task")
    add(
        "--n-shot",
        type=flags.integer,
        metavar="N",
        help="examples before each question (default: suite's)",
    )
    flags.add(parser, "batch-size")
    add("--max-length", type=flags.integer, metavar="N",
        help="longest text in tokens (default: what the positions are made for)")  # fmt: skip
    flags.add(parser, "out", help="where results go (default: RUN/evaluation, evaluation/<folder>)")
    add(
        "--download",
        action="store_true",
        help="fetch missing data; without a model only that",
    )
    add("--no-bos", action="store_true", help="texts begin with their first word, not with <s>")
    add("--apply-chat-template", action="store_true",
        help="put questions as what a user says, by the model's own template")  # fmt: skip
    add("--template", metavar="FILE", help="with it: another template (jinja), or: plain")
    add("--fewshot-as-multiturn", action="store_true",
        help="with it: examples before a question are turns of their own")  # fmt: skip
    add("--run-code", action="store_true", help="let task files of your own run Python code")
    add("--log-samples", action="store_true", help="also write every question and answer")
    flags.add(parser, "dtype", "device", "threads", "root", "tracking-uri", "plugin")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, print the table, write the results; returns 0."""
    options = arguments().parse_args(argv)
    from hymba_lab.evaluation.evaluate import evaluate
    from hymba_lab.evaluation.suites import suite_of

    suite = suite_of(options.suite, limit=options.limit, n_shot=options.n_shot)
    if options.model is None:
        return _download(suite, download=options.download, run_code=options.run_code)
    found = evaluate(
        options.model, suite, batch_size=options.batch_size, max_length=options.max_length,
        dtype=options.dtype, device=options.device, threads=options.threads, out=options.out,
        bos=not options.no_bos, chat=_chat(options), download=options.download,
        run_code=options.run_code, keep_samples=options.log_samples, root=options.root,
        tracking_uri=options.tracking_uri, plugins=options.plugins, shown=Bar(),
        begun=lambda suite, out: print(
            f"{options.model}: suite {suite.name}, {len(suite.asked)} task(s), results in {out}"
        ),
    )  # fmt: skip
    if found.not_logged:
        print(f"not in MLflow: {found.not_logged}")
    return 0


def _chat(options: argparse.Namespace) -> Chat | None:
    if options.apply_chat_template:
        return Chat(options.template, options.fewshot_as_multiturn)
    for name, given in (
        ("--template", options.template is not None),
        ("--fewshot-as-multiturn", options.fewshot_as_multiturn),
    ):
        if given:
            raise UserError(f"{name} goes with --apply-chat-template, which is not given.")
    return None


def _download(suite: "Suite", *, download: bool, run_code: bool) -> int:
    if not download:
        raise UserError("no model is given; name RUN_OR_FOLDER, or --download to fetch data only.")
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("evaluation needs the extra: pip install 'hymba-lab[evaluate]'.")
    from hymba_lab.evaluation.tasks import load_tasks

    load_tasks(suite, download=True, run_code=run_code)
    print(f"the data of suite {suite.name} are there.")
    return 0


def _line(one: Any, record: Mapping[str, Any], left: float | None) -> str:
    every: Mapping[str, Any] = record["metrics"]
    values: Mapping[str, float] = every.get(one.task) or next(iter(every.values()), {})
    said = []
    for name, value in values.items():
        if "_stderr" not in name:
            error = values.get(f"{name}_stderr")
            said.append(f"{name} {value:.4f}" + (f" ± {error:.4f}" if error is not None else ""))
    if (guess := record.get("guess", {}).get(one.task)) is not None:
        said.append(f"one answer to all questions {guess:.4f}")
    n = sum(record["n_questions"].values())
    about = [f"{n} questions", f"{record['seconds']:.0f} s"]
    if record["n_cut"]:
        about.append(f"{record['n_cut']} texts cut to the longest")
    if left is not None and left >= 1:
        about.append(f"about {left / 60:.0f} min left" if left > 90 else f"about {left:.0f} s left")
    return f"{one.task:24} {', '.join(said)}  ({'; '.join(about)})"


class Bar(Silent):
    """The requests of the task under way on a terminal, with the time left; silent elsewhere."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        from hymba_lab.cli import plain_console

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = plain_console(stderr=True)
        silent = not console.is_terminal
        self._bar = Progress(*columns, console=console, transient=True, disable=silent)
        self._task = self._bar.add_task("requests", total=None)

    def begin(self, n: int) -> None:
        """Start over with `n` requests."""
        self._bar.reset(self._task, total=n)
        self._bar.start()

    def done(self, n: int) -> None:
        """Count `n` answered ones."""
        self._bar.update(self._task, advance=n)
        if self._bar.finished:
            self._bar.stop()

    def told(self, one: Any, record: Mapping[str, Any], left: float | None) -> None:
        """Print a finished task's line."""
        print(_line(one, record, left), flush=True)


if __name__ == "__main__":
    cli.run(main)
