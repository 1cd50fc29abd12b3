"""A stage's YAML as a checked `Sft` or `Dpo`, its paths absolute."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hymba_lab.config import load_document
from hymba_lab.config.messages import explain
from hymba_lab.config.shipped import shipped
from hymba_lab.errors import ConfigError
from hymba_lab.finetune.schema import KINDS, Dpo, Sft

SHIPPED = "experiments/post_training"


def load_stage(kind: str, file: Path, overrides: Sequence[str] = ()) -> Sft | Dpo:
    """Return the stage of a file (or shipped name) of this kind: `sft` or `dpo`.

    Paths are relative to the file that names them, those of `--set` to the working folder. Raises
    `ConfigError` with file:line:column.
    """
    schema = KINDS[kind]
    document = load_document(shipped(file, SHIPPED), overrides)
    try:
        stage = schema.model_validate_json(json.dumps(document.data))
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, document, schema))) from None
    if stage.rows % stage.micro_rows:
        raise ConfigError(
            f"{document.where(['micro_rows'])}: micro_rows: {stage.micro_rows} does not divide "
            f"rows, {stage.rows}."
        )

    def at(path: str, *place: str | int) -> str:
        folder = document.folder(place) or Path.cwd()
        return str(folder / Path(path).expanduser())

    paths = [at(path, "data", "paths", number) for number, path in enumerate(stage.data.paths)]
    changed: dict[str, Any] = {
        "model": at(stage.model, "model"),
        "data": stage.data.model_copy(update={"paths": paths}),
    }
    if not Path(changed["model"]).is_dir():
        raise ConfigError(
            f"{document.where(['model'])}: model: there is no folder {changed['model']}; name that "
            "of a checkpoint, of a run, or of the stage before (which has to be trained first)."
        )
    if stage.out is not None:
        changed["out"] = at(stage.out, "out")
    if stage.template not in (None, "plain"):
        changed["template"] = at(str(stage.template), "template")
    return stage.model_copy(update=changed)
