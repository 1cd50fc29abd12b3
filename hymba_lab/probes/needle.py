"""Needle accuracy by depth and length, beyond the training length too (figure 10)."""

from collections.abc import Iterator
from typing import Any

import torch

from hymba_lab.config import Config
from hymba_lab.data.needle import Needle
from hymba_lab.data.source import Mixture
from hymba_lab.model import LanguageModel
from hymba_lab.training.scoring import pick, scored_logits

DEPTHS = [0.0, 0.25, 0.5, 0.75, 1.0]
TIMES = (1, 2, 4, 8)  # the training length
ROWS = 64  # per depth and length
DISTRACTORS = 3  # other pairs in a row, where the run was trained on no needle of its own


def needle_lines(
    model: LanguageModel, config: Config, mixture: Mixture
) -> Iterator[dict[str, Any]]:
    """Yield length, depth, trained_length, n, chance, value, answered of every cell.

    A run trained on a needle is asked in its own terms: same ids, noise and distractors. One that
    was trained on MQAR is asked in that task's ids: filler 0, three other pairs in random places,
    the needle's key at the end; new to it is where the pairs stand and how far back. `value` is how
    often the answer is right, `answered` how often it is a value of the row at all, `chance` a
    guess among those. A run trained on neither yields nothing.
    """
    trained = config.training.seq_len
    for times in TIMES:
        length = trained * times
        made = _task(config, mixture, length)
        if made is None:
            return
        task, ids = made
        cells = zip(
            task.depths, *(part.tolist() for part in _shares(model, task, ids)), strict=True
        )
        for depth, right, answered in cells:
            yield {
                "length": length, "depth": depth, "trained_length": trained, "n": ROWS,
                "chance": task.reference["accuracy_seen"], "value": right, "answered": answered,
            }  # fmt: skip


@torch.no_grad()
def _shares(
    model: LanguageModel, task: Needle, ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the shares of right answers and of answers that are a value of the row (n_depths,)."""
    right, answered = torch.zeros(2, len(task.depths))
    for batch in task.val_batches():
        scored, tokens = pick(batch), ids[batch.tokens]
        answers = scored_logits(model, scored._replace(tokens=tokens)).argmax(-1)
        right.index_add_(0, batch.group, (answers == ids[scored.targets]).float())
        named = (tokens == answers[:, None]) & (batch.tokens >= task.first_value)
        answered.index_add_(0, batch.group, named.any(1).float())
    return right / ROWS, answered / ROWS


def _task(config: Config, mixture: Mixture, length: int) -> tuple[Needle, torch.Tensor] | None:
    """Return the task and the model's id of each of its ids."""
    for label, spec in config.data.items():
        offset, options = mixture.offsets[label], spec.options()
        if spec.name == "needle":
            task = _needle(length, options["vocab"], options["n_distractors"])
            return task, torch.arange(task.vocab) + offset
        if spec.name == "mqar":
            task = _needle(length, options["vocab"], DISTRACTORS)
            return task, _in_mqar(task) + offset
    return None


def _needle(length: int, vocab: int, n_distractors: int) -> Needle:
    n_keys, slots = 3 * vocab // 4 - vocab // 2, (length - 1) // 2
    n_distractors = min(n_distractors, n_keys - 1, slots - 1)
    rows = len(DEPTHS) * max(1, 4096 // length)  # a batch of a few thousand tokens per depth
    return Needle(
        length, rows=rows, depths=DEPTHS, n_distractors=n_distractors, vocab=vocab, n_val=ROWS
    )


def _in_mqar(task: Needle) -> torch.Tensor:
    """Return (vocab,): noise becomes the filler 0, keys 1, 2, ..., values V/2, V/2 + 1, ..."""
    ids = torch.zeros(task.vocab, dtype=torch.long)
    n_keys, n_values = task.first_value - task.first_key, task.vocab - task.first_value
    ids[task.first_key : task.first_value] = torch.arange(1, 1 + n_keys)
    ids[task.first_value :] = task.vocab // 2 + torch.arange(n_values)
    return ids
