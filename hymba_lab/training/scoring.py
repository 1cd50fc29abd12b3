"""From a batch to losses: only the positions that are scored cost logits."""

from typing import NamedTuple

import torch
from torch import Tensor

from hymba_lab.data.source import IGNORED, Batch
from hymba_lab.model import LanguageModel
from hymba_lab.ops.cross_entropy import linear_cross_entropy


class Scored(NamedTuple):
    """A batch with its scored positions picked out; S is how many there are."""

    tokens: Tensor
    """(B, T) int64."""
    at: Tensor
    """(S,) int64: the scored positions of the flattened batch, in order."""
    targets: Tensor
    """(S,) int64: what to predict there."""
    starts: Tensor | None = None
    """(B, T) bool: where documents begin that see nothing earlier; None = nowhere."""

    def to(self, device: torch.device) -> "Scored":
        """Return it on another device."""
        starts = None if self.starts is None else self.starts.to(device)
        return Scored(self.tokens.to(device), self.at.to(device), self.targets.to(device), starts)


def pick(batch: Batch) -> Scored:
    """Return the batch with its scored positions."""
    targets = batch.targets.flatten()
    at = (targets != IGNORED).nonzero().squeeze(1)
    return Scored(batch.tokens, at, targets[at], batch.starts)


def scored_features(model: LanguageModel, batch: Scored) -> Tensor:
    """Return the features (S, D) of the scored positions."""
    # index_select, because the backward of fancy indexing is several times slower on a CPU
    features = model.features(batch.tokens, starts=batch.starts)
    return features.flatten(0, 1).index_select(0, batch.at)


def scored_logits(model: LanguageModel, batch: Scored) -> Tensor:
    """Return the float32 logits (S, vocab) of the scored positions."""
    return model.logits(scored_features(model, batch)).float()


def batch_loss(
    model: LanguageModel,
    batch: Scored,
    counts: list[int],
    whole: list[int] | None = None,
    n_ranks: int = 1,
) -> tuple[Tensor, Tensor]:
    """Return the mean over labels of their losses, and the losses (n_labels,) without gradient.

    A label's loss is the mean cross-entropy [nats] of its scored positions; `counts` says how many
    of the S positions belong to each label, in order. A part of a larger batch divides by the
    counts `whole` of all of it, so that the losses of the parts add up; the first return value is
    then `n_ranks` times its share, for gradients that ranks average.
    """
    whole = whole or counts
    loss, each = linear_loss(model, batch, shares(counts, whole, batch.at.device, n_ranks))
    return loss, by_label(each, counts, whole)


def linear_loss(model: LanguageModel, batch: Scored, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return sum_i share_i l_i and l (S,), the cross-entropies [nats], without gradient."""
    return linear_cross_entropy(
        scored_features(model, batch), model.head_weight, batch.targets, share
    )


def shares(counts: list[int], whole: list[int], device: torch.device, n_ranks: int = 1) -> Tensor:
    """Return what each scored position weighs in the loss (S,): of label l R / (L whole_l)."""
    each = [n_ranks / (all_of_it * len(counts)) for all_of_it in whole]
    parts = [torch.full((n,), x, device=device) for n, x in zip(counts, each, strict=True)]
    return torch.cat(parts)


def by_label(each: Tensor, counts: list[int], whole: list[int]) -> Tensor:
    """Return the part's share of every label's mean loss (n_labels,), from losses (S,)."""
    parts = zip(torch.split(each, counts), whole, strict=True)
    return torch.stack([part.sum() / all_of_it for part, all_of_it in parts])
