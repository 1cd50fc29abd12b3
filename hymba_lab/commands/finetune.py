"""`hymba-lab finetune sft|dpo CONFIG.yaml`: fine-tune a checkpoint; again to go on."""

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hymba_lab import cli, flags
from hymba_lab.errors import UserError

if TYPE_CHECKING:
    from hymba_lab.config.tuning import Dpo, Sft


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab finetune",
        description="Fine-tune a checkpoint by one stage; run again to go on. "
        "merge: put an adapter into the weights it was trained beside. "
        "export: write a run of the lab as a folder to start from.",
    )
    add = parser.add_argument
    add("what", choices=["sft", "dpo", "merge", "export"],
        help="on answers, on preferences; or merge, export")  # fmt: skip
    add("file", type=Path, metavar="CONFIG.yaml", help="or the name of a shipped stage; merge: the "
        "adapter's folder; export: runs/<id>")  # fmt: skip
    flags.add(parser, "set", help="override one value, e.g. --set lr=1.0e-5; may be repeated")
    add("--plan", action="store_true", help="say tokens, steps, memory; train nothing")
    add("--out", type=Path, metavar="DIR",
        help="folder to write (default: `out` of the file, or finetuned/<name>)")  # fmt: skip
    add("--base", type=Path, metavar="FOLDER", help="merge: the adapter's base, if it was moved")
    flags.add(parser, "device", "threads", "plugin")
    flags.add(parser, "root", help="where finetuned/ and mlflow.db stand (default: this folder)")
    flags.add(parser, "tracking-uri")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Plan, train or merge; returns 0."""
    options = arguments().parse_args(argv)
    if options.what in ("merge", "export") and options.out is None:
        raise UserError(f"finetune {options.what}: name the folder to write with --out DIR.")
    _needs()
    if options.what == "merge":
        return _merge(options)
    if options.what == "export":
        return _export(options)
    from hymba_lab.finetune.stage_file import load_stage

    stage = load_stage(options.what, options.file, options.overrides)
    return _plan(stage, options.plugins) if options.plan else _train(stage, options)


def _train(stage: "Sft | Dpo", options: argparse.Namespace) -> int:
    from hymba_lab.cost.throughput import device_of, set_threads
    from hymba_lab.finetune.run import finetune

    set_threads(options.threads)
    out = options.out or Path(stage.out or options.root / "finetuned" / stage.name)
    result = finetune(
        stage, out, root=options.root, tracking_uri=options.tracking_uri,
        device=device_of(options.device), told=_told, plugins=options.plugins,
    )  # fmt: skip
    for name, value in result["metrics"].items():
        if name in ("train/loss", "val/loss", "rewards/accuracies"):
            print(f"{name:24} {value:.4f}")
    print(f"written: {out}")
    return 0


def _plan(stage: "Sft | Dpo", plugins: Sequence[Path]) -> int:
    from hymba_lab.finetune.plan import plan
    from hymba_lab.finetune.run import quiet
    from hymba_lab.finetune.start import Start

    quiet()
    planned, _ = plan(stage, Start(Path(stage.model), plugins))
    print("\n".join(planned.lines()))
    return 0


def _merge(options: argparse.Namespace) -> int:
    from hymba_lab.finetune.merge import merge
    from hymba_lab.finetune.run import quiet

    quiet()
    fresh = merge(options.file, options.out, options.base, options.plugins)
    print(f"written: {options.out}" if fresh else f"{options.out}: is there already")
    return 0


def _export(options: argparse.Namespace) -> int:
    from hymba_lab.finetune.run import quiet
    from hymba_lab.hf.from_run import save_run

    quiet()
    save_run(options.file, options.out, options.plugins)
    print(f"written: {options.out}")
    return 0


def _needs() -> None:
    missing = [name for name in ("trl", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"fine-tuning needs {' and '.join(missing)}: pip install 'hymba-lab[finetune]'."
        )


def _told(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    cli.run(main)
