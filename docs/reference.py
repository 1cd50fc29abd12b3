"""Writes the pages of docs/reference/ from the schema, the registries and the commands' parsers.

`python docs/reference.py` writes them; a test compares them with what stands there.
"""

import inspect
import io
import sys
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path

from pydantic import BaseModel
from schema_table import cell, keys, models_below, type_of

FOLDER = Path(__file__).parent / "reference"

EXAMPLES = {  # of every key of a sweep file, as YAML
    "question": "question: Do meta tokens help recall?",
    "source": "source: arXiv:2411.13676 table 10",
    "scale": "scale: nano",
    "base": "base: ../experiments/nano.yaml",
    "set": "set: {training.tokens: 512000}",
    "metric": "metric: {name: val/recall_accuracy, goal: maximize}",
    "also": "also: [val/text_bits_per_byte]",
    "objectives": "objectives: [{name: val/loss, goal: minimize}]",
    "seeds": "seeds: [0, 1, 2]",
    "tune_seed": "tune_seed: 1000",
    "axes": "axes: {fusion: {mean: {}, gate: {model.fusion: {name: gate}}}}",
    "baseline": "baseline: mean",
    "control": "control: gate",
    "stop": "stop: {metric: val/recall_accuracy, at: 0.95}",
    "search": "search: {optimizer.lr: {choices: [2.0e-3, 4.0e-3]}}",
    "trials_per_cell": "trials_per_cell: 2",
    "widen": "widen: true",
    "tuning": "tuning: race",
    "behind": "behind: 0.006",
    "n_trials": "n_trials: 40",
    "sampler": "sampler: {name: grid}",
    "pruner": "pruner: {name: median, n_warmup_steps: 100}",
    "match": "match: {params: baseline, by: model.mlp.d_ff, tolerance: 0.5%}",
    "design": "design: factorial",
    "alpha": "alpha: 0.05",
    "margin": "margin: 0.05",
    "until_decided": "until_decided: 12",
    "trial_timeout_minutes": "trial_timeout_minutes: 30",
    "retries": "retries: 1",
    "paper": 'paper: {label: "arXiv:2411.13676", values: {mean: 49.5}}',
}


def pages() -> dict[str, str]:
    """Return every generated page by its file name."""
    return {
        "sweep_file.md": sweep_file(),
        "experiment_file.md": experiment_file(),
        "components.md": components(),
        "sweeps.md": sweeps(),
        "commands.md": commands(),
        "python.md": python(),
    }


def sweep_file() -> str:
    """Every key of a sweep file, with type, default, meaning and an example."""
    from hymba_lab.sweep.question import file
    from hymba_lab.sweep.question.scale import ScaleFile

    parts = [
        "# The sweep file\n\n"
        "One YAML file is one question and one table. Paths in it are relative to it. This page is "
        "made from the schema (`python docs/reference.py`).\n\n",
        keys(file.SweepFile, EXAMPLES),
    ]
    for model in models_below(file.SweepFile):
        parts.append(f"\n## {model.__name__}\n\n{inspect.getdoc(model)}\n\n{keys(model)}")
    parts.append(
        "\n## A scale file\n\nA sweep that writes `scale: nano` in place of `base:` reads "
        f"`scales/nano.yaml` beside it.\n\n{keys(ScaleFile)}"
    )
    return "".join(parts)


def experiment_file() -> str:
    """Every key of an experiment, but for the options of its components."""
    from hymba_lab.config import schema

    parts = [
        "# The experiment file\n\n"
        "One YAML file is one run, seeds apart. Paths in it are relative to it. `extends:` takes "
        "another file as its start, beside it or `hymba_lab:NAME`. A `Spec` is `{name: ..., "
        "options}`: [Components](components.md) has the names and options of every slot; what may "
        "stand in `stages:` is told in [Fine-tuning](../fine_tuning.md). This page is made from "
        "the schema (`python docs/reference.py`).\n\n",
        keys(schema.Config),
    ]
    sections: dict[str, type[BaseModel]] = {
        "`model`": schema.ModelConfig,
        "`training`": schema.TrainingConfig,
        "An entry of `model.layers`": schema.Layers,
    }
    for title, model in sections.items():
        parts.append(f"\n## {title}\n\n{inspect.getdoc(model)}\n\n{keys(model)}")
    return "".join(parts)


