"""The lab's cache under the names that `generate()` of transformers asks for."""

from typing import Any

import torch
from torch import Tensor

from hymba_lab.errors import UserError
from hymba_lab.model import LanguageModel


class GenerationCache:
    """What a batch of rows keeps; made by the model, in the size that generation will need.

    A padded batch counts its columns (`get_seq_length`), the cache below counts each row's own
    tokens. Steps that outgrow it move it into a larger one.
    """

    is_compileable = False
    is_croppable = False
    is_sliding = is_linear = (False,)

    def __init__(self, net: LanguageModel, n_rows: int, n_tokens: int) -> None:
        self._net = net
        self.lab = net.cache(n_rows, n_tokens)
        self.seen = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many columns of the batch have been read."""
        return self.seen

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """Return how many tokens a row may hold."""
        return self.lab.n_tokens

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row b go on from row `beam_idx[b]`."""
        for buffer in self.lab._buffers:
            buffer.copy_(buffer.index_select(0, beam_idx.to(buffer.device)))
        rows = self.lab.rows
        rows.lengths = rows.lengths[beam_idx.cpu()]
        rows.last = rows.last[beam_idx.to(rows.last.device)]

    def read(self, tokens: Tensor, n_real: Tensor | None = None) -> Tensor:
        """Return the features (B, T, D) of tokens that continue those read before, and keep them.

        Of row b only the first `n_real[b]` are tokens (None = all).
        """
        rows, n_new = self.lab.rows, tokens.shape[1]
        if n_new > 1 and not rows.level:
            return self._one_by_one(tokens, n_real)
        if rows.longest + n_new - rows.n_meta * (not self.lab.is_empty) > self.lab.n_tokens:
            self._grow(n_new)
        return self._net.features(tokens, self.lab, n_real)

    def _one_by_one(self, tokens: Tensor, n_real: Tensor | None) -> Tensor:
        """Read a chunk after rows of unequal length: each row goes on from its own last token."""
        if n_real is not None:
            raise UserError(
                "rows of unequal length go on with padded rows: give every row as many new tokens, "
                "and leave prefill_chunk_size out."
            )
        return torch.cat([self.read(token) for token in tokens.split(1, dim=1)], dim=1)

    def _grow(self, n_new: int) -> None:
        """Move everything into a cache of at least twice the tokens."""
        old = self.lab
        self.lab = self._net.cache(len(old.rows.lengths), 2 * old.n_tokens + n_new)
        for mine, kept in zip(self.lab._buffers, old._buffers, strict=True):
            # keys and values (B, heads, slots, width) may have more slots now; text token t of a
            # ring that was not full lies in slot t, of a full ring in the same slot as before
            mine[..., : kept.shape[-2], :] = kept
        state: Any = {name: value for name, value in vars(old.rows).items()}
        vars(self.lab.rows).update(state)


def new_cache(net: LanguageModel, tokens: Tensor) -> GenerationCache:
    """Return a cache for a loop of the caller's own, whose length is not known."""
    with torch.no_grad():
        return GenerationCache(net, tokens.shape[0], 2 * tokens.shape[1] + 64)
