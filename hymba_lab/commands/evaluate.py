"""`hymba-lab evaluate RUN_OR_FOLDER --suite paper`: the harness's tasks on a model."""

import argparse
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymba_lab import cli, flags
from hymba_lab.errors import UserError

if TYPE_CHECKING:
    from hymba_lab.evaluation.harness_model import HarnessModel
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
    add(
        "--batch-size",
        "--batch",
        type=flags.integer,
        default=32,
        metavar="N",
        help="texts read at once (default: 32)",
    )
    add("--max-length", type=flags.integer, metavar="N",
        help="longest text in tokens (default: what the positions are made for)")  # fmt: skip
    flags.add(parser, "out", help="where results go (default: RUN/evaluation, evaluation/<folder>)")
    add(
        "--download",
        action="store_true",
        help="fetch missing data; without a model only that",
    )
    add("--no-bos", action="store_true", help="texts begin with their first word, not with <s>")
    add("--run-code", action="store_true", help="let task files of your own run Python code")
    add("--log-samples", action="store_true", help="also write every question and answer")
    flags.add(parser, "dtype", "device", "threads", "root", "tracking-uri", "plugin")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, print the table, write the results; returns 0."""
    options = arguments().parse_args(argv)
    os.environ.setdefault("TQDM_DISABLE", "1")  # read at import: the harness counts its own loops
    from hymba_lab.evaluation.suites import suite_of

    suite = suite_of(options.suite, limit=options.limit, n_shot=options.n_shot)
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("evaluation needs the extra: pip install 'hymba-lab[evaluate]'.")
    if options.model is None:
        return _download(suite, options)
    if not 1 <= options.batch_size <= 65536:
        raise UserError(f"--batch-size {options.batch_size}: give a number from 1 to 65536.")
    model, facts = _model(options)
    out = options.out or _place(options.model)
    from hymba_lab.evaluation.run import run_suite

    print(f"{options.model}: suite {suite.name}, {len(suite.asked)} task(s), results in {out}")
    records = run_suite(
        model, suite, out, facts, download=options.download, run_code=options.run_code,
        keep_samples=options.log_samples, told=_told,
    )  # fmt: skip
    _keep(records, facts, options)
    return 0


def _download(suite: "Suite", options: argparse.Namespace) -> int:
    if not options.download:
        raise UserError("no model is given; name RUN_OR_FOLDER, or --download to fetch data only.")
    from hymba_lab.evaluation.tasks import load_tasks

    load_tasks(suite, download=True, run_code=options.run_code)
    print(f"the data of suite {suite.name} are there.")
    return 0


def _model(options: argparse.Namespace) -> tuple["HarnessModel", dict[str, Any]]:
    """Return the model as the harness asks for it, and what results depend on."""
    from hymba_lab.checkpoints.load import load, longest_text
    from hymba_lab.cost.throughput import device_of, set_threads
    from hymba_lab.evaluation.harness_model import HarnessModel
    from hymba_lab.evaluation.run import weights_digest

    device = device_of(options.device)
    set_threads(options.threads)
    net, codec = load(options.model, options.dtype, texts=True, plugins=options.plugins)
    assert codec is not None, "texts were asked for"
    known = longest_text(options.model, net)
    length = options.max_length or known or 2048
    if length < 2 or (net.max_tokens is not None and length > net.max_tokens):
        raise UserError(
            f"--max-length {length}: give from 2 to {net.max_tokens or 'any number of'} tokens."
        )
    facts = {
        "weights": weights_digest(options.model),
        "precision": str(net.embedding.weight.dtype).removeprefix("torch."),
        "max_length": length,
        "bos": not options.no_bos,
    }
    bar = Bar()
    model = HarnessModel(
        net.to(device), codec, n_rows=options.batch_size, max_length=length, bos=not options.no_bos,
        begin=bar.begin, done=bar.done,
    )  # fmt: skip
    return model, facts


def _place(model: Path) -> Path:
    if (model / "result.json").is_file() or (model / "weights.safetensors").is_file():
        return model / "evaluation"
    return Path("evaluation") / model.resolve().name


def _told(one: Any, record: Mapping[str, Any], left: float | None) -> None:
    """Print a finished task's line."""
    every: Mapping[str, Any] = record["metrics"]
    values: Mapping[str, float] = every.get(one.task) or next(iter(every.values()), {})
    said = []
    for name, value in values.items():
        if "_stderr" not in name:
            error = values.get(f"{name}_stderr")
            said.append(f"{name} {value:.4f}" + (f" ± {error:.4f}" if error is not None else ""))
    n = sum(record["n_questions"].values())
    about = [f"{n} questions", f"{record['seconds']:.0f} s"]
    if record["n_cut"]:
        about.append(f"{record['n_cut']} texts cut to the longest")
    if left is not None and left >= 1:
        about.append(f"about {left / 60:.0f} min left" if left > 90 else f"about {left:.0f} s left")
    print(f"{one.task:24} {', '.join(said)}  ({'; '.join(about)})", flush=True)


class Bar:
    """The requests of the task under way on a terminal, with the time left; silent elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
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


def _keep(
    records: Mapping[str, Any], facts: Mapping[str, Any], options: argparse.Namespace
) -> None:
    """Write the metrics into the run's record and into MLflow; a store that refuses is said."""
    from hymba_lab.evaluation.record import add_to_run, log

    run = add_to_run(options.model, records)
    fault = log(
        records,
        name=options.model.resolve().name,
        weights=facts["weights"],
        root=options.root,
        tracking_uri=options.tracking_uri,
        run=run,
    )
    if fault:
        print(f"not in MLflow: {fault}")


if __name__ == "__main__":
    cli.run(main)
