"""A stage's YAML as a checked `Sft` or `Dpo`, its paths absolute."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hymba_lab.config import load_document
from hymba_lab.config.messages import checked
from hymba_lab.config.shipped import shipped
from hymba_lab.config.tuning import KINDS, Dpo, Sft

SHIPPED = "experiments/post_training"


def load_stage(kind: str, file: Path, overrides: Sequence[str] = ()) -> Sft | Dpo:
    """Return the stage of a file (or shipped name) of this kind: `sft` or `dpo`.

    Paths are relative to the file that names them, those of `--set` to the working folder. Raises
    `ConfigError` with file:line:column.
    """
    schema = KINDS[kind]
    document = load_document(shipped(file, SHIPPED), overrides)
    stage = checked(document, schema)
    if stage.rows % stage.micro_rows:
        said = f"{stage.micro_rows} does not divide rows, {stage.rows}."
        raise document.wrong(["micro_rows"], said)
    at = document.located
    paths = [at(path, "data", "paths", number) for number, path in enumerate(stage.data.paths)]
    changed: dict[str, Any] = {
        "model": at(stage.model, "model"),
        "data": stage.data.model_copy(update={"paths": paths}),
    }
    if not Path(changed["model"]).is_dir():
        raise document.wrong(
            ["model"],
            f"there is no folder {changed['model']}; name that of a checkpoint, of a run, or of "
            "the stage before (which has to be trained first).",
        )
    if stage.out is not None:
        changed["out"] = at(stage.out, "out")
    if stage.template not in (None, "plain"):
        changed["template"] = at(str(stage.template), "template")
    return stage.model_copy(update=changed)
