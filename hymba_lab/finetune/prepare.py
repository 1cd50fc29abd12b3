"""From a stage's files to the rows that are trained on."""

import random
from dataclasses import dataclass
from typing import Any

from hymba_lab.config.tuning import Dpo, Sft
from hymba_lab.errors import DataError
from hymba_lab.finetune.encode import IGNORED, Encoder
from hymba_lab.finetune.examples import examples
from hymba_lab.finetune.start import Start
from hymba_lab.finetune.template import template_for


@dataclass(frozen=True)
class Prepared:
    """Rows as `datasets.Dataset`, and what is in them."""

    train: Any
    val: Any  # None where nothing is held out
    n_examples: int
    n_tokens: int  # read in one epoch, padding aside
    n_learned: int  # of them carry a loss
    n_cut: int
    n_dropped: int
    longest: int  # tokens of one example, or of a wrapped row

    @property
    def n_rows(self) -> int:
        """Rows of one epoch."""
        return len(self.train)


def prepare(stage: Sft | Dpo, start: Start) -> Prepared:
    """Read, check, encode and pack everything; raises `DataError` at the first fault."""
    template = template_for(start.tokenizer, stage.template, str(start.folder))
    if start.longest is not None and stage.seq_len > start.longest:
        raise DataError(
            f"seq_len: {stage.seq_len} tokens; the model's positions are made for {start.longest}."
        )
    wrapped = isinstance(stage, Sft) and stage.packing == "wrapped"
    encoder = Encoder(
        start.tokenizer, template, None if wrapped else stage.seq_len, stage.data.too_long,
        everything=isinstance(stage, Sft) and stage.loss_on == "everything",
    )  # fmt: skip
    found = examples(stage.data.paths, stage.data.format, stage.data.as_messages)
    if isinstance(stage, Sft):
        rows: list[Any] = [dict(input_ids=i, labels=j) for i, j in encoder.labelled(found)]
    else:
        rows = [
            dict(prompt_ids=p, chosen_ids=c, rejected_ids=r) for p, c, r in encoder.pairs(found)
        ]
    train, val = _held_out(rows, stage)
    packing = stage.packing if isinstance(stage, Sft) else None
    return Prepared(
        _dataset(train, packing, stage.seq_len),
        _dataset(val, packing, stage.seq_len) if val else None,
        len(train),
        sum(map(_n_tokens, train)),
        sum(map(_n_learned, train)),
        encoder.n_cut,
        encoder.n_dropped,
        stage.seq_len if wrapped else max(map(_length, train)),
    )


def _held_out(rows: list[Any], stage: Sft | Dpo) -> tuple[list[Any], list[Any]]:
    """Shuffle by the seed; return what is trained on and what is not."""
    rows = list(rows)
    random.Random(stage.seed).shuffle(rows)
    share = stage.data.val_fraction
    n_val = max(1, round(share * len(rows))) if share else 0
    if len(rows) <= n_val:
        raise DataError(
            f"{', '.join(stage.data.paths)}: {len(rows)} examples fit into {stage.seq_len} tokens"
            + (f", of which {n_val} are held out" if n_val else "")
            + ": nothing is left to train on."
        )
    return rows[n_val:], rows[:n_val]


def _dataset(rows: list[Any], packing: str | None, seq_len: int) -> Any:
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    made = Dataset.from_list(rows)
    return pack_dataset(made, seq_len, packing) if packing else made


def _length(row: dict[str, list[int]]) -> int:
    if "input_ids" in row:
        return len(row["input_ids"])
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def _n_tokens(row: dict[str, list[int]]) -> int:
    if "input_ids" in row:
        return len(row["input_ids"])
    return 2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])


def _n_learned(row: dict[str, list[int]]) -> int:
    if "labels" in row:
        return sum(label != IGNORED for label in row["labels"])
    return len(row["chosen_ids"]) + len(row["rejected_ids"])
