"""Where keys and values are kept: the meta tokens, then a ring of as many tokens as the window.

Text token t lies in slot n_meta + t mod ring, over the token that has just left the window; without
a window the ring is as long as the text. Slots are filled in the order of the tokens, so "which
slots hold a key" is a count, and since keys are kept after their rotation the order of the ring
does not matter. A buffer is (B, heads, slots, width).
"""

import torch
from torch import Tensor

from hymba_lab.model.rows import Rows


def extended(rows: Rows, kept: Tensor, new: Tensor) -> Tensor:
    """Keep the keys or values `new`; return those that the step sees, chunks oldest first."""
    if rows.single:
        _keep_single(rows, kept, new)
        return kept[:, :, : rows.longest]
    start, end = rows.start, rows.start + new.shape[2]
    if end <= kept.shape[2]:  # padding lands in slots that stay unseen until a token takes them
        kept[:, :, start:end] = new
        return kept[:, :, :end]
    seen = torch.cat([_before(rows, kept), new], dim=2) if start else new
    _keep_newest(rows, kept, new)
    return seen


def _keep_single(rows: Rows, kept: Tensor, new: Tensor) -> None:
    n_meta, ring = rows.n_meta, kept.shape[2] - rows.n_meta
    if rows.level:
        kept[:, :, n_meta + (rows.longest - 1 - n_meta) % ring] = new[:, :, 0]
    else:
        slot = n_meta + (rows.last - n_meta) % ring
        kept[torch.arange(len(slot), device=slot.device), :, slot] = new[:, :, 0]


def _before(rows: Rows, kept: Tensor) -> Tensor:
    """Return the meta tokens and the text kept before this chunk, oldest first."""
    n_meta, start = rows.n_meta, rows.start
    ring = kept.shape[2] - n_meta
    if start <= kept.shape[2]:
        return kept[:, :, :start]
    text = torch.arange(start - n_meta - ring, start - n_meta, device=kept.device) % ring
    meta = torch.arange(n_meta, device=kept.device)
    return kept.index_select(2, torch.cat([meta, n_meta + text]))


def _keep_newest(rows: Rows, kept: Tensor, new: Tensor) -> None:
    """Put into every slot of the ring its row's newest real token, where the chunk has it."""
    n_meta, start = rows.n_meta, rows.start
    if start == 0:
        kept[:, :, :n_meta] = new[:, :, :n_meta]
    ring = kept[:, :, n_meta:]
    slot = torch.arange(ring.shape[2], device=kept.device)
    last = rows.last[:, None] - n_meta  # (B, 1) newest text token
    newest = last - (last - slot) % len(slot)  # (B, slots) negative where there is none yet
    place = newest + n_meta - start  # in the chunk; negative for a token kept already
    comes = ((newest >= 0) & (place >= 0))[:, None, :, None]
    source = place.clamp(min=0)[:, None, :, None]
    source = source.expand(-1, new.shape[1], -1, new.shape[3])
    ring.copy_(torch.where(comes, new.gather(2, source), ring))
