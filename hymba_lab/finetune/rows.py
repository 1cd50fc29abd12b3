"""From a stage's files to rows of ids: what is trained on, and what is held out."""

import random
from dataclasses import dataclass
from typing import Any

from hymba_lab.config.tuning import Dpo, Sft
from hymba_lab.errors import DataError
from hymba_lab.finetune.encode import Encoder
from hymba_lab.finetune.examples import examples
from hymba_lab.finetune.template import template_for


@dataclass(frozen=True)
class Rows:
    """Examples as ids, shuffled by the stage's seed; too long ones are cut or dropped."""

    train: list[dict[str, list[int]]]
    val: list[dict[str, list[int]]]
    n_cut: int
    n_dropped: int


def rows_of(stage: Sft | Dpo, tokenizer: Any, whose: str) -> Rows:
    """Read, check and encode everything; raises `DataError` at the first fault.

    `tokenizer` is one of transformers, with the chat template of the model `whose`; it gets the
    stage's own, where that has one.
    """
    template = template_for(tokenizer, stage.template, whose)
    encoder = Encoder(
        tokenizer, template, None if is_wrapped(stage) else stage.seq_len, stage.data.too_long,
        everything=isinstance(stage, Sft) and stage.loss_on == "everything",
    )  # fmt: skip
    found = examples(stage.data.paths, stage.data.format, stage.data.as_messages)
    if isinstance(stage, Sft):
        rows = [dict(input_ids=i, labels=j) for i, j in encoder.labelled(found)]
    else:
        rows = [
            dict(prompt_ids=p, chosen_ids=c, rejected_ids=r) for p, c, r in encoder.pairs(found)
        ]
    train, val = _held_out(rows, stage)
    return Rows(train, val, encoder.n_cut, encoder.n_dropped)


def is_wrapped(stage: Sft | Dpo) -> bool:
    """Whether rows are cut from the examples one after the other, whatever their lengths."""
    return isinstance(stage, Sft) and stage.packing == "wrapped"


def _held_out(rows: list[Any], stage: Sft | Dpo) -> tuple[list[Any], list[Any]]:
    """Shuffle by the seed; return what is trained on and what is not."""
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
