"""From a stage's files to the rows that are trained on."""

from dataclasses import dataclass
from typing import Any

from hymba_lab.config.tuning import Dpo, Sft
from hymba_lab.errors import DataError
from hymba_lab.finetune.encode import IGNORED
from hymba_lab.finetune.rows import is_wrapped, rows_of
from hymba_lab.finetune.start import Start


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
    if start.longest is not None and stage.seq_len > start.longest:
        raise DataError(
            f"seq_len: {stage.seq_len} tokens; the model's positions are made for {start.longest}."
        )
    rows = rows_of(stage, start.tokenizer, str(start.folder))
    packing = stage.packing if isinstance(stage, Sft) else None
    return Prepared(
        _dataset(rows.train, packing, stage.seq_len),
        _dataset(rows.val, packing, stage.seq_len) if rows.val else None,
        len(rows.train),
        sum(map(_n_tokens, rows.train)),
        sum(map(_n_learned, rows.train)),
        rows.n_cut,
        rows.n_dropped,
        stage.seq_len if is_wrapped(stage) else max(map(_length, rows.train)),
    )


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
