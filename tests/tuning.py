"""What the tests of fine-tuning share: a tiny released folder, small data, stages in Python."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")
pytest.importorskip("peft")

from hf_folders import load, tiny_folder
from torch import Tensor

from hymba_lab.config.tuning import KINDS, Dpo, Sft
from hymba_lab.finetune.run import finetune

STORE = Path(tempfile.mkdtemp(prefix="tuning"))
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CHATS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "system", "content": "count"},
            {"role": "user", "content": f"say {n}"},
            {"role": "assistant", "content": word},
            {"role": "user", "content": "again"},
            {"role": "assistant", "content": word * 2},
        ]
    }
    for n, word in enumerate(WORDS)
]
PAIRS = [{"prompt": f"say {n}", "chosen": w, "rejected": f"no {n}"} for n, w in enumerate(WORDS)]


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    """Write a record a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def stage_of(kind: str, place: Path, **values: Any) -> Sft | Dpo:
    """A stage on the tiny checkpoint, made where it is not there; `values` are keys of its file."""
    if not (place / "model").exists():
        tiny_folder(place / "model")
        lines(place / "chats.jsonl", CHATS * 4)
        lines(place / "pairs.jsonl", PAIRS * 4)
    data = {"paths": [str(place / ("chats.jsonl" if kind == "sft" else "pairs.jsonl"))]}
    if kind == "dpo":
        data["as_messages"] = True  # type: ignore[assignment]
    given = {
        "name": kind, "model": str(place / "model"), "data": data, "seq_len": 64, "lr": 3e-3,
        "rows": 4, "micro_rows": 2, "log_every": 1, "checkpoint_every": 2, "max_steps": 4,
    }  # fmt: skip
    return KINDS[kind].model_validate_json(json.dumps(given | values))


def tuned(stage: Sft | Dpo, out: Path, **options: Any) -> dict[str, Any]:
    """Run a stage without a word, with one MLflow store for all: a new one takes seconds."""
    quiet = {"told": lambda line: None, "root": STORE, "tracking_uri": f"sqlite:///{STORE}/m.db"}
    options = quiet | options
    return finetune(stage, out, **options)


def tensors(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder under the names of our modules."""
    return dict(load(folder).state_dict())