def sweeps() -> str:
    """Every sweep that comes with the package: what it asks, and at which scales."""
    from hymba_lab.sweep.question.designs import design_choices
    from hymba_lab.sweep.question.file import load_sweep

    folder = Path(__file__).parents[1] / "sweeps"
    scales = ", ".join(sorted(path.stem for path in (folder / "scales").glob("*.yaml")))
    lines = [
        "# The sweeps that come with it\n\n"
        "`hymba-lab sweep NAME`, in a checkout or not. Those that have a scale are asked at "
        f"another with `--scale`: {scales}. Made from the files.\n\n"
        "| name | question | rows | scale | source |\n|---|---|---:|---|---|\n"
    ]
    for path in sorted(folder.glob("*.yaml")):
        file = load_sweep(path).file
        n_rows = len(design_choices(file))
        cells = [
            f"`{path.stem}`", file.question, str(n_rows), file.scale or "its own", file.source,
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(cell, cells)) + " |\n")
    return "".join(lines)


def python() -> str:
    """What `import hymba_lab` gives."""
    import hymba_lab

    parts = [
        f"# From Python\n\n```text\n{inspect.getdoc(hymba_lab)}\n```\n\nMade from the docstrings.\n"
    ]
    for name in hymba_lab.__all__:
        if name != "__version__":
            parts.append(f"\n## {name}\n\n```text\n{name}{_called(name)}\n```\n")
    return "".join(parts)


def _called(name: str) -> str:
    """Return how a name of the package is called, a parameter a line, and its docstring."""
    import hymba_lab

    module, inside = PACKAGES.get(name) or (hymba_lab._ROOM[name], name)
    function = getattr(import_module(module), inside)
    lines: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        star = (
            "*, " if parameter.kind is parameter.KEYWORD_ONLY and "*" not in "".join(lines) else ""
        )
        default = parameter.default
        said = "..." if callable(default) else repr(default).replace("PosixPath", "Path")
        given = "" if default is parameter.empty else f" = {said}"
        lines.append(f"    {star}{parameter.name}: {type_of(parameter.annotation)}{given},\n")
    return f"(\n{''.join(lines)})\n\n{inspect.getdoc(function)}"


PACKAGES = {  # that are called by their own name
    "report": ("hymba_lab.report.all", "report"),
    "sweep": ("hymba_lab.sweep.run", "run_sweep"),
}


def components() -> str:
    """Every component by the slot it fills, with its options."""
    from hymba_lab.config import all_registries

    parts = [
        "# Components and their options\n\n"
        "What stands under `name:` in an experiment, slot by slot; options are the keyword-only "
        "parameters of the class or function. Made from the registries.\n"
    ]
    for path, registry in all_registries().items():
        parts.append(f"\n## `{path}`\n\n")
        for name in registry:
            entry = registry.entry(name)
            said = (inspect.getdoc(entry) or "").split("\n\n", 1)[0].replace("\n", " ")
            fields = registry.spec_type(name).model_fields
            options = [
                f"`{parameter.name}: {type_of(fields[parameter.name].annotation)}`"
                + ("" if parameter.default is parameter.empty else f" = `{parameter.default!r}`")
                for parameter in inspect.signature(entry).parameters.values()
                if parameter.kind is parameter.KEYWORD_ONLY
            ]
            parts.append(
                f"- **{name}**: {said}"
                + (f" Options: {', '.join(options)}." if options else "")
                + "\n"
            )
    return "".join(parts)


def commands() -> str:
    """Every command's own help."""
    from hymba_lab.__main__ import COMMANDS

    parts = [
        "# Commands\n\n`hymba-lab COMMAND` = `python -m hymba_lab COMMAND`. Made from `--help`.\n"
    ]
    for aim, group in COMMANDS.items():
        parts.append(f"\n## {aim}\n")
        for name, (module, said) in group.items():
            parts.append(
                f"\n### {name}\n\n{said[0].upper()}{said[1:]}.\n\n```text\n{_help(module)}```\n"
            )
    return "".join(parts)


def _help(module: str) -> str:
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        import_module(module).main(["--help"])
    return text.getvalue()


def main() -> int:
    """Write the pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
