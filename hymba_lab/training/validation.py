"""Metrics of a model over the fixed validation sets, every scored position counted once."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from hymba_lab.data.source import IGNORED, Batch, Mixture, Source
from hymba_lab.errors import DataError
from hymba_lab.model import LanguageModel
from hymba_lab.ops.cross_entropy import rows_at_once
from hymba_lab.training.parts import some_rows
from hymba_lab.training.scoring import Scored, pick, scored_features
from hymba_lab.training.world import summed, world


class Tally:
    """Sums over the scored positions of one label, by difficulty (G groups)."""

    def __init__(self, n_groups: int, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.count = torch.zeros(n_groups, dtype=torch.int64, device=device)
        self.right = torch.zeros(n_groups, dtype=torch.int64, device=device)
        self.losses = torch.zeros(n_groups, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, targets: Tensor, group: Tensor) -> None:
        """Count positions with logits (S, vocab), targets (S,) and groups (S,)."""
        each = F.cross_entropy(logits, targets, reduction="none").double()
        self.loss += each.sum()
        self.losses.index_add_(0, group, each)
        self.count.index_add_(0, group, torch.ones_like(group))
        self.right.index_add_(0, group, (logits.argmax(-1) == targets).long())

    def gather(self) -> None:
        """Add what the other ranks have counted."""
        self.loss, self.count, self.right = map(summed, (self.loss, self.count, self.right))
        self.losses = summed(self.losses)


@torch.no_grad()  # not inference_mode: a mask cached now may serve a training step later
def evaluate(
    model: LanguageModel, mixture: Mixture, device: torch.device, micro_rows: int | None = None
) -> dict[str, float]:
    """Return the metrics `val/...` of a model that is in evaluation mode.

    `val/<label>_loss` is the mean cross-entropy [nats] over all scored positions of the label, and
    `val/loss` the mean over labels. Recall tasks add `val/<label>_accuracy`, over all positions and
    per group (`/<group>`, left out where nothing of it was scored). Text adds
    `val/<label>_bits_per_byte` = loss / ln 2 / (bytes per token), and of several corpora both per
    corpus (`/<corpus>`). Several ranks share the rows of
    every batch and end with the same metrics. `micro_rows` is the most rows that are computed at
    once, as in training; None all of a batch.
    """
    tallies = {
        label: Tally(len(source.groups), device) for label, source in mixture.sources.items()
    }
    for label, whole in mixture.val_batches():
        for batch in _of_this_rank(whole, micro_rows):
            scored = pick(batch).to(device)
            group = _group_of_each(batch, scored)
            _add_in_parts(tallies[label], model, scored, group)
    metrics: dict[str, float] = {}
    for label, tally in tallies.items():
        tally.gather()
        metrics |= _metrics(label, mixture.sources[label], tally)
    losses = [metrics[f"val/{label}_loss"] for label in tallies]
    return {"val/loss": math.fsum(losses) / len(losses), **metrics}


def _add_in_parts(tally: Tally, model: LanguageModel, batch: Scored, group: Tensor) -> None:
    """Count a batch with as many logits at a time as training holds."""
    features = scored_features(model, batch)
    step = rows_at_once(len(model.head_weight), features.device.type)
    for begin in range(0, len(features), step):
        part = slice(begin, begin + step)
        tally.add(model.logits(features[part]).float(), batch.targets[part], group[part])


def curve_areas(history: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Return `<metric>_auc` of every label's metric: its validations' mean, weighted by steps.

    A task that is learned in a jump is at 0 or 1 in the end; the area says when it jumped.
    """
    names = [name for name in history[-1][1] if name.count("/") == 1]
    steps = [0, *(step for step, _ in history)]
    spans = [end - start for start, end in pairwise(steps)]
    return {
        f"{name}_auc": sum(
            span * metrics[name] for span, (_, metrics) in zip(spans, history, strict=True)
        )
        / steps[-1]
        for name in names
    }


def metric_names(mixture: Mixture) -> list[str]:
    """Return the names of the metrics that a run on this data ends with, before it is made."""
    each = ["val/loss"]
    groups = []
    for label, source in mixture.sources.items():
        each.append(f"val/{label}_loss")
        if source.scored == "accuracy":
            each.append(f"val/{label}_accuracy")
            groups += [f"val/{label}_accuracy/{group}" for group in source.groups]
        if source.bytes_per_token is not None:
            each.append(f"val/{label}_bits_per_byte")
        if hasattr(source, "group_bytes_per_token"):
            kinds = (f"val/{label}_loss", f"val/{label}_bits_per_byte")
            groups += [f"{kind}/{group}" for group in source.groups for kind in kinds]
    return [*each, *groups, *(f"{name}_auc" for name in each)]


def _of_this_rank(batch: Batch, micro_rows: int | None) -> Iterator[Batch]:
    """Every R-th row, so many at a time; ranks wait for each other, so each has as many parts: one
    for which no row is left computes one along that scores nothing.
    """
    place = world()
    mine = some_rows(batch, slice(place.rank, None, place.n_ranks))
    most = -(-len(batch.tokens) // place.n_ranks)
    at_once = micro_rows or most
    for first in range(0, most, at_once):
        part = some_rows(mine, slice(first, first + at_once))
        if not len(part.tokens):
            spare = some_rows(batch, slice(1))
            part = spare._replace(targets=torch.full_like(spare.targets, IGNORED))
        yield part


def _group_of_each(batch: Batch, scored: Scored) -> Tensor:
    """Return the group (S,) of every scored position: that of its row."""
    group: Tensor = batch.group.to(scored.at.device)[scored.at // batch.tokens.shape[1]]
    return group


def _metrics(label: str, source: Source, tally: Tally) -> dict[str, float]:
    counts, rights = tally.count.tolist(), tally.right.tolist()
    if not sum(counts):
        raise DataError(f"data.{label}: the validation set scores no position; nothing to measure.")
    loss = tally.loss.item() / sum(counts)
    metrics = {f"val/{label}_loss": loss}
    if source.scored == "accuracy":
        metrics[f"val/{label}_accuracy"] = sum(rights) / sum(counts)
        for group, right, count in zip(source.groups, rights, counts, strict=True):
            if count:
                metrics[f"val/{label}_accuracy/{group}"] = right / count
    if source.bytes_per_token is not None:
        metrics[f"val/{label}_bits_per_byte"] = loss / math.log(2) / source.bytes_per_token
    return metrics | _of_corpora(label, source, tally)


def _of_corpora(label: str, source: Source, tally: Tally) -> dict[str, float]:
    """Return the loss and the bits per byte of each corpus of a source that has several."""
    metrics = {}
    sizes = getattr(source, "group_bytes_per_token", ())
    sums = zip(source.groups, sizes, tally.losses.tolist(), tally.count.tolist(), strict=False)
    for group, n_bytes, total, count in sums:
        metrics[f"val/{label}_loss/{group}"] = total / count
        metrics[f"val/{label}_bits_per_byte/{group}"] = total / count / math.log(2) / n_bytes
    return metrics
