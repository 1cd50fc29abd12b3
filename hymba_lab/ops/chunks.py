"""Sequences cut into chunks: (B, T, H, W) <-> (n, B * H, C, W), filled up with zeros.

n chunks of C tokens come first, so that one chunk of all rows and heads is one dense batch of
matrices.
"""

import torch.nn.functional as F
from torch import Tensor

GRAIN = 8  # a chunk is a multiple of this long [tokens]


def length(n_tokens: int, longest: int) -> int:
    """Return the length of chunks of equal length, at most `longest`, with little filling."""
    n_chunks = max(1, -(-n_tokens // longest))
    return max(GRAIN, -(-n_tokens // (n_chunks * GRAIN)) * GRAIN)


def split(x: Tensor, n_chunk: int) -> Tensor:
    """(B, T, H, W) -> (n, B * H, n_chunk, W), dense; zeros after the last token."""
    n_batch, n_time, n_heads, width = x.shape
    n = max(1, -(-n_time // n_chunk))
    if n * n_chunk > n_time:
        x = F.pad(x, (0, 0, 0, 0, 0, n * n_chunk - n_time))
    x = x.reshape(n_batch, n, n_chunk, n_heads, width).permute(1, 0, 3, 2, 4)
    return x.reshape(n, n_batch * n_heads, n_chunk, width)


def join(x: Tensor, n_batch: int, n_time: int) -> Tensor:
    """(n, B * H, C, W) -> (B, T, H, W), dense, without the filling."""
    n, n_both, n_chunk, width = x.shape
    x = x.view(n, n_batch, n_both // n_batch, n_chunk, width).permute(1, 0, 3, 2, 4)
    return x.reshape(n_batch, n * n_chunk, -1, width)[:, :n_time]
