"""The lab's cache under the names that `generate()` of transformers asks for."""

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
    is_linear = (False,)

    def __init__(self, net: LanguageModel, n_rows: int, n_tokens: int) -> None:
        """Raises `UserError` for a model that lies on several devices: the cache is on one."""
        if len(devices := {str(parameter.device) for parameter in net.parameters()}) > 1:
            raise UserError(
                f"the model lies on several devices ({', '.join(sorted(devices))}) and its cache "
                "on one; load it onto one, e.g. device_map={'': 0}, or generate with "
                "use_cache=False."
            )
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
        self.lab.take(beam_idx)

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
        return torch.cat([self.read(token[:, None]) for token in tokens.unbind(1)], dim=1)

    def _grow(self, n_new: int) -> None:
        """Move everything into a cache of at least twice the tokens."""
        n_rows = len(self.lab.rows.lengths)
        larger = self._net.cache(n_rows, 2 * self.lab.n_tokens + n_new)
        larger.take_over(self.lab, torch.arange(n_rows))
        self.lab = larger


def new_cache(net: LanguageModel, tokens: Tensor) -> GenerationCache:
    """Return a cache for a loop of the caller's own, whose length is not known."""
    with torch.no_grad():
        return GenerationCache(net, tokens.shape[0], 2 * tokens.shape[1] + 64)
