"""What follows the pretraining of an experiment: SFT, DPO, evaluation, one after the other.

    stages:
      - pretrain                     # the experiment itself; may be left out
      - sft: {data: {paths: [chats.jsonl]}, template: plain, seq_len: 128, lr: 1.0e-3, rows: 16}
      - evaluate: {suite: my_tasks/}

A stage is addressed by its label: `--set stages.sft.lr=3.0e-4`, and so in a sweep's axes and
search. Two of one kind get labels of their own: `sft2: {name: sft, ...}`.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from hymba_lab.config.start import file_digest
from hymba_lab.config.tuning import Dpo, DpoKeys, Lora, Sft, SftKeys
from hymba_lab.config.yaml_file import Document, Place
from hymba_lab.registry import FromFile, Spec

SUITES = ("paper", "recall", "quick")
"""Suites that come with the package; any other name is a folder of task files."""

TAKEN = ("pretrain", "val", "train", "eval", "cost")  # labels are the first part of metrics' names
COSMETIC = ("log_every", "checkpoint_every", "recompute", "batch_size")
_FILES = re.compile(r"[\w./~-]+\.(?:jsonl?|csv|parquet|txt)")  # that a task file names


class StageSpec(Spec):
    """One stage; the files it reads count by what is in them."""

    contents: str | None = None  # sha256 its files must have together; filled in

    def canonical(self) -> dict[str, Any]:
        """Return what decides the outcome: contents, not the paths that they are found at."""
        data = super().canonical()
        for key in COSMETIC:
            data.pop(key, None)
        return data


class _Tuning(StageSpec):
    """A stage that trains: names of its files decide nothing, what is in them does."""

    def canonical(self) -> dict[str, Any]:
        """Return what decides the outcome: contents, not the paths that they are found at."""
        data = super().canonical()
        data["data"] = {key: value for key, value in data["data"].items() if key != "paths"}
        if data.get("template") not in (None, "plain"):
            data["template"] = "own"
        return data


class SftStage(_Tuning, SftKeys):
    """Supervised fine-tuning of the model so far."""

    name: Literal["sft"]

    def of(self, label: str, model: Path, seed: int) -> Sft:
        """Return the stage on the model in a folder."""
        return Sft(name=label, model=str(model), seed=seed % 2**32, **_keys(self))


class DpoStage(_Tuning, DpoKeys):
    """Direct preference optimization of the model so far."""

    name: Literal["dpo"]

    def of(self, label: str, model: Path, seed: int) -> Dpo:
        """Return the stage on the model in a folder."""
        return Dpo(name=label, model=str(model), seed=seed % 2**32, **_keys(self))


class EvaluateStage(StageSpec):
    """A suite of tasks on the model so far; `eval/<task>/<metric>` are metrics of the run."""

    name: Literal["evaluate"]
    suite: Annotated[str, FromFile(*SUITES)] = "quick"  # or a folder of task files
    n_shot: Annotated[int, Field(ge=0, le=1000)] | None = None  # null = what the task says
    limit: Annotated[int, Field(ge=1)] | None = None  # the first questions of every task
    max_length: Annotated[int, Field(ge=2)] | None = None  # tokens; null = what the model knows
    bos: bool = True  # texts begin as the tokenizer begins them
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 32
    apply_chat_template: bool = False  # questions are what a user says, by the model's template
    fewshot_as_multiturn: bool = False  # with it: examples are turns of their own

    def canonical(self) -> dict[str, Any]:
        """Return what decides the outcome: contents, not the paths that they are found at."""
        data = super().canonical()
        return data if self.suite in SUITES else data | {"suite": "own"}


TunedStage = SftStage | DpoStage
AnyStage = Annotated[SftStage | DpoStage | EvaluateStage, Field(discriminator="name")]
Label = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Stages = dict[Label, AnyStage]
KINDS = ("sft", "dpo", "evaluate")


def by_label(document: Document) -> Document:
    """Return the document with its list of stages as a mapping, in order; marks move along."""
    listed = document.data.get("stages")
    if not isinstance(listed, list):
        return document
    found: dict[str, Any] = {}
    moved: dict[Place, Place] = {}
    for number, item in enumerate(listed):
        place: Place = ("stages", number)
        if item == "pretrain" and number == 0:
            continue
        if isinstance(item, str):
            what = "is the first stage" if item == "pretrain" else "needs its keys"
            raise document.wrong(place, f"{item} {what}; write for example - sft: {{data: ...}}.")
        if not isinstance(item, dict) or len(item) != 1:
            raise document.wrong(
                place, f"{item!r}; a stage is its label with its keys, - sft: {{data: ...}}."
            )
        ((label, keys),) = item.items()
        if label in found:
            raise document.wrong(place, f"there are two stages {label}; give one another label.")
        named = isinstance(keys, dict) and "name" not in keys and label in KINDS
        found[label] = {"name": label, **keys} if named else keys
        moved[(*place, label)] = ("stages", label)
    marks = dict(document.marks)
    for place, mark in document.marks.items():
        if place[:3] in moved:
            marks[(*moved[place[:3]], *place[3:])] = mark
    return Document({**document.data, "stages": found}, marks)


def filled_in(stages: Mapping[str, Any], document: Document) -> dict[str, Any]:
    """Return the stages with the contents of their files; raises `ConfigError` at its place.

    Files that are gone leave what was told of them: a finished run is read without them.
    """
    found = {}
    for label, stage in stages.items():
        here: Place = ("stages", label)
        _check(label, stage, list(stages), document, here)
        contents = stage.contents
        if (place := _absent(stage)) is None:
            contents = _contents(stage)
            if stage.contents not in (None, contents):
                said = f"{stage.contents[:12]} was asked for, but the files hold {contents[:12]}"
                raise document.wrong((*here, "contents"), f"{said}; they were changed.")
        elif contents is None:
            key, path = place
            raise document.wrong((*here, *key), f"there is no {path}.")
        found[label] = stage.model_copy(update={"contents": contents})
    return found


def _check(label: str, stage: Any, labels: list[str], document: Document, here: Place) -> None:
    if label in TAKEN:
        raise document.wrong(here, f"{label} is taken by metrics; give the stage another label.")
    if isinstance(stage, EvaluateStage):
        if label != labels[-1]:
            raise document.wrong(
                here, "evaluation is the last stage; what stands before it may be evaluated in a "
                "sweep of its own, which shares the runs."
            )  # fmt: skip
        return
    if stage.rows % stage.micro_rows:
        said = f"{stage.micro_rows} does not divide rows, {stage.rows}."
        raise document.wrong((*here, "micro_rows"), said)
    if isinstance(stage.method, Lora) and not stage.method.merge:
        said = "false leaves no weights to go on with; here adapters are always merged."
        raise document.wrong((*here, "method", "merge"), said)


def _opened(stage: Any) -> dict[Place, str]:
    """Return the paths of a stage as they are opened, by their places in it."""
    options = stage.options()
    if isinstance(stage, EvaluateStage):
        return {} if stage.suite in SUITES else {("suite",): str(options["suite"])}
    paths: dict[Place, str] = {
        ("data", "paths", n): str(path) for n, path in enumerate(options["data"].paths)
    }
    if stage.template not in (None, "plain"):
        paths["template",] = str(options["template"])
    return paths


def _absent(stage: Any) -> tuple[Place, str] | None:
    for place, path in _opened(stage).items():
        if not files_of(Path(path)):
            what = "folder of tasks" if place == ("suite",) else "file"
            return place, f"{what} {path}"
    return None


def _contents(stage: Any) -> str:
    paths = map(Path, _opened(stage).values())
    return contents_of(*paths, tasks=isinstance(stage, EvaluateStage))


def contents_of(*paths: Path, tasks: bool = True) -> str:
    """Return the sha256 over all files of these paths, and over those that task files name."""
    digest = hashlib.sha256()
    for path in paths:
        for file in files_of(path):
            digest.update(file_digest(file))
            if tasks and file.suffix == ".yaml":
                for other in _named_in(file):
                    digest.update(file_digest(other))
    return digest.hexdigest()


def _named_in(file: Path) -> list[Path]:
    """Return the data files that a task file names and that are there, by the text alone."""
    text = file.read_text(encoding="utf-8", errors="replace")
    names = dict.fromkeys(_FILES.findall(text))
    return [path for path in (file.parent / name for name in names) if path.is_file()]


def files_of(path: Path) -> list[Path]:
    """Return the files that a path, a folder or a pattern names, in the order of their names."""
    if path.is_file():
        return [path]
    if path.is_dir():
        found = (file for file in path.rglob("*") if not file.name.startswith("."))
    elif path.parent.is_dir():
        found = (file for file in path.parent.glob(path.name))
    else:
        return []
    return sorted(file for file in found if file.is_file() and "__pycache__" not in file.parts)


def _keys(stage: TunedStage) -> dict[str, Any]:
    """Return the keys that a stage in a file of its own has, too; paths as they are opened."""
    options = stage.options()
    options.pop("contents")
    options["data"] = options["data"].model_copy(
        update={"paths": [str(path) for path in options["data"].paths]}
    )
    if options["template"] is not None:
        options["template"] = str(options["template"])
    return options
