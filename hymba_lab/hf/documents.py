"""Padded and packed batches as rows of one document each, padding behind: what the model reads.

Padding behind a text needs no care, since the model is causal. Padding in front, holes, and several
documents in one row do: the states of an SSM and the meta tokens belong to one document.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hymba_lab.errors import UserError


class Documents(NamedTuple):
    """N documents of a batch (B, T)."""

    tokens: Tensor
    """(N, L) ids, 0 behind a document."""
    lengths: Tensor
    """(N,) tokens of each."""
    real: Tensor
    """(B, T) bool: where the batch holds a token."""
    document: Tensor
    """(R,) for each of the R real places, in order: its document."""
    offset: Tensor
    """(R,) and its place there."""

    def back(self, features: Tensor) -> Tensor:
        """Return features (N, L, D) at their places in the batch (B, T, D), 0 at padding."""
        batch = features.new_zeros((*self.real.shape, features.shape[-1]))
        batch[self.real] = features[self.document, self.offset]
        return batch


def needs_care(mask: Tensor | None, starts: Tensor | None) -> bool:
    """Return whether a batch has padding in front or inside, or several documents in a row."""
    if starts is not None and bool(starts[:, 1:].any()):
        return True
    return mask is not None and bool((mask[:, 1:] > mask[:, :-1]).any())


def several(mask: Tensor | None, starts: Tensor | None) -> bool:
    """Return whether some row holds more than one document; what stands at padding counts not."""
    if starts is None:
        return False
    real = torch.ones_like(starts) if mask is None else mask.to(starts.device).bool()
    return bool((starts & real & (real.cumsum(1) > 1)).any())


def split(ids: Tensor, mask: Tensor | None, starts: Tensor | None) -> Documents:
    """Return the documents of a batch: a row's first token begins one, and so does each start.

    `ids` (B, T); `mask` (B, T) is 1 at tokens (None = everywhere); `starts` (B, T) bool.
    """
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.to(ids.device).bool()
    first = real & (real.cumsum(1) == 1)
    begins = first if starts is None else first | (starts & real)
    begins, places = begins[real], torch.arange(int(real.sum()), device=ids.device)
    document = begins.cumsum(0) - 1
    starting = places[begins]
    offset = places - starting[document]
    lengths = torch.bincount(document, minlength=1)
    tokens = ids.new_zeros((len(lengths), int(lengths.max())))
    tokens[document, offset] = ids[real]
    return Documents(tokens, lengths, real, document, offset)


def starts_of(
    position_ids: Tensor | None, seq_idx: Tensor | None, cu_seq_lens: Tensor | None, ids: Tensor
) -> Tensor | None:
    """Return where documents begin (B, T), None where nothing says that there are several.

    Packed rows say it as positions that start again at 0, as the number of each token's sequence
    (`seq_idx`), or as cumulated lengths of the flattened batch.
    """
    if position_ids is not None:
        return (position_ids == 0).expand_as(ids)
    if seq_idx is not None:
        seq_idx = seq_idx.expand_as(ids)
        return torch.cat([seq_idx[:, :1] == seq_idx[:, :1], seq_idx.diff(dim=1) != 0], dim=1)
    if cu_seq_lens is not None:
        starts = torch.zeros_like(ids, dtype=torch.bool).flatten()
        inside = cu_seq_lens[cu_seq_lens < len(starts)].long()
        starts[inside] = True
        return starts.view_as(ids)
    return None


def check_positions(position_ids: Tensor, documents: Documents) -> None:
    """Raise `UserError` where positions are not 0, 1, 2, ... in every document."""
    given = position_ids.expand_as(documents.real)[documents.real]
    wrong = torch.nonzero(given != documents.offset).flatten()
    if len(wrong):
        at = int(wrong[0])
        raise UserError(
            f"position_ids holds {int(given[at])} where token {int(documents.offset[at])} of a "
            "document stands; positions count 0, 1, 2, ... from the start of every document, and "
            "0 begins the next. Leave position_ids out for rows of one document."
        )
